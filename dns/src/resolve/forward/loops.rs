//! An upstream that leads back here.
//!
//! Each is asked for a name that nobody else can know. If that question arrives at this server, the upstream is left out
//! until a later probe ends elsewhere; everything else is served on.

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
    QueryFlags,
    hedge::within,
    upstream::{Budget, Failure, Upstream},
};

/// The probes under way; all forwarders of a server share it, as a question may come back to another one.
#[derive(Debug, Default)]
pub struct LoopDetector(Mutex<HashMap<LowerName, bool>>);

const TIME: Duration = Duration::from_secs(2);
const PACKETS: u32 = 2;

impl LoopDetector {
    /// Whether a question is a probe of ours, which then has its result.
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

    /// Finds out whether an upstream leads back here.
    pub(super) async fn probe(&self, upstream: &Upstream, zone: &Name) {
        let Some(name) = random_name(zone) else { return };
        let key = LowerName::new(&name);
        self.probes().insert(key.clone(), false);
        let question = Query::query(name, RecordType::HINFO);
        let budget = Budget::of(PACKETS);
        let asked = upstream.ask(&question, QueryFlags::default(), &budget);
        // Only where the question went is of interest, not what came of it.
        let _ = within(TIME, Failure::Timeout, asked).await;
        let is_own_probe = self.probes().remove(&key).unwrap_or_default();
        conclude(upstream, is_own_probe);
    }

    fn probes(&self) -> MutexGuard<'_, HashMap<LowerName, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn conclude(upstream: &Upstream, loops: bool) {
    let did = upstream.loops.swap(loops, Relaxed);
    if loops && !did {
        upstream.metrics.loops();
        error!(upstream = %upstream.target, "upstream leads back to this server and is left out");
    } else if did && !loops {
        info!(upstream = %upstream.target, "upstream no longer leads back to this server");
    }
}

/// None for a zone whose names are too long to prepend to: nobody will ask for names in it either.
fn random_name(zone: &Name) -> Option<Name> {
    let label = || format!("{:019}", rand::random::<u64>() % 10_u64.pow(19));
    zone.prepend_label(label()).ok()?.prepend_label(label()).ok()
}

/// Finds out about several at once.
pub(super) async fn probe_all(loops: &LoopDetector, upstreams: &[Arc<Upstream>], zone: &Name) {
    futures_util::future::join_all(upstreams.iter().map(|upstream| loops.probe(upstream, zone))).await;
}
