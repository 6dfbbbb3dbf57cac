//! The top of a zone: its SOA, and which name server to ask.

use std::net::IpAddr;

use hickory_server::proto::rr::RecordType;

use super::{AnswerData, AnswerRecord, Lookup, Node, Owner, Soa};
use crate::cluster::{authority::Zone, name::QueryName, snapshot::View};

impl<'s> Lookup<'s> {
    pub(super) fn apex(self, zone: &'s Zone) -> Node<'s> {
        if self.qtype == RecordType::NS {
            return self.name_servers(zone);
        }
        let soa =
            Soa { zone: &zone.name, serial: self.snapshot.serial, minimum: self.authority.negative_ttl };
        Node::data((self.qtype == RecordType::SOA).then_some(AnswerData::Soa(soa)))
    }

    /// A zone of which nothing is known but that it is ours.
    pub(super) fn apex_only(self, name: &QueryName, zone: &'s Zone) -> Node<'s> {
        if name.label_count() == zone.labels { self.apex(zone) } else { Node::NxDomain }
    }

    /// The Service that leads here, if any does: its address outlives this server.
    fn name_servers(self, zone: &'s Zone) -> Node<'s> {
        let primary = self.authority.primary().unwrap_or(zone);
        let mut views: Vec<&'s View> = Vec::new();
        for address in &self.authority.own_addresses {
            let leads_here = self.snapshot.holders(*address).filter(|view| !view.own_addresses().is_empty());
            views.extend(
                leads_here
                    .filter(|view| self.authority.exposes(view.key.namespace().as_bytes(), self.snapshot)),
            );
        }
        views.sort_by(|a, b| a.key.cmp(&b.key));
        views.dedup_by(|a, b| a.key == b.key);
        if views.is_empty() {
            let name = Owner::NameServer(&zone.name);
            return Node::Records(vec![AnswerData::Ns(name)], self.glue(name, &self.authority.own_addresses));
        }
        let name = |view: &'s View| Owner::Service { key: &view.key, endpoint: None, zone: &primary.name };
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
