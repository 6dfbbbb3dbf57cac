//! Sees what the agent does, and passes it on to whoever is asked about it: health, metrics, status, health check ports.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    agent_state::{Passed, Vitals},
    health_check_ports::{HealthPorts, Wanted},
    no_local_endpoints::NoLocal,
    query_source::Askers,
};
use crate::{
    index::{Change, Index},
    model::frontend::{Frontend, FrontendKey},
    reconcile::Fill,
};

pub struct Witness {
    vitals: Arc<Vitals>,
    health_ports: HealthPorts,
    no_local: NoLocal,
    /// When the pass began that is under way.
    began: Option<Instant>,
}

/// What a pass left behind.
pub struct After<'a> {
    pub is_full: bool,
    pub index: &'a Index,
    pub unwritten: &'a BTreeSet<FrontendKey>,
    pub local_addresses: &'a BTreeSet<IpAddr>,
    pub frontends: usize,
    pub fill: Vec<Fill>,
}

impl Witness {
    pub fn new(vitals: Arc<Vitals>) -> Self {
        Self { vitals, health_ports: HealthPorts::new(), no_local: NoLocal::default(), began: None }
    }

    pub fn health_ports(&self) -> watch::Receiver<Wanted> {
        self.health_ports.follow()
    }

    /// The loop is about to wait for something to do.
    pub fn turned(&self) {
        self.vitals.turned();
    }

    /// The loop is over.
    pub fn rests(&self) {
        self.vitals.rests();
    }

    /// A change is about to go into the index.
    pub fn came(&mut self, change: &Change, index: &Index) {
        self.began.get_or_insert_with(Instant::now);
        self.vitals.came(change);
        self.health_ports.came(change, index);
    }

    pub fn skipped(&self, count: usize) {
        self.vitals.skipped(count);
    }

    /// The hooks were looked at: so many were repaired, and this could not be.
    pub fn attached(&self, repaired: usize, failures: BTreeSet<String>) {
        self.vitals.attached(repaired, failures);
    }

    /// These frontends are about to be written.
    pub fn queued<'a>(&mut self, touched: impl IntoIterator<Item = &'a FrontendKey>) {
        self.began.get_or_insert_with(Instant::now);
        self.vitals.queued(touched);
    }

    /// What a frontend is to look like; nothing: it goes.
    pub fn looked_at(&mut self, key: FrontendKey, frontend: Option<&Frontend>) {
        self.no_local.note(key, frontend);
    }

    pub fn passed(&mut self, after: After<'_>) {
        let is_clean = after.unwritten.is_empty();
        let took = self.began.take().map_or(Duration::ZERO, |began| began.elapsed());
        if is_clean {
            self.no_local.tell(&self.vitals);
        }
        self.vitals.passed(Passed {
            is_full: after.is_full,
            took,
            unwritten: after.unwritten,
            frontends: after.frontends,
            fill: after.fill,
            is_node_eligible: after.index.node_info().map(|node| node.is_eligible),
        });
        self.health_ports.publish(after.index, after.local_addresses, after.unwritten);
    }

    /// Names are answered from now on.
    pub fn answers(&self, askers: Askers) {
        self.vitals.answers(askers);
    }

    /// The names that belong to it are answered.
    pub fn answered(&self) {
        self.vitals.answered();
    }
}
