//! One event as `portreeve events -o json` prints it. docs/events.md explains the fields.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use jiff::Timestamp;
use proxy_ebpf::abi::{ConnectFailure, DropReason, Endpoint, Event, EventHook, EventKind, HealthFault};
use serde::{Deserialize, Serialize};

use crate::model::{address::Protocol, reason::describe, service::ServicePortKey};

/// A line of the control socket's answer to a listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventMessage {
    /// The programs write from now on.
    Listening {
        node: String,
    },
    Event(Box<FlowEvent>),
    /// Events that this listener did not get.
    LostEvents(LostEvents),
    /// The agent does not serve this listener.
    Refused {
        message: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostEvents {
    pub source: LossSource,
    pub count: u64,
}

/// Where events were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossSource {
    /// The ring buffer was full: the agent reads a bounded number per second.
    Ring,
    /// The listener reads too slowly.
    Listener,
}

/// An event. Every field is in every line; what is not known is `null`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowEvent {
    pub time: Timestamp,
    pub node: String,
    pub verdict: Verdict,
    /// The name of an `EventKind`.
    pub event: String,
    pub reason: Option<String>,
    /// The reason in words.
    pub message: Option<String>,
    pub plane: String,
    pub hook: String,
    pub interface: Option<String>,
    pub ip_version: String,
    pub protocol: String,
    /// `NAMESPACE/NAME`.
    pub service: Option<String>,
    pub port_name: Option<String>,
    pub source: Option<Peer>,
    pub destination: Peer,
    pub backend: Option<Peer>,
    pub process: Option<Process>,
    /// From connect to the failure.
    pub duration_seconds: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Verdict {
    /// The flow has a backend.
    Forwarded,
    Refused,
    /// The flow had a backend, and the connection to it was of no use.
    Failed,
    /// The flow ended to make room.
    Evicted,
    /// Of a backend: connections found a fault of it.
    Suspected,
    /// Of a backend: it answers again.
    Restored,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Evicted => "evicted",
            Self::Suspected => "suspected",
            Self::Restored => "restored",
        }
    }

    fn of(kind: EventKind) -> Self {
        match kind {
            EventKind::NewFlow | EventKind::Switched | EventKind::Resteered => Self::Forwarded,
            EventKind::Refused => Self::Refused,
            EventKind::Evicted => Self::Evicted,
            EventKind::ConnectFailed => Self::Failed,
            EventKind::Suspected => Self::Suspected,
            EventKind::Restored => Self::Restored,
        }
    }
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub ip: IpAddr,
    /// `null` for a socket without one yet.
    pub port: Option<u16>,
    /// `NAMESPACE/NAME`, of endpoints on this node.
    pub pod: Option<String>,
    pub node: Option<String>,
}

/// The process in a system call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub id: u32,
    /// The name of its thread.
    pub command: String,
}

/// The clocks at one moment: events have the monotonic one's.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    pub monotonic: Duration,
    pub wall: Timestamp,
}

/// The addresses of an event, of which names are looked up.
pub fn addresses(event: &Event) -> impl Iterator<Item = IpAddr> {
    [event.source, event.destination, event.backend].into_iter().filter_map(address)
}

impl FlowEvent {
    /// Returns `None` for a record of unknown kind. `named` gives pod and node of an address.
    pub fn new(
        event: &Event,
        node: &str,
        clocks: Clocks,
        service: Option<&ServicePortKey>,
        interface: Option<String>,
        named: impl Fn(IpAddr) -> (Option<String>, Option<String>),
    ) -> Option<Self> {
        let kind = EventKind::of(event.kind)?;
        let hook = EventHook::of(event.hook)?;
        let peer = |end| {
            let ip = address(end)?;
            let (pod, node) = named(ip);
            Some(Peer { ip, port: Some(u16::from_be_bytes(end.port)).filter(|port| *port != 0), pod, node })
        };
        // A frontend always has an address; `0.0.0.0` is dialled as one, too.
        let destination = peer(event.destination).unwrap_or_else(|| unspecified(event));
        let (reason, message) = reason(kind, event.reason);
        let age = clocks.monotonic.saturating_sub(Duration::from_nanos(event.time));
        let process = (event.process != 0).then(|| Process { id: event.process, command: command(event) });
        let has_duration = kind == EventKind::ConnectFailed;
        Some(Self {
            time: clocks.wall.checked_sub(age).unwrap_or(clocks.wall),
            node: node.to_owned(),
            verdict: Verdict::of(kind),
            event: kind.name().to_owned(),
            reason,
            message,
            plane: hook.plane().to_owned(),
            hook: hook.name().to_owned(),
            interface,
            ip_version: if destination.ip.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned(),
            protocol: protocol(event.protocol),
            service: service.map(|key| key.service.to_string()),
            port_name: service.map(|key| key.port_name.to_string()),
            source: peer(event.source),
            destination,
            backend: Some(event.backend).filter(|end| end.port != [0; 2]).and_then(peer),
            process,
            duration_seconds: has_duration.then(|| Duration::from_nanos(event.duration).as_secs_f64()),
        })
    }

    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        [self.source.as_ref(), Some(&self.destination), self.backend.as_ref()].into_iter().flatten()
    }
}

