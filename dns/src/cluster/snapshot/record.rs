//! The records of a Service as plain values, for counts and listings; answers are not made from them.
//!
//! Names are relative to the cluster domain, except reverse names, which end in `arpa`.

use std::net::IpAddr;

use super::View;
use crate::cluster::{
    selection::Selection,
    zone::{Dashed, Label, Port, ServiceKind},
};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZoneRecord {
    pub name: String,
    pub data: ZoneData,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ZoneData {
    Address(IpAddr),
    Srv { port: u16, target: String },
    Ptr(String),
    Cname(String),
}

/// The records of a Service, sorted, without duplicates.
pub(super) fn records(view: &View) -> Vec<ZoneRecord> {
    let mut records =
        Records { name: format!("{}.{}.svc", view.key.name(), view.key.namespace()), all: Vec::new() };
    match view.kind() {
        ServiceKind::Nothing => {}
        ServiceKind::ExternalName(target) => {
            let target = target.to_string().trim_end_matches('.').to_lowercase();
            records.add(records.name.clone(), ZoneData::Cname(target));
        }
        ServiceKind::ClusterIp { addresses, ports } => {
            addresses.iter().for_each(|address| records.own(*address));
            ports.iter().for_each(|port| records.srv(port, port.number, records.name.clone()));
            records.endpoints(view);
        }
        ServiceKind::Headless => records.headless(view),
    }
    records.all.sort_unstable();
    records.all.dedup();
    records.all
}

struct Records {
    /// The name of the Service.
    name: String,
    all: Vec<ZoneRecord>,
}

impl Records {
    fn add(&mut self, name: String, data: ZoneData) {
        self.all.push(ZoneRecord { name, data });
    }

    fn own(&mut self, address: IpAddr) {
        self.add(self.name.clone(), ZoneData::Address(address));
        self.add(reverse_name(address), ZoneData::Ptr(self.name.clone()));
    }

    fn srv(&mut self, port: &Port, number: u16, target: String) {
        let name = format!("_{}._{}.{}", port.name, port.protocol.label(), self.name);
        self.add(name, ZoneData::Srv { port: number, target });
    }

    fn endpoints(&mut self, view: &View) {
        for address in view.all_addresses() {
            for label in view.labels_of(address) {
                let name = self.below(label);
                self.add(reverse_name(address), ZoneData::Ptr(name.clone()));
                self.add(name, ZoneData::Address(address));
            }
        }
    }

    /// The ports of a headless Service are the pods' ports: they are not translated.
    fn headless(&mut self, view: &View) {
        self.endpoints(view);
        let (v4, v6) = (view.v4(Selection::ALL), view.v6(Selection::ALL));
        for address in v4.into_iter().map(IpAddr::from).chain(v6.into_iter().map(IpAddr::from)) {
            self.add(self.name.clone(), ZoneData::Address(address));
        }
        for slice in &view.slices {
            for port in &slice.ports {
                for label in View::labels(slice) {
                    self.srv(port, port.number, self.below(label));
                }
            }
        }
    }

    fn below(&self, label: Label<'_>) -> String {
        let mut scratch = Dashed::default();
        format!("{}.{}", String::from_utf8_lossy(label.octets(&mut scratch)), self.name)
    }
}

/// The name of an address in the reverse zones (RFC 1035, section 3.5; RFC 3596, section 2.5), without the final dot.
pub fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev().flat_map(|octet| [octet & 0xf, octet >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
        }
    }
}
