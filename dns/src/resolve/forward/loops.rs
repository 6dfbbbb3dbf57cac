//! Detection of forwarding loops.
//!
//! Each upstream gets a query for a random name. If that query arrives at this server, the upstream is excluded
//! until a later probe does not return; queries to other upstreams continue.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use hickory_server::proto::{
    op::Query,
    rr::{LowerName, Name, RecordType},
};
use tracing::{error, info};

use super::{
    failure::Failure,
    hedge::within,
    upstream::{Budget, Upstream},
};
use crate::resolve::reply::QueryFlags;

/// The probes in flight, shared by all forwarders of a server, as a probe may return to any of them.
#[derive(Debug, Default)]
pub struct LoopDetector(Mutex<HashMap<LowerName, bool>>);

const TIME: Duration = Duration::from_secs(2);
const PACKETS: u32 = 2;

impl LoopDetector {
    /// Whether a query is one of the probes in flight. Records that the probe has returned.
    pub(super) fn is_own_probe(&self, question: &Query) -> bool {
        if question.query_type() != RecordType::HINFO {
            return false;
        }
        match self.probes().get_mut(&LowerName::new(question.name())) {
            Some(is_own_probe) => {
                *is_own_probe = true;
                true
            }
            None => false,
        }
    }

    /// Probes an upstream for a loop.
    pub(super) async fn probe(&self, upstream: &Upstream, zone: &Name) {
        let Some(name) = random_name(zone) else { return };
        let key = LowerName::new(&name);
        self.probes().insert(key.clone(), false);
        let question = Query::query(name, RecordType::HINFO);
        let budget = Budget::of(PACKETS);
        let flags = QueryFlags::default();
        let query = upstream.query(&question, &flags, &budget);
        // Only the return of the probe matters, not its answer.
        let _ = within(TIME, Failure::Timeout, query).await;
        let is_own_probe = self.probes().remove(&key).unwrap_or_default();
        record_result(upstream, is_own_probe);
    }

    fn probes(&self) -> MutexGuard<'_, HashMap<LowerName, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn record_result(upstream: &Upstream, loops: bool) {
    let looped = upstream.loops.swap(loops, Relaxed);
    if loops && !looped {
        upstream.metrics.count_loop();
        error!(upstream = %upstream.target, "forwarding loop detected, upstream excluded");
    } else if looped && !loops {
        info!(upstream = %upstream.target, "forwarding loop has ended, upstream in use again");
    }
}

/// Returns `None` for a zone whose name is too long to prepend labels: names below it are not queried either.
fn random_name(zone: &Name) -> Option<Name> {
    let label = || format!("{:019}", rand::random::<u64>() % 10_u64.pow(19));
    zone.prepend_label(label()).ok()?.prepend_label(label()).ok()
}

/// Probes several upstreams concurrently.
pub(super) async fn probe_all(loops: &LoopDetector, upstreams: &[Arc<Upstream>], zone: &Name) {
    futures_util::future::join_all(upstreams.iter().map(|upstream| loops.probe(upstream, zone))).await;
}
