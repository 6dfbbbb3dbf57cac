//! The addresses at which an embedded server listens where its configuration names none.

use std::{future::pending, net::IpAddr};

use tokio::sync::watch;

/// The addresses of the node, followed while the server runs. Unset, wildcards are bound, as in CoreDNS; set, they are
/// never bound: other servers may have port 53 of loopback or of another interface.
#[derive(Clone, Debug, Default)]
pub struct NodeAddresses(Option<watch::Receiver<Vec<IpAddr>>>);

impl NodeAddresses {
    pub fn new(addresses: watch::Receiver<Vec<IpAddr>>) -> Self {
        Self(Some(addresses))
    }

    pub fn current(&self) -> Option<Vec<IpAddr>> {
        self.0.as_ref().map(|addresses| addresses.borrow().clone())
    }

    /// Waits for a change.
    pub async fn changed(&mut self) {
        let changed = match &mut self.0 {
            Some(addresses) => addresses.changed().await.is_ok(),
            None => false,
        };
        if !changed {
            // Unset, or the sender is gone.
            pending::<()>().await;
        }
    }
}
