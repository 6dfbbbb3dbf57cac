//! The clients that are served.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use ipnetwork::IpNetwork;

use crate::cluster::snapshot::Published;

/// Admits the clients of given networks, this machine, and the addresses of Services and endpoints.
#[derive(Clone, Debug)]
pub struct Admission {
    /// `None`: every client is admitted.
    pub networks: Option<Arc<[IpNetwork]>>,
    /// The addresses of this machine.
    pub own: HashSet<IpAddr>,
    pub published: Arc<Published>,
}

impl Admission {
    pub fn admits(&self, client: IpAddr) -> bool {
        let Some(networks) = &self.networks else { return true };
        client.is_loopback()
            || networks.iter().any(|network| network.contains(client))
            || self.own.contains(&client)
            || self.published.load().has_address_in(client, client)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::cluster::{
        snapshot::Index,
        zone::{Change, Endpoints, ObjectName, ServiceKey, Slice},
    };

    fn published() -> Arc<Published> {
        let id = ObjectName { namespace: "shop".into(), name: "web-1".into() };
        let slice = Slice {
            id: id.clone(),
            service: ServiceKey::new("shop", "web").unwrap(),
            ports: [].into(),
            v4: Endpoints { unnamed: [Ipv4Addr::new(198, 51, 100, 7)].into(), named: [].into() },
            v6: Endpoints { unnamed: [].into(), named: [].into() },
            zones: [].into(),
            triggered: None,
            local_pods: None,
        };
        let mut index = Index::default();
        index.apply(Change::Slice(id, Some(Arc::new(slice))));
        let published = Published::default();
        published.publish(index.snapshot(1));
        Arc::new(published)
    }

    #[test]
    fn only_known_clients_are_admitted() {
        let networks = ["10.244.0.0/16", "fd00:1::/48"].map(|network| network.parse().unwrap());
        let restricted = Admission {
            networks: Some(networks.into()),
            own: HashSet::from(["203.0.113.1".parse().unwrap()]),
            published: published(),
        };
        let open = Admission { networks: None, ..restricted.clone() };
        for (client, admitted) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("10.244.3.4", true),
            ("fd00:1::9", true),
            ("203.0.113.1", true),
            ("198.51.100.7", true),
            ("10.245.0.1", false),
            ("198.51.100.8", false),
            ("203.0.113.2", false),
            ("fd00:2::9", false),
            ("2001:db8::1", false),
        ] {
            let address = client.parse().unwrap();
            assert_eq!(restricted.admits(address), admitted, "{client}");
            assert!(open.admits(address), "{client}, without restriction");
        }
    }
}
