//! The cluster's zones and the options of their answers: the directive `kubernetes` of one block, compiled.

use std::net::IpAddr;

use crate::{
    cluster::{
        name::{Name, QueryName, is_reverse},
        snapshot::Snapshot,
    },
    config::{Kubernetes, PodsMode, Zones},
};

/// The negative TTL is short: operators poll for names that are about to appear.
const NEGATIVE_TTL: u32 = 5;

#[derive(Clone, Debug)]
pub struct Authority {
    pub zones: Box<[Zone]>,
    /// The index of the zone of PTR targets.
    primary: usize,
    pub pods: PodsMode,
    pub ttl: u32,
    pub negative_ttl: u32,
    /// Lower-case. Empty: all.
    namespaces: Box<[String]>,
    /// Objects in unknown namespaces are not exposed.
    selects_namespaces: bool,
    fallthrough: Box<[Name]>,
    pub no_endpoints: bool,
    pub ignore_empty_service: bool,
    /// Endpoints have names by topology zone.
    pub zonal: bool,
    /// The addresses of this server, for the NS records.
    pub own_addresses: Box<[IpAddr]>,
}

#[derive(Clone, Debug)]
pub struct Zone {
    pub name: Name,
    pub labels: usize,
    pub is_reverse: bool,
    /// A zone of multi-cluster Services.
    pub is_multicluster: bool,
}

impl Authority {
    pub fn new(options: &Kubernetes, own_addresses: &[IpAddr]) -> Self {
        let zone = |name: &hickory_server::proto::rr::LowerName| {
            let is_multicluster = options.multicluster.0.contains(name);
            let name = Name::from(&**name);
            let (labels, is_reverse) = (name.labels().count(), is_reverse(&name));
            Zone { name, labels, is_reverse, is_multicluster }
        };
        let zones: Box<[Zone]> = options.zones.0.iter().map(zone).collect();
        let is_primary = |zone: &Zone| !zone.is_reverse && !zone.is_multicluster;
        Self {
            primary: zones.iter().position(is_primary).unwrap_or_default(),
            zones,
            pods: options.pods,
            ttl: options.ttl,
            negative_ttl: options.ttl.min(NEGATIVE_TTL),
            namespaces: options.namespaces.iter().map(|name| name.to_ascii_lowercase()).collect(),
            selects_namespaces: options.namespace_labels.is_some(),
            fallthrough: names(&options.fallthrough),
            no_endpoints: options.no_endpoints,
            ignore_empty_service: options.ignore_empty_service,
            zonal: options.zonal,
            own_addresses: reachable(own_addresses),
        }
    }

    /// The longest zone that contains the name.
    pub fn zone_of(&self, name: &QueryName) -> Option<&Zone> {
        self.zones.iter().filter(|zone| name.is_in(&zone.name)).max_by_key(|zone| zone.labels)
    }

    pub fn primary(&self) -> Option<&Zone> {
        self.zones.get(self.primary)
    }

    /// Whether objects in the namespace have names.
    pub fn exposes(&self, namespace: &[u8], snapshot: &Snapshot) -> bool {
        let is_listed =
            self.namespaces.is_empty() || self.namespaces.iter().any(|name| name.as_bytes() == namespace);
        is_listed && (!self.selects_namespaces || snapshot.has_namespace(namespace))
    }

    /// Whether a missing name falls through to the next plugin.
    pub fn falls_through(&self, name: &QueryName) -> bool {
        self.fallthrough.iter().any(|zone| name.is_in(zone))
    }
}

fn names(zones: &Zones) -> Box<[Name]> {
    zones.0.iter().map(|name| Name::from(&**name)).collect()
}

/// The addresses under which clients reach this server: no link-local ones, which need an interface, and no
/// wildcards. Loopback is only used if there is nothing else: on a client it is the client.
fn reachable(addresses: &[IpAddr]) -> Box<[IpAddr]> {
    let is_link_local = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let named = addresses.iter().filter(|address| !address.is_unspecified() && !is_link_local(address));
    let (loopback, others): (Vec<IpAddr>, Vec<IpAddr>) = named.partition(|address| address.is_loopback());
    if others.is_empty() { loopback.into() } else { others.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_server_has_reachable_addresses() {
        for (addresses, want) in [
            (&["0.0.0.0", "::", "fe80::1"][..], &[][..]),
            (&["127.0.0.1", "::1"], &["127.0.0.1", "::1"]),
            (&["127.0.0.1", "10.0.0.1", "::1", "fd00::1", "fe80::1"], &["10.0.0.1", "fd00::1"]),
            (&["127.0.0.1", "169.254.20.10"], &["169.254.20.10"]),
        ] {
            let parsed: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
            let found: Vec<String> = reachable(&parsed).iter().map(ToString::to_string).collect();
            assert_eq!(found, want, "{addresses:?}");
        }
    }
}
