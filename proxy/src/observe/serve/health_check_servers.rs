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
    observe::{agent_state::Vitals, health::service_answer, health_check_ports::Wanted},
};

/// A port that cannot be had is asked for again after this time, or with the next change.
const RETRY: Duration = Duration::from_secs(5);
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

type Place = (ServiceKey, SocketAddr);

struct Responders {
    wanted: watch::Receiver<Wanted>,
    vitals: Arc<Vitals>,
    reports: mpsc::UnboundedSender<Report>,
    open: BTreeMap<Place, JoinHandle<()>>,
    /// Places that could not be had, each of which was told once.
    failed: BTreeSet<Place>,
}

/// What one responder answers from.
#[derive(Clone)]
struct Responder {
    service: ServiceKey,
    family: IpFamily,
    wanted: watch::Receiver<Wanted>,
    vitals: Arc<Vitals>,
}

pub async fn follow(
    mut wanted: watch::Receiver<Wanted>,
    vitals: Arc<Vitals>,
    reports: mpsc::UnboundedSender<Report>,
) {
    let (open, failed) = (BTreeMap::new(), BTreeSet::new());
    let mut responders = Responders { wanted: wanted.clone(), vitals, reports, open, failed };
    loop {
        let places = places(&wanted.borrow_and_update());
        responders.bring_in_line(places).await;
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if !responders.failed.is_empty() => {}
        }
    }
}

/// Where something is to be answered.
fn places(wanted: &Wanted) -> BTreeSet<Place> {
    let mut places = BTreeSet::new();
    for (service, health) in &wanted.services {
        for family in IpFamily::BOTH {
            let addresses =
                wanted.addresses.get(family).iter().filter(|_| health.local_endpoints.get(family).is_some());
            places.extend(addresses.map(|ip: &IpAddr| (service.clone(), SocketAddr::new(*ip, health.port))));
        }
    }
    places
}

impl Responders {
    /// What goes is closed first: its port may have gone to another Service.
    async fn bring_in_line(&mut self, places: BTreeSet<Place>) {
        let (open, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.open).into_iter().partition(|(place, _)| places.contains(place));
        self.open = open;
        for responder in gone.into_values() {
            responder.abort();
            // The port is free only then.
            let _ = responder.await;
        }
        self.failed.retain(|place| places.contains(place));
        for place in places {
            if !self.open.contains_key(&place) {
                self.open(place);
            }
        }
    }

    fn open(&mut self, place: Place) {
        let (service, address) = &place;
        match bind(*address) {
            Ok(listener) => {
                let responder = Responder {
                    service: service.clone(),
                    family: IpFamily::of(address.ip()),
                    wanted: self.wanted.clone(),
                    vitals: Arc::clone(&self.vitals),
                };
                info!(%service, %address, "health check is answered");
                let app = Router::new().fallback(answer).with_state(responder);
                // It ends when it is aborted.
                let responder = tokio::spawn(async move { listen::answer(listener, app).await });
                self.failed.remove(&place);
                self.open.insert(place, responder);
            }
            Err(error) => {
                if !self.failed.contains(&place) {
                    warn!(%service, %address, %error, "health check not answered, will retry");
                    let note = format!("cannot answer health checks on {address}: {error}");
                    // Without an API server nobody takes it.
                    let _ = self.reports.send(Report::of_health_port(service.clone(), note));
                    self.failed.insert(place);
                }
            }
        }
    }
}

/// Whatever is asked, by whatever method.
async fn answer(State(responder): State<Responder>) -> Response {
    let Responder { service, family, wanted, vitals } = responder;
    let count = wanted.borrow().services.get(&service).and_then(|health| *health.local_endpoints.get(family));
    let count = count.unwrap_or_default();
    let is_healthy = vitals.health().is_healthy(Timestamp::now());
    ([(WEIGHT, count.to_string())], respond(service_answer(&service, count, is_healthy))).into_response()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::observe::status::Status;

    #[tokio::test]
    async fn a_port_goes_from_one_service_to_another_at_once() {
        let (_sender, wanted) = watch::channel(Wanted::default());
        let vitals = Arc::new(Vitals::new(Duration::from_secs(60), Status::new("node-1")).unwrap());
        let (reports, mut told) = mpsc::unbounded_channel();
        let (open, failed) = (BTreeMap::new(), BTreeSet::new());
        let mut responders = Responders { wanted, vitals, reports, open, failed };
        let port = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap().local_addr().unwrap();
        for name in ["old", "new"] {
            let place = (ServiceKey::new("shop", name), port);
            responders.bring_in_line(BTreeSet::from([place.clone()])).await;
            assert!(responders.open.contains_key(&place) && responders.failed.is_empty(), "{name}");
        }
        assert!(told.try_recv().is_err(), "nobody was told of a failure");
    }
}
