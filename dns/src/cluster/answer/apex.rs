//! The apex of a zone: SOA, NS and glue.

use std::net::IpAddr;

use hickory_server::proto::rr::RecordType;

use super::{AnswerData, AnswerRecord, Lookup, Node, Owner, Soa};
use crate::cluster::{authority::Zone, snapshot::View};

impl<'s> Lookup<'s> {
    pub(super) fn apex(self, zone: &'s Zone) -> Node<'s> {
        if self.qtype == RecordType::NS {
            return self.name_servers(zone);
        }
        let soa =
            Soa { zone: &zone.name, serial: self.snapshot.serial, minimum: self.authority.negative_ttl };
        Node::data((self.qtype == RecordType::SOA).then_some(AnswerData::Soa(soa)))
    }

    /// The NS records: the Services that point to this server, as their addresses outlive it, or else `ns.dns`.
    fn name_servers(self, zone: &'s Zone) -> Node<'s> {
        let primary = self.authority.primary().unwrap_or(zone);
        let mut views: Vec<&'s View> = Vec::new();
        for address in &self.authority.own_addresses {
            let pointing_here =
                self.snapshot.services_with(*address).filter(|view| !view.own_addresses().is_empty());
            views.extend(
                pointing_here
                    .filter(|view| self.authority.exposes(view.key.namespace().as_bytes(), self.snapshot)),
            );
        }
        views.sort_by(|a, b| a.key.cmp(&b.key));
        views.dedup_by(|a, b| a.key == b.key);
        if views.is_empty() {
            let name = Owner::NameServer(&zone.name);
            return Node::Records(vec![AnswerData::Ns(name)], self.glue(name, &self.authority.own_addresses));
        }
        let name = |view: &'s View| Owner::Service {
            key: &view.key,
            endpoint: None,
            cluster: None,
            zone: &primary.name,
        };
        let glue = views.iter().flat_map(|view| self.glue(name(view), view.own_addresses()));
        Node::Records(views.iter().map(|view| AnswerData::Ns(name(view))).collect(), glue.collect())
    }

    pub(super) fn glue(self, owner: Owner<'s>, addresses: &[IpAddr]) -> Vec<AnswerRecord<'s>> {
        let ttl = self.authority.ttl;
        addresses
            .iter()
            .map(|address| AnswerRecord { owner, ttl, data: AnswerData::address(*address) })
            .collect()
    }
}
