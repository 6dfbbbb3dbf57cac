//! `local`: names of the local machine, which must not be sent to an upstream (RFC 6303, RFC 6761).

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_server::proto::{
    op::{Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, NS, PTR, SOA},
    },
};

use super::directive::{LocalPlugin, Switch};
use crate::{cluster::name::QueryName, observe::metrics::Plugin, resolve::reply::Reply};

#[derive(Debug)]
pub(super) struct Local;

const TTL: u32 = 86_400;
const LOCALHOST: &[u8] = b"localhost";
const REVERSE_TOP: &[u8] = b"arpa";
/// Reverse zones, from the top: this network, loopback, broadcast.
const REVERSE: [&[&[u8]]; 3] =
    [&[b"arpa", b"in-addr", b"0"], &[b"arpa", b"in-addr", b"127"], &[b"arpa", b"in-addr", b"255"]];

impl Switch for Local {
    const NAME: &'static str = "local";
    const SUMMARY: &'static str = "names of the local machine (RFC 6303)";
    const IS_DEFAULT: bool = true;

    fn plugin() -> Option<Box<dyn LocalPlugin>> {
        Some(Box::new(Self))
    }
}

impl LocalPlugin for Local {
    fn answer(&self, question: &Query) -> Option<Reply> {
        answer(question)
    }

    fn may_answer(&self, name: &QueryName, _qtype: RecordType) -> bool {
        may_answer(name)
    }
}

/// Returns `None` for a name outside the local zones.
fn answer(question: &Query) -> Option<Reply> {
    let name = question.name();
    let top = name.iter().next_back().unwrap_or_default();
    if !top.eq_ignore_ascii_case(LOCALHOST) && !top.eq_ignore_ascii_case(REVERSE_TOP) {
        return None;
    }
    let labels: Vec<Vec<u8>> = name.iter().rev().map(<[u8]>::to_ascii_lowercase).collect();
    let is_below =
        |zone: &&&[&[u8]]| labels.len() >= zone.len() && zone.iter().zip(&labels).all(|(a, b)| a == b);
    if top.eq_ignore_ascii_case(LOCALHOST) {
        return Some(below(
            question,
            Name::from_labels([LOCALHOST]).ok()?,
            labels.len() == 1,
            &addresses(question),
        ));
    }
    if *name == Name::from(Ipv6Addr::LOCALHOST) {
        return Some(below(question, name.clone(), true, &pointer(question)));
    }
    let zone = REVERSE.iter().find(is_below)?;
    let apex = name.trim_to(zone.len());
    let is_loopback = *name == Name::from(Ipv4Addr::LOCALHOST);
    let data = if is_loopback { pointer(question) } else { Vec::new() };
    Some(below(question, apex, is_loopback || labels.len() == zone.len(), &data))
}

/// Whether the name could be in a local zone. Cheap; wrong only where it returns `true`.
fn may_answer(name: &QueryName) -> bool {
    let from_top = |n: usize| name.label_count().checked_sub(n).map(|n| name.label(n)).unwrap_or_default();
    match from_top(1) {
        LOCALHOST => true,
        // Includes ::1.
        REVERSE_TOP => matches!(from_top(3), b"0" | b"127" | b"255"),
        _ => false,
    }
}

fn addresses(question: &Query) -> Vec<RData> {
    let known = [RData::A(A(Ipv4Addr::LOCALHOST)), RData::AAAA(AAAA(Ipv6Addr::LOCALHOST))];
    known.into_iter().filter(|data| data.record_type() == question.query_type()).collect()
}

fn pointer(question: &Query) -> Vec<RData> {
    let is_asked = question.query_type() == RecordType::PTR;
    is_asked.then(|| RData::PTR(PTR(localhost()))).into_iter().collect()
}

fn localhost() -> Name {
    Name::from_labels([LOCALHOST]).unwrap_or_default()
}

/// The reply for a name in a local zone; all names below `localhost` exist.
fn below(question: &Query, zone: Name, exists: bool, data: &[RData]) -> Reply {
    let is_apex = *question.name() == zone;
    let mut data = data.to_vec();
    let apex = [soa(&zone), RData::NS(NS(localhost()))].into_iter().filter(|_| is_apex);
    data.extend(apex.filter(|data| data.record_type() == question.query_type()));
    let answers: Vec<Record> =
        data.into_iter().map(|data| Record::from_rdata(question.name().clone(), TTL, data)).collect();
    let is_found = exists || !answers.is_empty() || zone == localhost();
    let rcode = if is_found { ResponseCode::NoError } else { ResponseCode::NXDomain };
    let authorities = match answers.is_empty() {
        true => vec![Record::from_rdata(zone.clone(), TTL, soa(&zone))],
        false => Vec::new(),
    };
    Reply { answers, authorities, ..Reply::from_plugin(rcode, Plugin::Local) }
}

fn soa(zone: &Name) -> RData {
    let contact = Name::root();
    RData::SOA(SOA::new(if zone.is_root() { contact.clone() } else { localhost() }, contact, 1, 0, 0, 0, TTL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_names_are_answered() {
        use RecordType::{A, AAAA, MX, NS, PTR, SOA};
        let found = |data: &str| Some(format!("No Error {data}"));
        for (name, qtype, want) in [
            ("LOCALHOST.", A, found("127.0.0.1")),
            ("localhost.", AAAA, found("::1")),
            ("www.localhost.", A, found("127.0.0.1")),
            ("localhost.", MX, found("SOA localhost.")),
            ("localhost.", NS, found("localhost.")),
            ("1.0.0.127.in-addr.arpa.", PTR, found("localhost.")),
            ("1.0.0.127.in-addr.arpa.", A, found("SOA 127.in-addr.arpa.")),
            ("2.0.0.127.in-addr.arpa.", PTR, Some("Non-Existent Domain SOA 127.in-addr.arpa.".to_owned())),
            ("255.in-addr.arpa.", SOA, found("localhost. . 1 0 0 0 86400")),
            (&Name::from(Ipv6Addr::LOCALHOST).to_string(), PTR, found("localhost.")),
            ("1.0.0.10.in-addr.arpa.", PTR, None),
            ("localhost.example.", A, None),
            ("in-addr.arpa.", PTR, None),
            (".", NS, None),
        ] {
            let got = answer(&Query::query(Name::from_ascii(name).unwrap(), qtype)).map(|reply| {
                let data = reply.answers.iter().map(|record| record.data.to_string());
                let soa = reply.authorities.iter().map(|record| format!("SOA {}", record.name));
                format!("{} {}", reply.rcode, data.chain(soa).collect::<Vec<_>>().join(" "))
            });
            assert_eq!(got, want, "{name} {qtype}");
        }
    }
}
