//! The agent's loop reports its steps here, for health, metrics, status and health check ports.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use dns::observe::alarms::{Alarm, PresentAlarm};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::info;

use super::{
    agent_state::{AgentState, PassSummary},
    conditions::{ConditionType, Fault},
    health_check_ports::{HealthCheckPorts, WantedHealthChecks},
    no_local_endpoints::NoLocalEndpoints,
    objects::{ObjectRequestReceiver, Objects},
    query_source::QuerySource,
    service_changes::ServiceChanges,
    status::Unplaced,
    unserved_parts::UnservedParts,
};
use crate::{
    index::{Change, Index},
    k8s::events::Report,
    model::{
        address::IpFamily,
        frontend::{Frontend, FrontendKey},
        service::ServiceKey,
    },
    reconcile::Fill,
};

/// The kind whose failures concern endpoints alone, as the source states it.
const SLICES: &str = "EndpointSlices";

/// Limit of Events about Services per pass.
const MAX_REPORTS: usize = 10;

pub struct Telemetry {
    state: Arc<AgentState>,
    health_ports: HealthCheckPorts,
    no_local: NoLocalEndpoints,
    service_changes: ServiceChanges,
    /// Services without room, each with an Event.
    reported: BTreeSet<String>,
    /// The alarms of the upstreams of DNS, each with an Event.
    dns_alarms: Vec<Alarm>,
    /// Parts of Services without effect, each with an Event.
    unserved: UnservedParts,
    /// Objects have changed since these were determined.
    has_changed: bool,
    reports: mpsc::UnboundedSender<Report>,
    /// `None` in a second loop of the same state.
    object_requests: Option<ObjectRequestReceiver>,
    /// The start of the present pass.
    started: Option<Instant>,
}

/// The state after a pass.
pub struct CompletedPass<'a> {
    pub is_full_sync: bool,
    pub index: &'a Index,
    /// Number of frontends that could not be written.
    pub unwritten: usize,
    /// Services with frontends to be retried.
    pub unsynced: BTreeSet<&'a ServiceKey>,
    /// Families that are late for a reason of the node.
    pub late: BTreeSet<IpFamily>,
    pub unplaced: Vec<Unplaced>,
    pub local_addresses: &'a BTreeSet<IpAddr>,
    pub frontends: usize,
    pub fill: Vec<Fill>,
}

impl Telemetry {
    pub fn new(state: Arc<AgentState>, reports: mpsc::UnboundedSender<Report>) -> Self {
        Self {
            object_requests: state.object_requests.receiver(),
            state,
            health_ports: HealthCheckPorts::new(),
            no_local: NoLocalEndpoints::default(),
            service_changes: ServiceChanges::default(),
            reported: BTreeSet::new(),
            dns_alarms: Vec::new(),
            unserved: UnservedParts::default(),
            has_changed: false,
            reports,
            started: None,
        }
    }

    pub fn health_ports(&self) -> watch::Receiver<WantedHealthChecks> {
        self.health_ports.subscribe()
    }

    /// Heartbeat: the loop is about to wait for events.
    pub fn heartbeat(&mut self) {
        self.state.heartbeat();
        self.report_dns();
    }

    /// Sends an Event per alarm that begins.
    fn report_dns(&mut self) {
        let present = self.state.dns_alarms();
        for PresentAlarm { alarm, sentence } in &present {
            if !self.dns_alarms.contains(alarm) {
                // Without an API server there is no receiver.
                let _ = self.reports.send(Report::of_upstreams(sentence.clone()));
            }
        }
        self.dns_alarms = present.into_iter().map(|present| present.alarm).collect();
    }

    /// The next request for the objects; pending without one.
    pub async fn object_request(&mut self) -> oneshot::Sender<Objects> {
        if let Some(receiver) = &mut self.object_requests
            && let Some(request) = receiver.recv().await
        {
            return request;
        }
        std::future::pending().await
    }

    /// The loop has ended.
    pub fn loop_ended(&self) {
        self.state.loop_ended();
    }

