//! What is remembered of forwarded answers, and for how long.

use std::time::Duration;

use super::zones::Zones;

#[derive(Debug, Clone, PartialEq)]
pub struct Cache {
    /// Only names of these zones.
    pub zones: Zones,
    pub success: Stored,
    pub denial: Stored,
    /// How long a failure of the upstream is remembered.
    pub servfail: Duration,
    pub prefetch: Option<Prefetch>,
    pub serve_stale: Option<ServeStale>,
    /// Tell clients the TTL that was stored, not what is left of it.
    pub keep_ttl: bool,
}

/// Answers of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// As many answers as that; 0 stores none.
    pub capacity: usize,
    pub min_ttl: Duration,
    pub max_ttl: Duration,
    /// Names that are not stored.
    pub except: Zones,
}

/// Popular answers are asked for again before they expire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefetch {
    /// UpstreamQuery for so often ...
    pub amount: u32,
    /// ... with no gap longer than that.
    pub duration: Duration,
    /// Of the TTL, what is left when it is time.
    pub percentage: u8,
}

/// Expired answers serve on while the upstream fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeStale {
    pub duration: Duration,
    pub verify: Verify,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verify {
    /// Answer at once and ask the upstream behind the client's back.
    Immediate,
    /// Ask the upstream first, for no longer than this when one is given.
    First(Option<Duration>),
}

const CAPACITY: usize = 9984;
const MIN_TTL: Duration = Duration::from_secs(5);
const MAX_SUCCESS: Duration = Duration::from_secs(3600);
const MAX_DENIAL: Duration = Duration::from_secs(1800);

impl Default for Cache {
    fn default() -> Self {
        let stored =
            |max_ttl| Stored { capacity: CAPACITY, min_ttl: MIN_TTL, max_ttl, except: Zones::default() };
        Self {
            zones: Zones::all(),
            success: stored(MAX_SUCCESS),
            denial: stored(MAX_DENIAL),
            servfail: Duration::from_secs(5),
            prefetch: None,
            serve_stale: None,
            keep_ttl: false,
        }
    }
}

impl Cache {
    /// `cache SECONDS`: nothing is kept for longer.
    pub fn capped_at(ttl: Duration) -> Self {
        let mut cache = Self::default();
        cache.success.max_ttl = ttl;
        cache.denial.max_ttl = ttl;
        cache
    }
}