impl Peer {
    /// Address and port in one text; without a port the address alone.
    pub fn text(&self) -> String {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).to_string(),
            None => self.ip.to_string(),
        }
    }
}

/// `None` for the unspecified address.
fn address(end: Endpoint) -> Option<IpAddr> {
    let address = Ipv6Addr::from(end.address).to_canonical();
    (!address.is_unspecified()).then_some(address)
}

fn unspecified(event: &Event) -> Peer {
    let ip = Ipv6Addr::from(event.destination.address).to_canonical();
    Peer { ip, port: Some(u16::from_be_bytes(event.destination.port)), pod: None, node: None }
}

fn protocol(number: u8) -> String {
    Protocol::from_number(number).map_or_else(|| number.to_string(), |protocol| protocol.to_string())
}

fn command(event: &Event) -> String {
    let end = event.command.iter().position(|byte| *byte == 0).unwrap_or(event.command.len());
    String::from_utf8_lossy(&event.command[..end]).into_owned()
}

/// The identifier of a reason, and its words.
fn reason(kind: EventKind, number: u8) -> (Option<String>, Option<String>) {
    let (name, words) = match kind {
        EventKind::NewFlow | EventKind::Restored => return (None, None),
        EventKind::Refused => {
            let reason = DropReason::of(number);
            (reason.name(), describe(reason).1)
        }
        EventKind::Switched | EventKind::Resteered if number == Event::UNANSWERED => {
            ("unanswered", "the backend did not answer the SYN, and the connection goes on at another one")
        }
        EventKind::Switched => {
            ("backend_removed", "the flow's backend was removed, and it has another one now")
        }
        EventKind::Resteered => (
            "backend_removed",
            "the backend of a connected UDP socket was removed, and its datagrams go to another one",
        ),
        EventKind::Evicted => {
            ("room_for_another", "the flow was idle, and another one needed its place or port")
        }
        EventKind::ConnectFailed => {
            let Some(failure) = ConnectFailure::ALL.into_iter().find(|failure| *failure as u8 == number)
            else {
                return (None, None);
            };
            (failure.name(), failure_words(failure))
        }
        EventKind::Suspected => match HealthFault::of(number) {
            Some(fault) => (fault.name(), fault_words(fault)),
            None => return (None, None),
        },
    };
    (Some(name.to_owned()), Some(words.to_owned()))
}

fn failure_words(failure: ConnectFailure) -> &'static str {
    match failure {
        ConnectFailure::Refused => "the backend refused the connection",
        ConnectFailure::TimedOut => "the backend did not answer",
        ConnectFailure::Unreachable => "there is no way to the backend",
        ConnectFailure::Abandoned => "the application gave up before a SYN was sent again",
        ConnectFailure::Reset => "the backend reset the connection before its first byte",
    }
}

fn fault_words(fault: HealthFault) -> &'static str {
    match fault {
        HealthFault::Silent => "the backend did not answer a SYN, and is left out while others are sound",
        HealthFault::Refused => "the backend refused a connection, and is left out while others are sound",
        HealthFault::Unreachable => {
            "there is no way to the backend, which is left out while others are sound"
        }
        HealthFault::Reset => {
            "the backend reset a connection before its first byte, and is left out while others are sound"
        }
    }
}

