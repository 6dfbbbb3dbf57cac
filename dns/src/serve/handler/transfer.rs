//! Outgoing transfers of zones (AXFR, RFC 5936; IXFR is answered as AXFR, RFC 1995, section 4).

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hickory_server::proto::{
    op::{Message, OpCode},
    rr::{RData, Record, RecordType, rdata::SOA},
    serialize::binary::BinEncodable as _,
};

use crate::zone_data::{Zone, is_newer};

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
    zone: Arc<Zone>,
    /// The client has this version: only the SOA record is sent.
    is_current: bool,
    _running: Running,
}

impl Transfer {
    pub(super) fn new(request: &Message, zone: Arc<Zone>, running: Running) -> Self {
        let mut head = Message::response(request.metadata.id, OpCode::Query);
        head.metadata.authoritative = true;
        head.queries.clone_from(&request.queries);
        let is_current = serial_of_client(request).is_some_and(|serial| !is_newer(zone.serial(), serial));
        Self { head, zone, is_current, _running: running }
    }

    /// The messages in their order, each made when it is requested.
    pub fn messages(&self) -> impl Iterator<Item = Vec<u8>> {
        let last = (!self.is_current).then(|| self.zone.soa());
        let between = self.zone.records().filter(|_| !self.is_current);
        let mut records = std::iter::once(self.zone.soa()).chain(between).chain(last).peekable();
        std::iter::from_fn(move || {
            records.peek()?;
            let mut message = self.head.clone();
            let mut size = 0;
            while let Some(record) = records.next_if(|next| size == 0 || size + octets(next) <= MESSAGE) {
                size += octets(record);
                message.add_answer(record.clone());
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

/// A host has any address of its /64.
fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
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
