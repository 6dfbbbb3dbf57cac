//! One responder per Service that has a healthCheckNodePort, and address.

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

/// A port that cannot be had is asked for again after this time, or with the next change.
const RETRY: Duration = Duration::from_secs(5);
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

type Binding = (ServiceKey, SocketAddr);

struct HealthCheckServers {
    wanted: watch::Receiver<WantedHealthChecks>,
    state: Arc<AgentState>,
    reports: mpsc::UnboundedSender<Report>,
    open: BTreeMap<Binding, JoinHandle<()>>,
    /// Places that could not be had, each of which was told once.
    failed: BTreeSet<Binding>,
}

/// What one responder answers from.
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
    let mut responders = HealthCheckServers { wanted: wanted.clone(), state, reports, open, failed };
    loop {
        let bindings = wanted_bindings(&wanted.borrow_and_update());
        responders.reconcile(bindings).await;
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if !responders.failed.is_empty() => {}
        }
    }
}

/// Where something is to be answered.
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
    /// What goes is closed first: its port may have gone to another Service.
    async fn reconcile(&mut self, bindings: BTreeSet<Binding>) {
        let (open, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.open).into_iter().partition(|(binding, _)| bindings.contains(binding));
        self.open = open;
        for responder in gone.into_values() {
            responder.abort();
            // The port is free only then.
            let _ = responder.await;
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
                let responder = HealthCheckServer {
                    service: service.clone(),
                    family: IpFamily::of(address.ip()),
                    wanted: self.wanted.clone(),
                    state: Arc::clone(&self.state),
                };
                info!(%service, %address, "health check is answered");
                let app = Router::new().fallback(check).with_state(responder);
                // It ends when it is aborted.
                let responder = tokio::spawn(async move { listen::serve_http(listener, app).await });
                self.failed.remove(&binding);
                self.open.insert(binding, responder);
            }
            Err(error) => {
                if !self.failed.contains(&binding) {
                    warn!(%service, %address, %error, "health check not answered, will retry");
                    let note = format!("cannot answer health checks on {address}: {error}");
                    // Without an API server nobody takes it.
                    let _ = self.reports.send(Report::of_health_port(service.clone(), note));
                    self.failed.insert(binding);
                }
            }
        }
    }
}

/// Whatever is asked, by whatever method.
async fn check(State(responder): State<HealthCheckServer>) -> Response {
    let HealthCheckServer { service, family, wanted, state } = responder;
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
        let (reports, mut told) = mpsc::unbounded_channel();
        let (open, failed) = (BTreeMap::new(), BTreeSet::new());
        let mut responders = HealthCheckServers { wanted, state, reports, open, failed };
        let port = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap().local_addr().unwrap();
        for name in ["old", "new"] {
            let binding = (ServiceKey::new("shop", name), port);
            responders.reconcile(BTreeSet::from([binding.clone()])).await;
            assert!(responders.open.contains_key(&binding) && responders.failed.is_empty(), "{name}");
        }
        assert!(told.try_recv().is_err(), "nobody was told of a failure");
    }
}
