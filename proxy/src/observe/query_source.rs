//! Who asks for names, told from what the server counts and what is known of this node's pods.

use std::sync::Arc;

use dns::{cluster::snapshot::Published, observe::metrics::Metrics, serve::server};
use tracing::debug;

use crate::observe::query_statistics::QueryStatistics;

/// Where it is found; whoever asks for it does not hold up the loop.
#[derive(Debug)]
pub struct QuerySource {
    pub metrics: Arc<Metrics>,
    pub published: Arc<Published>,
}

impl QuerySource {
    pub fn read(&self) -> QueryStatistics {
        let own = server::local_addresses().unwrap_or_else(|error| {
            debug!(%error, "the addresses of this node are not known");
            Vec::new()
        });
        let snapshot = self.published.load();
        let (report, upstreams) = (self.metrics.clients().report(), self.metrics.upstreams());
        QueryStatistics::new(report, upstreams, &snapshot.local_pods(), &own)
    }
}
