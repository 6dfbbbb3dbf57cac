//! Outgoing transfers of zones (AXFR, RFC 5936; IXFR is answered as AXFR, RFC 1995, section 4).

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hickory_server::proto::{
    op::{Message, OpCode},
    rr::{RData, Record, RecordType, rdata::SOA},
    serialize::binary::BinEncodable as _,
};

use super::records::record;
use crate::{
    address::network,
    cluster::{
        answer::{record_sets, transferable},
        authority::Authority,
        name::Name,
        snapshot::Snapshot,
    },
    zone_data::{Zone, is_newer},
};

/// Limit of the transfers at a time, of one block.
const MAX_RUNNING: usize = 8;
/// Limit of those of one client, or of one /64.
const MAX_PER_CLIENT: usize = 2;
/// The size at which a message is complete, before compression. A larger record has its own.
const MESSAGE: usize = 16 << 10;

/// A transfer that is to be sent, message by message.
#[derive(Debug)]
pub struct Transfer {
    /// Header and question of the messages.
    head: Message,
    zone: Transferred,
    /// The client has this version: only the SOA record is sent.
    is_current: bool,
    _running: Running,
}

/// A zone that is transferred, as it was at the beginning.
#[derive(Debug)]
pub(super) enum Transferred {
    Zone(Arc<Zone>),
    Cluster(Box<ClusterZone>),
}

/// A zone of the cluster.
#[derive(Debug)]
pub(super) struct ClusterZone {
    authority: Authority,
    snapshot: Arc<Snapshot>,
    origin: Name,
}

impl ClusterZone {
    /// `None`: there is no such zone.
    pub(super) fn new(authority: &Authority, snapshot: &Arc<Snapshot>, origin: &Name) -> Option<Box<Self>> {
        transferable(authority, origin)?;
        let (authority, snapshot) = (authority.clone(), Arc::clone(snapshot));
        Some(Box::new(Self { authority, snapshot, origin: origin.clone() }))
    }

    /// The SOA record first.
    fn records(&self) -> impl Iterator<Item = Record> + Send {
        let zone = transferable(&self.authority, &self.origin).into_iter();
        let sets = zone.flat_map(|zone| record_sets(&self.authority, &self.snapshot, zone));
        sets.flat_map(|set| {
            let name = set.name.to_hickory();
            set.records.into_iter().map(move |one| record(&one, &name))
        })
    }
}

impl Transferred {
    fn serial(&self) -> u32 {
        match self {
            Self::Zone(zone) => zone.serial(),
            Self::Cluster(zone) => zone.snapshot.serial,
        }
    }

    /// The SOA record first.
    fn records(&self) -> Box<dyn Iterator<Item = Record> + Send + '_> {
        match self {
            Self::Zone(zone) => Box::new(std::iter::once(zone.soa()).chain(zone.records()).cloned()),
            Self::Cluster(zone) => Box::new(zone.records()),
        }
    }
}

impl Transfer {
    pub(super) fn new(request: &Message, zone: Transferred, running: Running) -> Self {
        let mut head = Message::response(request.metadata.id, OpCode::Query);
        head.metadata.authoritative = true;
        head.queries.clone_from(&request.queries);
        let is_current = serial_of_client(request).is_some_and(|serial| !is_newer(zone.serial(), serial));
        Self { head, zone, is_current, _running: running }
    }

    /// The messages in their order, each made when it is requested.
    pub fn messages(&self) -> impl Iterator<Item = Vec<u8>> + Send {
        let mut all = self.zone.records();
        let soa = all.next();
        let last = soa.clone().filter(|_| !self.is_current);
        let between = (!self.is_current).then_some(all).into_iter().flatten();
        let mut records = soa.into_iter().chain(between).chain(last).peekable();
        std::iter::from_fn(move || {
            records.peek()?;
            let mut message = self.head.clone();
            let mut size = 0;
            while let Some(record) = records.next_if(|next| size == 0 || size + octets(next) <= MESSAGE) {
                size += octets(&record);
                message.add_answer(record);
            }
            message.to_vec().ok()
        })
    }
}

fn octets(record: &Record) -> usize {
    // A record of a file can be encoded, and is counted as large otherwise.
    record.to_bytes().map_or(MESSAGE, |octets| octets.len())
}

/// The serial in an IXFR query; `None` for AXFR, and without one.
fn serial_of_client(request: &Message) -> Option<u32> {
    let is_incremental = request.queries.first()?.query_type == RecordType::IXFR;
    let record = request.authorities.first().filter(|_| is_incremental)?;
    let RData::SOA(SOA { serial, .. }) = &record.data else { return None };
    Some(*serial)
}

/// The running transfers of a block, by client.
#[derive(Debug, Default)]
pub(super) struct Transfers(Mutex<Vec<IpAddr>>);

/// A running transfer; dropping it ends it.
#[derive(Debug)]
pub(super) struct Running {
    transfers: Arc<Transfers>,
    client: IpAddr,
}

impl Transfers {
    /// `None`: too many transfers run, of all clients or of this one.
    pub(super) fn begin(self: &Arc<Self>, client: IpAddr) -> Option<Running> {
        let client = network(client);
        let mut running = self.lock();
        let own = running.iter().filter(|other| **other == client).count();
        if running.len() >= MAX_RUNNING || own >= MAX_PER_CLIENT {
            return None;
        }
        running.push(client);
        Some(Running { transfers: Arc::clone(self), client })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<IpAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.transfers.lock();
        if let Some(at) = running.iter().position(|client| *client == self.client) {
            running.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_are_limited_by_client_and_in_all() {
        let transfers = Arc::new(Transfers::default());
        let begin = |client: &str| transfers.begin(client.parse().unwrap());
        let both = [begin("fd00::1").unwrap(), begin("fd00::2").unwrap()];
        assert!(begin("fd00::3").is_none(), "one network");
        let others: Vec<Running> = (1..=6).map(|n| begin(&format!("192.0.2.{n}")).unwrap()).collect();
        assert!(begin("192.0.2.9").is_none(), "eight in all");
        drop(both);
        assert!(begin("fd00::3").is_some());
        drop(others);
    }
}