    /// A change is about to be applied to the index.
    pub fn change_received(&mut self, change: &Change, index: &Index) {
        self.started.get_or_insert_with(Instant::now);
        self.has_changed = true;
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

    /// Connections of sockets to pods that are gone were reset.
    pub fn sockets_reset(&self, count: usize) {
        self.state.sockets_reset(count);
    }

    /// Whether the slices are as the source has them, as far as is known.
    pub fn are_slices_current(&self) -> bool {
        let failures = self.state.source.report().failures(jiff::Timestamp::now());
        !failures.keys().any(|kind| kind.is_empty() || kind == SLICES)
    }

    /// These frontends are about to be written.
    pub fn frontends_queued<'a>(&mut self, touched: impl IntoIterator<Item = &'a FrontendKey>) {
        self.started.get_or_insert_with(Instant::now);
        self.state.frontends_queued(touched);
    }

    /// The resolved state of a frontend; `None`: it is deleted.
    pub fn frontend_resolved(&mut self, key: FrontendKey, frontend: Option<&Frontend>) {
        self.no_local.update(key, frontend);
        self.service_changes.update(key, frontend);
    }

    pub fn pass_completed(&mut self, pass: CompletedPass<'_>) {
        let is_clean = pass.late.is_empty();
        let took = self.started.take().map_or(Duration::ZERO, |started| started.elapsed());
        self.service_changes.log(took, pass.is_full_sync);
        if is_clean {
            self.no_local.publish(&self.state);
        }
        self.report_unplaced(&pass.unplaced);
        self.state.conditions.set(ConditionType::ClaimsHeld, "claims", lost_claims(pass.index));
        self.state.pass_completed(PassSummary {
            is_full_sync: pass.is_full_sync,
            took,
            unwritten: pass.unwritten,
            late: pass.late,
            unplaced: pass.unplaced,
            frontends: pass.frontends,
            fill: pass.fill,
            is_node_eligible: pass.index.node_info().map(|node| node.is_eligible),
        });
        self.health_ports.publish(pass.index, pass.local_addresses, &pass.unsynced);
    }

    /// Sends an Event per Service that has no room any more, to a few of them at a time.
    fn report_unplaced(&mut self, unplaced: &[Unplaced]) {
        let present: BTreeSet<&str> = unplaced.iter().map(|one| one.service.as_str()).collect();
        self.reported.retain(|service| present.contains(service.as_str()));
        let mut left = MAX_REPORTS;
        for Unplaced { service, reason, frontends, .. } in unplaced {
            let Some((namespace, name)) = service.split_once('/').filter(|_| left > 0) else { continue };
            if self.reported.insert(service.clone()) {
                left -= 1;
                let note = format!("{frontends} frontends are not served or not up to date: {reason}");
                let key = ServiceKey::new(namespace, name);
                // Without an API server there is no receiver.
                let _ = self.reports.send(Report::of_unplaced(key, note));
            }
        }
    }

    /// Reports the parts of Services without effect, if objects have changed. Visits every object: called every few
    /// seconds.
    pub fn report_unserved(&mut self, index: &Index) {
        if !self.has_changed && !self.unserved.is_behind() {
            return;
        }
        self.has_changed = false;
        let unserved = index.unserved();
        self.state.set_unserved(&unserved);
        for (service, note) in self.unserved.update(&unserved) {
            info!(%service, reason = note, "part of a Service not served");
            // Without an API server there is no receiver.
            let _ = self.reports.send(Report::of_unserved(service, note));
        }
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

fn lost_claims(index: &Index) -> impl Iterator<Item = Fault> {
    index.lost_claims().map(|(service, lost)| {
        let message = format!("{service}: {lost}");
        Fault::new(message.clone(), "LostClaim", message)
    })
}

#[cfg(test)]
mod tests {
    use dns::observe::metrics::Metrics;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::*;
    use crate::{
        k8s::{self, events::Regarding},
        manifests,
        model::policy::Policy,
        observe::{conditions::Condition, metrics::KernelCounters, status::Status},
    };

    #[test]
    fn an_alarm_of_the_upstreams_of_dns_is_in_the_status_and_makes_one_event() {
        let state = Arc::new(AgentState::new(Duration::ZERO, Status::new("n")).unwrap());
        let (sender, mut reports) = mpsc::unbounded_channel();
        let mut telemetry = Telemetry::new(Arc::clone(&state), sender);
        let metrics = Arc::<Metrics>::default();
        telemetry.dns_started(QuerySource { metrics: Arc::clone(&metrics), published: Arc::default() });
        telemetry.heartbeat();
        assert!(reports.try_recv().is_err(), "no alarm");
        metrics.alarms().raise(Alarm::Failing, "a.example.");
        (0..2).for_each(|_| telemetry.heartbeat());
        let report = reports.try_recv().unwrap();
        assert_eq!((report.is_warning, report.reason), (true, "DNSUpstreamsUnreliable"));
        assert!(report.note.ends_with("for a.example."), "{}", report.note);
        assert!(reports.try_recv().is_err(), "once");
        let conditions = state.status().conditions;
        let upstreams = conditions.iter().find(|one| one.r#type == ConditionType::UpstreamsReliable).unwrap();
        assert_eq!((upstreams.reason.as_str(), &upstreams.message), ("Failing", &report.note));
    }

    fn service(name: &str, ip: u8) -> String {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: 10.96.0.{ip}, \
             externalIPs: [203.0.113.10], ports: [{{port: 80}}]}}\n---\n"
        )
    }

