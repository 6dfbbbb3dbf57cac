//! The network state of the node that decides where its name server listens, and whom it answers.

use std::{collections::BTreeSet, net::IpAddr};

use dns::admitted::{Clients, KnownClients, UnknownPods};
use tokio::sync::watch;

use crate::{
    datapath::{
        NetlinkError, Network, Routes, local_addresses, local_pod_networks, primary_addresses, watch_network,
        watch_routes,
    },
    model::{name_clients::NameClients, node::NodeInfo, policy::Policy},
};

/// Each is updated when it changes.
#[derive(Clone, Debug)]
pub struct LocalNetworks {
    /// All addresses, also those of loopback and the link-local ones.
    pub addresses: watch::Receiver<BTreeSet<IpAddr>>,
    pub network: watch::Receiver<Network>,
    pub routes: watch::Receiver<Routes>,
}

impl LocalNetworks {
    /// Follows the network state of this network namespace.
    pub async fn watch() -> Result<Self, NetlinkError> {
        Ok(Self {
            addresses: local_addresses().await?,
            network: watch_network().await?,
            routes: watch_routes().await?,
        })
    }

    /// Waits for a change of any of them.
    pub async fn changed(&mut self) {
        // The senders live as long as the runtime.
        tokio::select! {
            Ok(()) = self.addresses.changed() => {}
            Ok(()) = self.network.changed() => {}
            Ok(()) = self.routes.changed() => {}
            else => std::future::pending().await,
        }
    }

    /// The addresses at which the name server listens by default. `named` are those of the flags or the Node object.
    pub fn primary_addresses(&self, named: &[IpAddr]) -> Vec<IpAddr> {
        primary_addresses(&self.network.borrow(), named)
    }

    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.borrow().contains(&address)
    }

    /// The clients that the name server answers.
    pub fn clients(&self, policy: &Policy, node: Option<&NodeInfo>) -> Clients {
        let (network, routes) = (self.network.borrow(), self.routes.borrow());
        let NameClients { networks, unknown_pods } =
            NameClients::new(policy, node, local_pod_networks(&network, &routes));
        let own = self.addresses.borrow().clone();
        let unknown_pods = UnknownPods { v4: unknown_pods.v4, v6: unknown_pods.v6 };
        Clients::Known(KnownClients { networks, own, unknown_pods })
    }
}
