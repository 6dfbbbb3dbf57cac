//! Health checks: a failed upstream is probed until it answers.

use std::{
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use hickory_server::proto::{
    op::Query,
    rr::{Name, RecordType},
};
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    failure::Failure,
    hedge::within,
    upstream::{Budget, Upstream},
};
use crate::{config::HealthCheck, resolve::reply::QueryFlags};

const TIME: Duration = Duration::from_secs(1);
/// One query, its retry without 0x20 or EDNS, and one over TCP.
const PACKETS: u32 = 3;

/// Starts the probe task, unless it is running. It ends with any answer of the upstream.
pub(super) fn start(upstream: &Arc<Upstream>, check: &HealthCheck) {
    if upstream.probing.swap(true, Relaxed) {
        return;
    }
    let (upstream, check) = (Arc::downgrade(upstream), check.clone());
    tokio::spawn(async move { probe_until_alive(&upstream, &check).await });
}

async fn probe_until_alive(upstream: &Weak<Upstream>, check: &HealthCheck) {
    let question = Query::query(Name::from(&check.domain), RecordType::NS);
    let flags = QueryFlags { no_recursion: !check.recursion_desired, ..QueryFlags::default() };
    // Also ends when the upstream is dropped, as a changed file no longer lists it.
    while let Some(upstream) = upstream.upgrade() {
        match probe(&upstream, &question, &flags).await {
            Ok(()) => {
                if upstream.clear_failures() {
                    info!(upstream = %upstream.target, "upstream answers again");
                }
                upstream.probing.store(false, Relaxed);
                return;
            }
            Err(error) => {
                upstream.metrics.count_failed_probe();
                if upstream.count_failure() {
                    warn!(upstream = %upstream.target, %error, "upstream does not answer");
                }
            }
        }
        drop(upstream);
        sleep(check.interval).await;
    }
}

async fn probe(upstream: &Upstream, question: &Query, flags: &QueryFlags) -> Result<(), Failure> {
    let budget = Budget::of(PACKETS);
    match within(TIME, Failure::Timeout, upstream.query(question, flags, &budget)).await {
        Err(failure) if failure.is_upstream_failure() => Err(failure),
        // Any answer shows that the upstream is alive.
        Ok(_) | Err(_) => Ok(()),
    }
}