    #[test]
    fn a_lost_claim_is_a_condition_until_the_owner_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("all.yaml"), service("one", 1) + &service("two", 2)).unwrap();
        let (mut index, _) = manifests::load(dir.path()).unwrap().to_index(Policy::default());
        let state = Arc::new(AgentState::new(Duration::ZERO, Status::new("n")).unwrap());
        let mut telemetry = Telemetry::new(Arc::clone(&state), mpsc::unbounded_channel().0);
        let mut claims = |index: &Index| -> Condition {
            telemetry.pass_completed(CompletedPass {
                is_full_sync: false,
                index,
                unwritten: 0,
                unsynced: BTreeSet::new(),
                late: BTreeSet::new(),
                unplaced: Vec::new(),
                local_addresses: &BTreeSet::new(),
                frontends: 0,
                fill: Vec::new(),
            });
            let conditions = state.conditions.all().into_iter();
            let mut claims = conditions.filter(|one| one.r#type == ConditionType::ClaimsHeld);
            claims.next().unwrap()
        };
        let lost = claims(&index);
        assert_eq!((lost.is_fault(), lost.reason.as_str()), (true, "LostClaim"));
        let start = "default/two: ExternalIP 203.0.113.10:80/TCP is served for default/one";
        assert!(lost.message.starts_with(start), "{lost:?}");
        index.apply(Change::Service(ServiceKey::new("default", "one"), None));
        assert!(!claims(&index).is_fault());
    }

    #[test]
    fn a_lost_claim_is_an_event_a_line_of_the_status_and_a_metric() {
        let state = Arc::new(AgentState::new(Duration::from_secs(60), Status::new("node-1")).unwrap());
        let (reports, mut events) = mpsc::unbounded_channel();
        let mut telemetry = Telemetry::new(Arc::clone(&state), reports);
        let mut index = Index::new(Policy::default());
        for (name, ip) in [("one", "10.96.0.1"), ("two", "10.96.0.2")] {
            let service: Service =
                serde_json::from_value(json!({"metadata": {"name": name, "namespace": "shop"},
                "spec": {"clusterIP": ip, "externalIPs": ["198.51.100.1"], "ports": [{"port": 80}]}}))
                .unwrap();
            let service = k8s::service::read(&service).unwrap().value;
            let change = Change::Service(service.key.clone(), Some(Arc::new(service)));
            telemetry.change_received(&change, &index);
            index.apply(change);
        }
        telemetry.report_unserved(&index);
        assert!(events.try_recv().is_err(), "it may last for a moment only");
        telemetry.report_unserved(&index);
        let event = events.try_recv().unwrap();
        assert_eq!(event.regarding, Regarding::Service(ServiceKey::new("shop", "two")));
        assert!(event.note.contains("198.51.100.1:80/TCP is served for shop/one"), "{}", event.note);
        let status = state.status();
        assert_eq!((status.unserved_count, &*status.unserved[0].service), (1, "shop/two"));
        assert!(status.faults().iter().all(|fault| !fault.contains("shop")), "it is the tenant's");
        let metrics = state.metrics.render(&KernelCounters::default()).unwrap();
        assert!(String::from_utf8(metrics).unwrap().contains(r#"portreeve_unserved{reason="lost_claim"} 1"#));
        telemetry.report_unserved(&index);
        assert!(events.try_recv().is_err(), "reported once");
    }
}
