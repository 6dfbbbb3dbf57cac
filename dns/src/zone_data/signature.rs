//! RRSIG records: the sets that they sign, and their times (RFC 4034, section 3.1). The library keeps them as octets.

use hickory_server::proto::rr::{RData, Record, RecordType, rdata::NULL};

/// Whether a serial is newer than another one (RFC 1982).
pub fn is_newer(serial: u32, than: u32) -> bool {
    serial != than && serial.wrapping_sub(than) < 1 << 31
}

/// The octets of data that the library does not parse.
#[expect(clippy::wildcard_enum_match_arm, reason = "types are an open list")]
pub(super) fn octets(data: &RData) -> &[u8] {
    match data {
        RData::Unknown { rdata: NULL { anything, .. }, .. } => anything,
        _ => &[],
    }
}

pub(super) fn of_type(records: &[Record], record_type: RecordType) -> impl Iterator<Item = &Record> {
    records.iter().filter(move |record| record.record_type() == record_type)
}

/// The type that a signature covers.
fn covered(record: &Record) -> Option<RecordType> {
    let octets = octets(&record.data).first_chunk().filter(|_| record.record_type() == RecordType::RRSIG)?;
    Some(RecordType::from(u16::from_be_bytes(*octets)))
}

/// The type of a record, or the one that a signature covers.
pub(crate) fn set_type(record: &Record) -> RecordType {
    covered(record).unwrap_or_else(|| record.record_type())
}

/// The signatures of the records of a type, among the records of a name.
pub(super) fn signatures(records: &[Record], record_type: RecordType) -> impl Iterator<Item = &Record> {
    records.iter().filter(move |record| covered(record) == Some(record_type))
}

/// A time at which not all signatures of a zone are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    Expired,
    NotYetValid,
}

/// The time in which all signatures of a zone are valid, in seconds since 1970 modulo 2^32 (RFC 1982).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    inception: u32,
    expiration: u32,
}

impl Validity {
    /// `None`: there is no signature.
    pub(super) fn of<'r>(records: impl Iterator<Item = &'r Record>) -> Option<Self> {
        records.filter_map(validity).reduce(|all, one| Self {
            inception: if is_newer(one.inception, all.inception) { one.inception } else { all.inception },
            expiration: if is_newer(all.expiration, one.expiration) {
                one.expiration
            } else {
                all.expiration
            },
        })
    }

    pub(super) fn at(self, now: u32) -> Option<Invalid> {
        if is_newer(now, self.expiration) {
            Some(Invalid::Expired)
        } else {
            is_newer(self.inception, now).then_some(Invalid::NotYetValid)
        }
    }
}

fn validity(record: &Record) -> Option<Validity> {
    covered(record)?;
    let times: &[u8; 8] = octets(&record.data).get(8..16)?.try_into().ok()?;
    let [a, b, c, d, e, f, g, h] = *times;
    Some(Validity {
        expiration: u32::from_be_bytes([a, b, c, d]),
        inception: u32::from_be_bytes([e, f, g, h]),
    })
}
