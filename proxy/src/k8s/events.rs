//! Kubernetes Events about the node and its Services, as kube-proxy emits them. They are informational: a failed request
//! is not retried.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use http::Request;
use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tracing::debug;

use super::access::{Access, Connection, status_code};
use crate::{error::chain, model::service::ServiceKey, source_state::RequestMetrics};

/// Value of `reportingController`.
const CONTROLLER: &str = "portreeve";
/// Namespace of Events about cluster-scoped objects.
const NAMESPACE: &str = "default";
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest note that the API accepts, in bytes.
const NOTE_LENGTH: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub regarding: Regarding,
    pub is_warning: bool,
    pub reason: &'static str,
    pub action: &'static str,
    pub note: String,
    /// Every node sees the same. The Event's name is that of its content, so that the API server keeps one.
    pub is_of_cluster: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Regarding {
    ThisNode,
    Service(ServiceKey),
}

impl Report {
    /// The agent starts.
    pub fn starting() -> Self {
        Self::of_node(false, "Starting", String::new())
    }

    /// The health or metrics server cannot listen.
    pub fn of_server(reason: &'static str, note: String) -> Self {
        Self::of_node(true, reason, note)
    }

    pub fn of_health_port(service: ServiceKey, note: String) -> Self {
        Self::of_service(service, "FailedToStartServiceHealthcheck", "Listen", note)
    }

    /// Frontends of a Service have no room in a table of the node.
    pub fn of_unplaced(service: ServiceKey, note: String) -> Self {
        Self::of_service(service, "NoRoomForFrontends", "Program", note)
    }

    /// A part of a Service has no effect, on no node.
    pub fn of_unserved(service: ServiceKey, note: String) -> Self {
        Self { is_of_cluster: true, ..Self::of_service(service, "NotServed", "Program", note) }
    }

    fn of_service(service: ServiceKey, reason: &'static str, action: &'static str, note: String) -> Self {
        let regarding = Regarding::Service(service);
        Self { regarding, is_warning: true, reason, action, note, is_of_cluster: false }
    }

    /// The upstreams of DNS fail, or deny names that they have just resolved.
    pub fn of_upstreams(note: String) -> Self {
        let regarding = Regarding::ThisNode;
        Self {
            regarding,
            is_warning: true,
            reason: "DNSUpstreamsUnreliable",
            action: "Resolve",
            note,
            is_of_cluster: false,
        }
    }

    fn of_node(is_warning: bool, reason: &'static str, note: String) -> Self {
        let (regarding, action) = (Regarding::ThisNode, "StartKubeProxy");
        Self { regarding, is_warning, reason, action, note, is_of_cluster: false }
    }

    /// The part of the Event's name behind the object's.
    fn suffix(&self, now: Timestamp) -> String {
        if self.is_of_cluster {
            let mut hasher = DefaultHasher::new();
            (self.reason, &self.note).hash(&mut hasher);
            format!("{:x}", hasher.finish())
        } else {
            format!("{:x}", now.as_nanosecond())
        }
    }

