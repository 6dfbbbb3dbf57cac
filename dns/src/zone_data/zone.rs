//! The records of a zone, by name.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use hickory_server::proto::rr::{LowerName, Name, RData, Record, rdata::SOA};
use thiserror::Error;

use super::{
    denial::{Chain, Hashed, take_hashed},
    signature::{Invalid, Validity, set_type},
};

/// A zone, whose records never change.
#[derive(Debug)]
pub struct Zone {
    pub(super) origin: Name,
    pub(super) soa: Record,
    serial: u32,
    /// In canonical order (RFC 4034, section 6.1): the names below a name follow it.
    pub(super) nodes: BTreeMap<LowerName, Vec<Record>>,
    pub(super) hashed: Hashed,
    /// The chain of the names of a signed zone.
    pub(super) chain: Option<Chain>,
    /// `None`: the zone is not signed.
    validity: Option<Validity>,
    /// Whether it was said that some signatures are not valid.
    is_reported: AtomicBool,
    /// Number of records outside the zone, which are left out.
    pub foreign: usize,
}

/// When a copy of a zone is compared with the original, after a failure again, and no longer used (RFC 1035, section
/// 3.3.13).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timers {
    pub refresh: Duration,
    pub retry: Duration,
    pub expire: Duration,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum InvalidZone {
    #[error("there is no SOA record of {0}")]
    NoSoa(Name),
    #[error("there are several SOA records of {0}")]
    SeveralSoas(Name),
    #[error("NSEC3 takes {0} iterations; sign the zone with at most 150, better with none (RFC 9276)")]
    Iterations(u16),
}

impl Zone {
    /// A zone of these records. Equal records are one; records outside the zone are left out.
    pub fn new(origin: &Name, records: Vec<Record>) -> Result<Self, InvalidZone> {
        let zone = LowerName::new(origin);
        let mut nodes = BTreeMap::<LowerName, Vec<Record>>::new();
        let mut soa: Option<(Record, u32)> = None;
        let mut foreign = 0;
        for record in records {
            let name = LowerName::new(&record.name);
            if !zone.zone_of(&name) {
                foreign += 1;
                continue;
            }
            if let RData::SOA(SOA { serial, .. }) = &record.data {
                if name != zone {
                    foreign += 1;
                    continue;
                }
                if soa.as_ref().is_some_and(|(known, _)| known.data != record.data) {
                    return Err(InvalidZone::SeveralSoas(origin.clone()));
                }
                soa = Some((record.clone(), *serial));
            }
            nodes.entry(name).or_default().push(record);
        }
        for records in nodes.values_mut() {
            sort(records);
        }
        let (soa, serial) = soa.ok_or_else(|| InvalidZone::NoSoa(origin.clone()))?;
        let validity = Validity::of(nodes.values().flatten());
        let hashed = take_hashed(&mut nodes);
        let apex = nodes.get(&zone).map(Vec::as_slice).unwrap_or_default();
        let chain = Chain::new(apex, &nodes, &hashed).map_err(InvalidZone::Iterations)?;
        Ok(Self {
            origin: origin.clone(),
            soa,
            serial,
            nodes,
            hashed,
            chain,
            validity,
            is_reported: AtomicBool::default(),
            foreign,
        })
    }

    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Whether some signatures are not valid at a time, in seconds since 1970 modulo 2^32. Tells it once.
    pub(crate) fn invalid_signatures(&self, now: u32) -> Option<Invalid> {
        let invalid = self.validity?.at(now)?;
        (!self.is_reported.swap(true, Relaxed)).then_some(invalid)
    }

    /// The timers of the SOA record.
    pub(crate) fn timers(&self) -> Timers {
        let seconds = |timer: i32| Duration::from_secs(u64::try_from(timer).unwrap_or_default());
        let RData::SOA(SOA { refresh, retry, expire, .. }) = &self.soa.data else { return Timers::default() };
        Timers { refresh: seconds(*refresh), retry: seconds(*retry), expire: seconds(*expire) }
    }

    pub(crate) fn soa(&self) -> &Record {
        &self.soa
    }

    /// All records, but the SOA record.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> {
        let all = self.nodes.values().chain(self.hashed.values()).flatten();
        all.filter(|record| record.data != self.soa.data)
    }

    pub(super) fn node(&self, name: &LowerName) -> Option<&[Record]> {
        self.nodes.get(name).map(Vec::as_slice)
    }

    /// Whether a name below this one has records.
    pub(super) fn has_descendant(&self, name: &LowerName) -> bool {
        let mut from = self.nodes.range(name..).map(|(next, _)| next).filter(|next| *next != name);
        from.next().is_some_and(|next| name.zone_of(next))
    }

    pub(super) fn exists(&self, name: &LowerName) -> bool {
        self.nodes.contains_key(name) || self.has_descendant(name)
    }
}

/// Sorts by type, in the order of the file otherwise, without equal records. All TTLs of a set are its least (RFC 2181,
/// section 5.2); signatures of different sets are of different ones (RFC 4034, section 3).
fn sort(records: &mut Vec<Record>) {
    let set = |record: &Record| (u16::from(record.record_type()), u16::from(set_type(record)));
    records.sort_by_key(set);
    let mut kept: Vec<Record> = Vec::with_capacity(records.len());
    for record in records.drain(..) {
        let start = kept.partition_point(|known| set(known) < set(&record));
        // Quadratic in a set, whose size a message limits anyway; beyond it equal records stay.
        let is_new =
            kept.len() - start > MAX_COMPARED || kept[start..].iter().all(|known| known.data != record.data);
        if is_new {
            kept.push(record);
        }
    }
    for records in kept.chunk_by_mut(|one, next| set(one) == set(next)) {
        let least = records.iter().map(|record| record.ttl).min().unwrap_or_default();
        records.iter_mut().for_each(|record| record.ttl = least);
    }
    *records = kept;
}

/// Limit of the records of a set that are compared with each new one.
const MAX_COMPARED: usize = 4096;

#[cfg(test)]
mod tests {
    use crate::zone_data::is_newer;

    #[test]
    fn serials_wrap() {
        for (serial, than, want) in
            [(2, 1, true), (1, 1, false), (1, 2, false), (0, u32::MAX, true), (u32::MAX, 0, false)]
        {
            assert_eq!(is_newer(serial, than), want, "{serial} {than}");
        }
    }
}
