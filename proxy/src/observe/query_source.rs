//! The source of query statistics: the DNS server's counters and the names of local pods.

use std::sync::Arc;

use dns::{
    cluster::snapshot::{Published, Snapshot},
    observe::metrics::Metrics,
};
use tracing::debug;

use crate::observe::query_statistics::QueryStatistics;

/// Shared with the DNS server, so that reading does not involve the agent's loop.
#[derive(Debug)]
pub struct QuerySource {
    pub metrics: Arc<Metrics>,
    pub published: Arc<Published>,
}

impl QuerySource {
    /// The published objects.
    pub fn names(&self) -> Arc<Snapshot> {
        Arc::clone(&self.published.load())
    }

    pub fn read(&self) -> QueryStatistics {
        let own = dns::interfaces::addresses().unwrap_or_else(|error| {
            debug!(%error, "cannot read local addresses");
            Vec::new()
        });
        let snapshot = self.published.load();
        let (report, upstreams) = (self.metrics.clients().report(), self.metrics.upstreams());
        QueryStatistics::new(report, upstreams, &snapshot.local_pods(), &own)
    }
}