    fn event(&self, node: &str, now: Timestamp) -> Event {
        let regarding = self.reference(node);
        let namespace = regarding.namespace.clone().unwrap_or_else(|| NAMESPACE.to_owned());
        let name = format!("{}.{}", regarding.name.as_deref().unwrap_or_default(), self.suffix(now));
        let note = self.note[..self.note.floor_char_boundary(NOTE_LENGTH)].to_owned();
        Event {
            metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
            event_time: Some(MicroTime(now)),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(format!("{CONTROLLER}-{node}")),
            type_: Some(if self.is_warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(self.reason.to_owned()),
            action: Some(self.action.to_owned()),
            note: Some(note).filter(|note| !note.is_empty()),
            regarding: Some(regarding),
            ..Event::default()
        }
    }

    /// The object reference. As in kube-proxy, `uid` is the name: the real UID is unknown here.
    fn reference(&self, node: &str) -> ObjectReference {
        let reference = |kind: &str, namespace: Option<&str>, name: &str, uid: String| ObjectReference {
            kind: Some(kind.to_owned()),
            namespace: namespace.map(str::to_owned),
            name: Some(name.to_owned()),
            uid: Some(uid),
            ..ObjectReference::default()
        };
        match &self.regarding {
            Regarding::ThisNode => reference("Node", None, node, node.to_owned()),
            Regarding::Service(key) => reference("Service", Some(&key.namespace), &key.name, key.to_string()),
        }
    }
}

/// Sends reports until the channel closes.
pub async fn send(
    access: Access,
    node: String,
    requests: RequestMetrics,
    mut reports: mpsc::UnboundedReceiver<Report>,
) {
    while let Some(report) = reports.recv().await {
        let event = report.event(&node, Timestamp::now());
        let sent = timeout(REQUEST_TIMEOUT, async {
            let connection = access.connect().await.map_err(|error| chain(&error))?;
            create(&connection, &event, &requests).await
        });
        match sent.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(reason = report.reason, error, "event not sent"),
            Err(_) => debug!(reason = report.reason, "event not sent: timeout"),
        }
    }
}

async fn create(connection: &Connection, event: &Event, requests: &RequestMetrics) -> Result<(), String> {
    let namespace = event.metadata.namespace.as_deref().unwrap_or(NAMESPACE);
    let body = serde_json::to_vec(event).map_err(|error| error.to_string())?;
    let mut request = Request::post(format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events"))
        .header("content-type", "application/json")
        .body(body)
        .map_err(|error| error.to_string())?;
    connection.authorize(&mut request);
    let began = Instant::now();
    let created = connection.client.request::<serde_json::Value>(request).await;
    requests.observe("POST", &connection.url, began.elapsed(), status_code(&created));
    created.map(drop).map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_have_the_fields_of_the_api() {
        let now: Timestamp = "2026-01-02T03:04:05.678901234Z".parse().unwrap();
        let starting = serde_json::to_value(Report::starting().event("node-1", now)).unwrap();
        assert_eq!(
            starting,
            json!({
                "apiVersion": "events.k8s.io/v1",
                "kind": "Event",
                "metadata": { "name": format!("node-1.{:x}", now.as_nanosecond()), "namespace": "default" },
                "eventTime": "2026-01-02T03:04:05.678901Z",
                "reportingController": "portreeve",
                "reportingInstance": "portreeve-node-1",
                "type": "Normal",
                "reason": "Starting",
                "action": "StartKubeProxy",
                "regarding": { "kind": "Node", "name": "node-1", "uid": "node-1" },
            })
        );
        let service = ServiceKey::new("shop", "web");
        let failed = Report::of_health_port(service, "x".repeat(5000)).event("node-1", now);
        assert_eq!(failed.metadata.namespace.as_deref(), Some("shop"));
        assert_eq!(failed.type_.as_deref(), Some("Warning"));
        assert_eq!(failed.note.map(|note| note.len()), Some(NOTE_LENGTH));
        assert_eq!(failed.regarding.and_then(|object| object.uid).as_deref(), Some("shop/web"));
    }

    #[test]
    fn notes_are_cut_between_characters() {
        let note = |text: String| {
            let report = Report::of_health_port(ServiceKey::new("shop", "web"), text);
            report.event("node-1", Timestamp::UNIX_EPOCH).note.unwrap()
        };
        assert_eq!(note("x".repeat(1024)).len(), 1024);
        assert_eq!(note(format!("x{}", "\u{e4}".repeat(1000))).len(), 1023);
    }

    #[test]
    fn all_nodes_name_an_event_about_the_cluster_alike() {
        let name = |node: &str, note: &str| {
            let report = Report::of_unserved(ServiceKey::new("shop", "web"), note.to_owned());
            report.event(node, Timestamp::now()).metadata.name.unwrap()
        };
        assert_eq!(name("node-1", "lost"), name("node-2", "lost"));
        assert_ne!(name("node-1", "lost"), name("node-1", "other"));
    }
}
