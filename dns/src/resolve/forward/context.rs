//! State that all forwarders of a server share.

use std::{collections::HashSet, net::SocketAddr, num::NonZeroU32, sync::Arc};

use arc_swap::ArcSwap;

use super::loops::LoopDetector;
use crate::{
    admitted::Admitted,
    config::LastKnownGood,
    interfaces::LocalNetworks,
    observe::{heartbeat::Heartbeat, metrics::Metrics},
};

/// The state that all blocks of a server share.
#[derive(Debug, Clone, Default)]
pub struct ServerContext {
    pub metrics: Arc<Metrics>,
    /// The addresses of this server, according to its sockets: never forwarded to.
    pub own: Arc<ArcSwap<OwnAddresses>>,
    pub loops: Arc<LoopDetector>,
    /// Whether to probe upstreams for forwarding loops.
    pub detect_loops: bool,
    pub heartbeat: Heartbeat,
    pub last_known_good: LastKnownGood,
    pub admitted: Admitted,
    /// The limit of identical replies over UDP to one network, per second; `None`: unlimited.
    pub rate_limit: Option<NonZeroU32>,
    /// Their clients are not limited.
    pub local_networks: LocalNetworks,
}

/// The addresses of this server.
pub type OwnAddresses = HashSet<SocketAddr>;
