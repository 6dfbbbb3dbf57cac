//! The servers of healthCheckNodePorts: one per Service and address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::HeaderName,
    response::{IntoResponse as _, Response},
};
use jiff::Timestamp;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::sleep,
};
use tracing::{info, warn};

use super::{
    endpoints::respond,
    listen::{self, bind},
};
use crate::{
    k8s::events::Report,
    model::{address::IpFamily, service::ServiceKey},
    observe::{agent_state::AgentState, health::service_response, health_check_ports::WantedHealthChecks},
};

/// The delay before a failed bind is retried; a change retries at once.
const RETRY: Duration = Duration::from_secs(5);
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

type Binding = (ServiceKey, SocketAddr);

struct HealthCheckServers {
    wanted: watch::Receiver<WantedHealthChecks>,
    state: Arc<AgentState>,
    reports: mpsc::UnboundedSender<Report>,
    open: BTreeMap<Binding, JoinHandle<()>>,
    /// Bindings that failed and were logged.
    failed: BTreeSet<Binding>,
}

/// The state of one server.
#[derive(Clone)]
struct HealthCheckServer {
    service: ServiceKey,
    family: IpFamily,
    wanted: watch::Receiver<WantedHealthChecks>,
    state: Arc<AgentState>,
}

pub async fn run(
    mut wanted: watch::Receiver<WantedHealthChecks>,
    state: Arc<AgentState>,
    reports: mpsc::UnboundedSender<Report>,
) {
    let (open, failed) = (BTreeMap::new(), BTreeSet::new());
    let mut servers = HealthCheckServers { wanted: wanted.clone(), state, reports, open, failed };
    loop {
        let bindings = wanted_bindings(&wanted.borrow_and_update());
        servers.reconcile(bindings).await;
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if !servers.failed.is_empty() => {}
        }
    }
}

/// The addresses to serve.
fn wanted_bindings(wanted: &WantedHealthChecks) -> BTreeSet<Binding> {
    let mut bindings = BTreeSet::new();
    for (service, health) in &wanted.services {
        for family in IpFamily::BOTH {
            let addresses =
                wanted.addresses.get(family).iter().filter(|_| health.local_endpoints.get(family).is_some());
            bindings
                .extend(addresses.map(|ip: &IpAddr| (service.clone(), SocketAddr::new(*ip, health.port))));
        }
    }
    bindings
}

impl HealthCheckServers {
    /// Closes first: a port may have moved to another Service.
    async fn reconcile(&mut self, bindings: BTreeSet<Binding>) {
        let (open, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.open).into_iter().partition(|(binding, _)| bindings.contains(binding));
        self.open = open;
        for server in gone.into_values() {
            server.abort();
            // The port is free only then.
            let _ = server.await;
        }
        self.failed.retain(|binding| bindings.contains(binding));
        for binding in bindings {
            if !self.open.contains_key(&binding) {
                self.open(binding);
            }
        }
    }

    fn open(&mut self, binding: Binding) {
        let (service, address) = &binding;
        match bind(*address) {
            Ok(listener) => {
                let server = HealthCheckServer {
                    service: service.clone(),
                    family: IpFamily::of(address.ip()),
                    wanted: self.wanted.clone(),
                    state: Arc::clone(&self.state),
                };
                info!(%service, %address, "serving health check");
                let app = Router::new().fallback(check).with_state(server);
                // The task ends by abort.
                let server = tokio::spawn(async move { listen::serve_http(listener, app).await });
                self.failed.remove(&binding);
                self.open.insert(binding, server);
            }
            Err(error) => {
                if !self.failed.contains(&binding) {
                    warn!(%service, %address, %error, "cannot serve health check, will retry");
                    let note = format!("cannot serve health checks on {address}: {error}");
                    // Without an API server there is no receiver.
                    let _ = self.reports.send(Report::of_health_port(service.clone(), note));
                    self.failed.insert(binding);
                }
            }
        }
    }
}

/// Answers any path and method.
async fn check(State(server): State<HealthCheckServer>) -> Response {
    let HealthCheckServer { service, family, wanted, state } = server;
    let count = wanted.borrow().services.get(&service).and_then(|health| *health.local_endpoints.get(family));
    let count = count.unwrap_or_default();
    let is_healthy = state.health().is_healthy(Timestamp::now());
    ([(WEIGHT, count.to_string())], respond(service_response(&service, count, is_healthy))).into_response()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::observe::status::Status;

    #[tokio::test]
    async fn a_port_goes_from_one_service_to_another_at_once() {
        let (_sender, wanted) = watch::channel(WantedHealthChecks::default());
        let state = Arc::new(AgentState::new(Duration::from_secs(60), Status::new("node-1")).unwrap());
        let (reports, mut events) = mpsc::unbounded_channel();
        let (open, failed) = (BTreeMap::new(), BTreeSet::new());
        let mut servers = HealthCheckServers { wanted, state, reports, open, failed };
        let port = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap().local_addr().unwrap();
        for name in ["old", "new"] {
            let binding = (ServiceKey::new("shop", name), port);
            servers.reconcile(BTreeSet::from([binding.clone()])).await;
            assert!(servers.open.contains_key(&binding) && servers.failed.is_empty(), "{name}");
        }
        assert!(events.try_recv().is_err(), "no failure is reported");
    }
}
