//! The choice of the records that can fit in a reply, so that the work of an answer does not grow with the number of
//! endpoints.

/// The largest message.
const MAX_MESSAGE: usize = 65_535;
/// The least octets of a record: the root as owner, the fixed fields, and the data.
const A: usize = 11 + 4;
const AAAA: usize = 11 + 16;
const SRV: usize = 11 + 6 + 1;
/// With fewer SRV records, the number of all targets must be known: it determines their weight.
const MIN_SRV: usize = 100;

/// Selects consecutive records from a position, which wraps around. With random positions all records are selected
/// equally often.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    /// The limit of the reply, in octets.
    pub octets: usize,
    /// The position, as a fraction of 2^32 of the number of records. Unused if all records are selected.
    pub position: u32,
}

impl Default for Selection {
    /// All records that fit in the largest message, from the first on.
    fn default() -> Self {
        Self { octets: MAX_MESSAGE, position: 0 }
    }
}

impl Selection {
    pub const ALL: Self = Self { octets: usize::MAX, position: 0 };

    pub fn of_a(self) -> Window {
        self.window(A, 0)
    }

    pub fn of_aaaa(self) -> Window {
        self.window(AAAA, 0)
    }

    pub fn of_srv(self) -> Window {
        self.window(SRV, MIN_SRV)
    }

    fn window(self, least: usize, min: usize) -> Window {
        // One more than fits, so that the reply is truncated.
        Window { records: (self.octets / least).max(min) + 1, position: self.position }
    }
}

/// A [`Selection`] of records of one type.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// The limit of records.
    pub records: usize,
    position: u32,
}

impl Window {
    pub fn times(self, factor: usize) -> Self {
        Self { records: self.records.saturating_mul(factor), ..self }
    }

    /// The index of the first record, of `count`.
    pub fn start(self, count: usize) -> usize {
        if count <= self.records {
            return 0;
        }
        let scaled = (u128::from(self.position) * count as u128) >> 32;
        usize::try_from(scaled).unwrap_or_default()
    }

    pub fn select<T>(self, records: &[T]) -> impl Iterator<Item = &T> {
        let (before, from) = records.split_at(self.start(records.len()));
        from.iter().chain(before).take(self.records)
    }
}
