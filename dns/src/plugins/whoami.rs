//! `whoami`: the client's address, port and transport, for queries that nothing else of the block answers.

use std::net::{IpAddr, SocketAddr};

use hickory_server::proto::{
    op::{Query, ResponseCode},
    rr::{
        Name, RData, Record,
        rdata::{A, AAAA, SRV},
    },
};

use super::directive::Switch;
use crate::{
    observe::metrics::{Plugin, Transport},
    resolve::reply::Reply,
};

pub(super) struct Whoami;

impl Switch for Whoami {
    const NAME: &'static str = "whoami";
    const SUMMARY: &'static str = "the client's address, port and transport";
}

/// The reply for a client: its address, and `_TRANSPORT.QNAME SRV 0 0 PORT .`, in the additional section.
pub(crate) fn reply(question: &Query, client: SocketAddr, transport: Transport) -> Reply {
    let address = match client.ip() {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    };
    let mut additionals = vec![Record::from_rdata(question.name().clone(), 0, address)];
    // Too long only for a name of nearly 255 octets.
    if let Ok(owner) = question.name().prepend_label(format!("_{}", transport.name())) {
        let service = RData::SRV(SRV::new(0, 0, client.port(), Name::root()));
        additionals.push(Record::from_rdata(owner, 0, service));
    }
    Reply { additionals, ..Reply::from_plugin(ResponseCode::NoError, Plugin::Whoami) }
}
