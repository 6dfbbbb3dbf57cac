//! The agent's loop reports its steps here, for health, metrics, status and health check ports.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    agent_state::{AgentState, PassSummary},
    health_check_ports::{HealthCheckPorts, WantedHealthChecks},
    no_local_endpoints::NoLocalEndpoints,
    query_source::QuerySource,
};
use crate::{
    index::{Change, Index},
    model::frontend::{Frontend, FrontendKey},
    reconcile::Fill,
};

pub struct Telemetry {
    state: Arc<AgentState>,
    health_ports: HealthCheckPorts,
    no_local: NoLocalEndpoints,
    /// The start of the present pass.
    started: Option<Instant>,
}

/// The state after a pass.
pub struct CompletedPass<'a> {
    pub is_full_sync: bool,
    pub index: &'a Index,
    pub unwritten: &'a BTreeSet<FrontendKey>,
    pub local_addresses: &'a BTreeSet<IpAddr>,
    pub frontends: usize,
    pub fill: Vec<Fill>,
}

impl Telemetry {
    pub fn new(state: Arc<AgentState>) -> Self {
        Self {
            state,
            health_ports: HealthCheckPorts::new(),
            no_local: NoLocalEndpoints::default(),
            started: None,
        }
    }

    pub fn health_ports(&self) -> watch::Receiver<WantedHealthChecks> {
        self.health_ports.subscribe()
    }

    /// Heartbeat: the loop is about to wait for events.
    pub fn heartbeat(&self) {
        self.state.heartbeat();
    }

    /// The loop has ended.
    pub fn loop_ended(&self) {
        self.state.loop_ended();
    }

    /// A change is about to be applied to the index.
    pub fn change_received(&mut self, change: &Change, index: &Index) {
        self.started.get_or_insert_with(Instant::now);
        self.state.change_received(change);
        self.health_ports.change_received(change, index);
    }

    pub fn objects_skipped(&self, count: usize) {
        self.state.objects_skipped(count);
    }

    /// The hooks were verified: the number of repaired ones, and the errors.
    pub fn hooks_verified(&self, repaired: usize, failures: BTreeSet<String>) {
        self.state.hooks_verified(repaired, failures);
    }

    /// These frontends are about to be written.
    pub fn frontends_queued<'a>(&mut self, touched: impl IntoIterator<Item = &'a FrontendKey>) {
        self.started.get_or_insert_with(Instant::now);
        self.state.frontends_queued(touched);
    }

    /// The resolved state of a frontend; `None`: it is deleted.
    pub fn frontend_resolved(&mut self, key: FrontendKey, frontend: Option<&Frontend>) {
        self.no_local.update(key, frontend);
    }

    pub fn pass_completed(&mut self, pass: CompletedPass<'_>) {
        let is_clean = pass.unwritten.is_empty();
        let took = self.started.take().map_or(Duration::ZERO, |started| started.elapsed());
        if is_clean {
            self.no_local.publish(&self.state);
        }
        self.state.pass_completed(PassSummary {
            is_full_sync: pass.is_full_sync,
            took,
            unwritten: pass.unwritten,
            frontends: pass.frontends,
            fill: pass.fill,
            is_node_eligible: pass.index.node_info().map(|node| node.is_eligible),
        });
        self.health_ports.publish(pass.index, pass.local_addresses, pass.unwritten);
    }

    /// DNS is served from now on.
    pub fn dns_started(&self, source: QuerySource) {
        self.state.dns_started(source);
    }

    /// The DNS records of the pass are published.
    pub fn dns_published(&self) {
        self.state.dns_published();
    }
}
