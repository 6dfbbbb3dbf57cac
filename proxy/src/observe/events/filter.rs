//! The events that a listener wants. The agent filters, so that a listener loses none for others' sake.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::record::{FlowEvent, Verdict};

/// The start of a request for events; a filter follows, as JSON.
pub const EVENTS: &str = "events ";

/// Conditions that an event meets all of. Of several values of one condition it meets any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventFilter {
    /// `NAMESPACE/NAME`, or `NAME` in any namespace.
    pub services: Vec<String>,
    /// Of the Service, or of a pod at an end.
    pub namespace: Option<String>,
    /// `NAMESPACE/NAME`, or `NAME` in any namespace: at any end of the flow.
    pub pods: Vec<String>,
    /// At any end of the flow.
    pub addresses: Vec<IpAddr>,
    pub reasons: Vec<String>,
    pub verdicts: Vec<Verdict>,
}

impl EventFilter {
    pub fn takes(&self, event: &FlowEvent) -> bool {
        let Self { services, namespace, pods, addresses, reasons, verdicts } = self;
        let pod_names = || event.peers().filter_map(|peer| peer.pod.as_deref());
        let is_in_namespace = |wanted: &str| {
            event
                .service
                .as_deref()
                .into_iter()
                .chain(pod_names())
                .any(|name| name.split_once('/').is_some_and(|(namespace, _)| namespace == wanted))
        };
        is_any(services, |name| event.service.as_deref().is_some_and(|service| is_named(name, service)))
            && namespace.as_deref().is_none_or(is_in_namespace)
            && is_any(pods, |name| pod_names().any(|pod| is_named(name, pod)))
            && is_any(addresses, |address| event.peers().any(|peer| peer.ip == *address))
            && is_any(reasons, |reason| event.reason.as_ref() == Some(reason))
            && is_any(verdicts, |verdict| event.verdict == *verdict)
    }
}

fn is_any<T>(wanted: &[T], is_met: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(is_met)
}

fn is_named(wanted: &str, full: &str) -> bool {
    if wanted.contains('/') {
        wanted == full
    } else {
        full.split_once('/').is_some_and(|(_, name)| name == wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::events::record::Peer;

    fn event() -> FlowEvent {
        let peer = |ip: &str, pod: Option<&str>| Peer {
            ip: ip.parse().unwrap(),
            port: Some(80),
            pod: pod.map(str::to_owned),
            node: None,
        };
        FlowEvent {
            time: jiff::Timestamp::UNIX_EPOCH,
            node: "node-1".to_owned(),
            verdict: Verdict::Refused,
            event: "refused".to_owned(),
            reason: Some("no_endpoint".to_owned()),
            message: None,
            plane: "packet".to_owned(),
            hook: "tc_ingress".to_owned(),
            interface: None,
            ip_version: "IPv4".to_owned(),
            protocol: "TCP".to_owned(),
            service: Some("shop/web".to_owned()),
            port_name: None,
            source: Some(peer("10.1.0.1", Some("store/client"))),
            destination: peer("10.96.0.1", None),
            backend: None,
            process: None,
            duration_seconds: None,
        }
    }

    #[test]
    fn an_event_meets_every_condition() {
        let text = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let none = EventFilter::default;
        for (name, filter, want) in [
            ("nothing", none(), true),
            ("its Service", EventFilter { services: text(&["shop/web"]), ..none() }, true),
            ("in any namespace", EventFilter { services: text(&["db", "web"]), ..none() }, true),
            ("another namespace", EventFilter { services: text(&["store/web"]), ..none() }, false),
            ("a part of the name", EventFilter { services: text(&["we"]), ..none() }, false),
            ("the Service's namespace", EventFilter { namespace: Some("shop".to_owned()), ..none() }, true),
            ("the client's namespace", EventFilter { namespace: Some("store".to_owned()), ..none() }, true),
            ("no one's namespace", EventFilter { namespace: Some("sho".to_owned()), ..none() }, false),
            ("the client", EventFilter { pods: text(&["store/client"]), ..none() }, true),
            ("another pod", EventFilter { pods: text(&["shop/client"]), ..none() }, false),
            ("an address", EventFilter { addresses: vec!["10.96.0.1".parse().unwrap()], ..none() }, true),
            (
                "another address",
                EventFilter { addresses: vec!["10.96.0.2".parse().unwrap()], ..none() },
                false,
            ),
            ("its reason", EventFilter { reasons: text(&["no_endpoint"]), ..none() }, true),
            ("another reason", EventFilter { reasons: text(&["conntrack_full"]), ..none() }, false),
            (
                "its verdict",
                EventFilter { verdicts: vec![Verdict::Failed, Verdict::Refused], ..none() },
                true,
            ),
            ("another verdict", EventFilter { verdicts: vec![Verdict::Forwarded], ..none() }, false),
            (
                "one of two conditions",
                EventFilter { services: text(&["web"]), reasons: text(&["x"]), ..none() },
                false,
            ),
        ] {
            assert_eq!(filter.takes(&event()), want, "{name}");
        }
    }

    #[test]
    fn an_event_without_service_is_of_none() {
        let event = FlowEvent { service: None, ..event() };
        assert!(!EventFilter { services: vec!["web".to_owned()], ..EventFilter::default() }.takes(&event));
        assert!(EventFilter::default().takes(&event));
    }
}
