//! State that all forwarders of a server share.

use std::{collections::HashSet, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;

use super::loops::LoopDetector;
use crate::{
    admitted::Admitted,
    config::LastKnownGood,
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
}

/// The addresses of this server.
pub type OwnAddresses = HashSet<SocketAddr>;