/// Every reason that an event can have.
pub fn reasons() -> Vec<&'static str> {
    let refusals = DropReason::ALL.into_iter().map(DropReason::name);
    let failures = ConnectFailure::ALL.into_iter().map(ConnectFailure::name);
    // The other faults have the names of failures.
    let others = ["backend_removed", "room_for_another", "unanswered", HealthFault::Silent.name()];
    refusals.chain(failures).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proxy_ebpf::abi::mapped;

    use super::*;
    use crate::model::service::ServiceKey;

    fn event(kind: EventKind, hook: EventHook, reason: u8) -> Event {
        Event {
            time: 1_000_000_000,
            source: Endpoint::new(mapped([10, 244, 1, 9]), 40_000_u16.to_be_bytes()),
            destination: Endpoint::new(mapped([10, 96, 0, 10]), 80_u16.to_be_bytes()),
            kind: kind as u8,
            hook: hook as u8,
            reason,
            protocol: 6,
            ..Event::default()
        }
    }

    fn record(event: &Event, service: Option<&ServicePortKey>, interface: Option<&str>) -> FlowEvent {
        let wall = "2026-01-01T12:00:03Z".parse().unwrap();
        let clocks = Clocks { monotonic: Duration::from_secs(4), wall };
        let named = |ip: IpAddr| match ip.to_string().as_str() {
            "10.244.1.9" => (Some("shop/client".to_owned()), Some("node-1".to_owned())),
            "10.244.2.4" => (None, Some("node-2".to_owned())),
            _ => (None, None),
        };
        FlowEvent::new(event, "node-1", clocks, service, interface.map(str::to_owned), named).unwrap()
    }

    fn web() -> ServicePortKey {
        let service = ServiceKey::new("shop", "web");
        ServicePortKey { service, port_name: "http".into(), protocol: Protocol::Tcp }
    }

    #[test]
    fn a_line_has_every_field() {
        let backend = Endpoint::new(mapped([10, 244, 2, 4]), 8080_u16.to_be_bytes());
        let flow = Event { backend, ..event(EventKind::NewFlow, EventHook::TcIngress, 0) };
        let flow = record(&flow, Some(&web()), Some("veth1"));
        expect![[r#"{"time":"2026-01-01T12:00:00Z","node":"node-1","verdict":"forwarded","event":"new_flow","reason":null,"message":null,"plane":"packet","hook":"tc_ingress","interface":"veth1","ip_version":"IPv4","protocol":"TCP","service":"shop/web","port_name":"http","source":{"ip":"10.244.1.9","port":40000,"pod":"shop/client","node":"node-1"},"destination":{"ip":"10.96.0.10","port":80,"pod":null,"node":null},"backend":{"ip":"10.244.2.4","port":8080,"pod":null,"node":"node-2"},"process":null,"duration_seconds":null}"#]]
            .assert_eq(&serde_json::to_string(&flow).unwrap());
        let text = serde_json::to_string(&EventMessage::Event(Box::new(flow.clone()))).unwrap();
        assert_eq!(serde_json::from_str::<EventMessage>(&text).unwrap(), EventMessage::Event(flow.into()));
    }

    #[test]
    fn a_refused_system_call_has_a_reason_and_a_process_but_no_source() {
        let mut refused = event(EventKind::Refused, EventHook::Connect, DropReason::NoEndpoint as u8);
        refused.source = Endpoint::default();
        refused.process = 77;
        refused.command[..4].copy_from_slice(b"curl");
        let refused = record(&refused, Some(&web()), None);
        assert_eq!((refused.verdict, refused.source.is_none()), (Verdict::Refused, true));
        assert_eq!(refused.reason.as_deref(), Some("no_endpoint"));
        assert_eq!(refused.message.as_deref(), Some("no endpoint of the service port is ready"));
        assert_eq!((refused.plane.as_str(), refused.hook.as_str()), ("socket", "connect"));
        assert_eq!(refused.process, Some(Process { id: 77, command: "curl".to_owned() }));
    }

    #[test]
    fn a_failure_tells_how_long_it_took() {
        let reason = ConnectFailure::TimedOut as u8;
        let failed =
            Event { duration: 2_500_000_000, ..event(EventKind::ConnectFailed, EventHook::SockOps, reason) };
        let failed = record(&failed, None, None);
        assert_eq!((failed.verdict, failed.reason.as_deref()), (Verdict::Failed, Some("timed_out")));
        assert_eq!(failed.duration_seconds, Some(2.5));
    }

    #[test]
    fn a_record_of_another_version_is_left_out() {
        let mut unknown = event(EventKind::NewFlow, EventHook::Xdp, 0);
        unknown.kind = 99;
        let clocks = Clocks { monotonic: Duration::ZERO, wall: Timestamp::UNIX_EPOCH };
        assert_eq!(FlowEvent::new(&unknown, "", clocks, None, None, |_| (None, None)), None);
    }

    #[test]
    fn every_reason_is_among_the_reasons() {
        for kind in EventKind::ALL {
            for number in 0..=u8::MAX {
                let (name, words) = reason(kind, number);
                assert_eq!(name.is_some(), words.is_some());
                assert!(name.is_none_or(|name| reasons().contains(&name.as_str())), "{kind:?} {number}");
            }
        }
    }
}
