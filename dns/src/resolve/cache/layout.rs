//! The fields of a cached message that differ from reply to reply, so that its octets serve without being decoded.

use crate::resolve::decode::end_of_name;

const HEADER: usize = 12;
/// Type and class of a question.
const QUESTION_TAIL: usize = 4;
/// Type, class, TTL and length of a record.
const RECORD_TAIL: usize = 10;
const A: u16 = 1;
const MX: u16 = 15;
const AAAA: u16 = 28;
const OPT: u16 = 41;

#[derive(Debug)]
pub(super) struct Layout {
    /// Offsets of the TTLs.
    ttls: Box<[u16]>,
    /// Offsets of the addresses, if there are several.
    addresses: Box<[u16]>,
    /// The length of an address.
    length: usize,
}

/// A record of a message.
struct Record {
    qtype: u16,
    owner: (usize, usize),
    /// The offset of its data.
    data: usize,
    length: usize,
}

impl Layout {
    /// Returns `None` for a message that has to be decoded: one with an OPT, or with answers whose order changes and
    /// that are not all addresses of one name.
    pub(super) fn of(message: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u16::from_be_bytes(*message.get(at..)?.first_chunk()?));
        let mut at = HEADER;
        for _ in 0..number(4)? {
            at = end_of_name(message, at)? + QUESTION_TAIL;
        }
        let (mut ttls, mut ordered): (Vec<u16>, Vec<Record>) = (Vec::new(), Vec::new());
        for (section, count) in [6, 8, 10].into_iter().enumerate() {
            for _ in 0..number(count)? {
                let end = end_of_name(message, at)?;
                let record = Record {
                    qtype: number(end)?,
                    owner: (at, end),
                    data: end + RECORD_TAIL,
                    length: number(end + 8)?.into(),
                };
                if record.qtype == OPT {
                    return None;
                }
                ttls.push(u16::try_from(end + 4).ok()?);
                at = record.data + record.length;
                if section == 0 && matches!(record.qtype, A | AAAA | MX) {
                    ordered.push(record);
                }
            }
        }
        let first = ordered.first().filter(|_| ordered.len() > 1);
        let Some(first) = first else {
            return Some(Self { ttls: ttls.into(), addresses: [].into(), length: 0 });
        };
        // Only then it makes no difference whether records or their data change places.
        let owner = |record: &Record| message.get(record.owner.0..record.owner.1);
        let ttl = |record: &Record| message.get(record.owner.1 + 4..record.owner.1 + 8);
        let is_like_first = |record: &Record| {
            let same = (record.qtype, record.length, owner(record), ttl(record));
            same == (first.qtype, first.length, owner(first), ttl(first))
        };
        if first.qtype == MX || !ordered.iter().all(is_like_first) {
            return None;
        }
        let addresses =
            ordered.iter().map(|record| u16::try_from(record.data).ok()).collect::<Option<_>>()?;
        Some(Self { ttls: ttls.into(), addresses, length: first.length })
    }

    pub(super) fn size(&self) -> usize {
        size_of::<u16>() * (self.ttls.len() + self.addresses.len())
    }

    /// Reduces the TTLs of a copy of the message.
    pub(super) fn age(&self, copy: &mut [u8], seconds: u32) {
        for at in &self.ttls {
            if let Some(field) = copy.get_mut(usize::from(*at)..).and_then(|rest| rest.first_chunk_mut::<4>())
            {
                *field = u32::from_be_bytes(*field).saturating_sub(seconds).to_be_bytes();
            }
        }
    }

    /// Shuffles the addresses of a copy of the message. `below` returns a random number below its argument.
    pub(super) fn shuffle(&self, copy: &mut [u8], below: fn(usize) -> usize) {
        for n in (1..self.addresses.len()).rev() {
            let [one, other] = [n, below(n + 1)].map(|at| usize::from(self.addresses[at]));
            if one != other && copy.len() >= one.max(other) + self.length {
                (0..self.length).for_each(|octet| copy.swap(one + octet, other + octet));
            }
        }
    }
}
