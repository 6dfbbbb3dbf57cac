//! The clients that are served.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tracing::warn;

use crate::{
    admitted::{Admitted, Clients, is_private, neighbourhood},
    cluster::snapshot::Published,
    interfaces::LocalNetworks,
};

/// Admits the clients of the present rule, this machine, and the addresses of Services and endpoints.
#[derive(Debug)]
pub struct Admission {
    admitted: Admitted,
    /// The addresses of this machine at the start of the server.
    own: HashSet<IpAddr>,
    published: Arc<Published>,
    /// Whether a refusal was logged.
    is_logged: AtomicBool,
    local_networks: LocalNetworks,
}

impl Admission {
    pub fn new(
        admitted: Admitted,
        local_networks: LocalNetworks,
        own: HashSet<IpAddr>,
        published: Arc<Published>,
    ) -> Self {
        Self { admitted, own, published, is_logged: AtomicBool::new(false), local_networks }
    }

    pub fn admits(&self, client: IpAddr) -> bool {
        match &**self.admitted.load() {
            Clients::All => true,
            Clients::Known(known) => {
                known.has(client)
                    || self.own.contains(&client)
                    || self.has_endpoint(client, client)
                    || known.unknown_pods.has_family_of(client) && self.may_be_pod(client)
            }
        }
    }

    /// Logs the first client that is not admitted; further ones are only counted.
    pub fn log_refusal(&self, client: IpAddr) {
        if !self.is_logged.swap(true, Relaxed) {
            warn!(%client, "client is not admitted, its queries are dropped and counted; --dns-allow admits more");
        }
    }

    fn may_be_pod(&self, client: IpAddr) -> bool {
        let (first, last) = neighbourhood(client);
        is_private(client) || self.has_endpoint(first, last)
    }

    fn has_endpoint(&self, first: IpAddr, last: IpAddr) -> bool {
        self.published.load().has_address_in(first, last)
    }
}

impl Admission {
    /// Whether a client is of this machine or in the network of its pods: a forged query from there harms nobody
    /// elsewhere.
    pub fn is_near(&self, client: IpAddr) -> bool {
        client.is_loopback() || self.local_networks.contain(client)
    }

    /// The same for clients that only a search finds: other addresses of this machine, and pods of it.
    pub fn is_local(&self, client: IpAddr) -> bool {
        self.own.contains(&client) || self.published.load().is_local_pod(client)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::Ipv4Addr};

    use super::*;
    use crate::{
        admitted::{KnownClients, UnknownPods},
        cluster::{
            snapshot::Index,
            zone::{Change, Endpoints, ObjectName, ServiceKey, Slice},
        },
    };

    fn published() -> Arc<Published> {
        let id = ObjectName { namespace: "shop".into(), name: "web-1".into() };
        let slice = Slice {
            id: id.clone(),
            service: ServiceKey::new("shop", "web").unwrap(),
            ports: [].into(),
            v4: Endpoints { unnamed: [Ipv4Addr::new(198, 51, 100, 7)].into(), named: [].into() },
            v6: Endpoints { unnamed: [].into(), named: [].into() },
            cluster: None,
            imported: None,
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
        let networks = ["10.244.0.0/16", "fd00:1::/48"].map(|network| network.parse().unwrap()).into();
        let own = BTreeSet::from(["203.0.113.9".parse().unwrap()]);
        let known = KnownClients { networks, own, unknown_pods: UnknownPods::default() };
        let guessing = KnownClients { unknown_pods: UnknownPods { v4: true, v6: false }, ..known.clone() };
        let admission = |clients| {
            let own = HashSet::from(["203.0.113.1".parse().unwrap()]);
            Admission::new(Admitted::new(clients), LocalNetworks::default(), own, published())
        };
        let (open, restricted) = (admission(Clients::All), admission(Clients::Known(known)));
        let guessing = admission(Clients::Known(guessing));
        for (client, admitted, guessed) in [
            ("127.0.0.1", true, true),
            ("::1", true, true),
            ("10.244.3.4", true, true),
            ("fd00:1::9", true, true),
            ("203.0.113.1", true, true),
            ("203.0.113.9", true, true),
            ("198.51.100.7", true, true),
            ("10.245.0.1", false, true),
            ("192.168.1.1", false, true),
            ("100.64.0.1", false, true),
            ("198.51.100.8", false, true),
            ("198.51.101.8", false, false),
            ("203.0.113.2", false, false),
            ("fd00:2::9", false, false),
            ("2001:db8::1", false, false),
        ] {
            let address = client.parse().unwrap();
            assert_eq!(restricted.admits(address), admitted, "{client}");
            assert_eq!(guessing.admits(address), guessed, "{client}, without known pod networks");
            assert!(open.admits(address), "{client}, without restriction");
        }
    }

    #[test]
    fn a_change_of_the_rule_takes_effect_at_once() {
        let admitted = Admitted::new(Clients::Known(KnownClients::default()));
        let admission =
            Admission::new(admitted.clone(), LocalNetworks::default(), HashSet::new(), Arc::default());
        let client = "10.244.3.4".parse().unwrap();
        assert!(!admission.admits(client));
        let networks = vec!["10.244.0.0/16".parse().unwrap()];
        admitted.set(Clients::Known(KnownClients { networks, ..KnownClients::default() }));
        assert!(admission.admits(client));
    }
}
