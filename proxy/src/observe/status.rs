//! The agent's status as the control socket reports it, and the path of that socket.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{Timestamp, ToSpan as _};
use proxy_ebpf::abi::map;
use serde::{Deserialize, Serialize};

use super::conditions::{Condition, ConditionType, Fault, INITIAL_SYNC};
use crate::{
    config::SocketLb,
    datapath::{CgroupScope, XdpAttachment},
    reconcile::Fill,
    source_state::{SourceFailure, SourceReport},
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub process: u32,
    pub node: String,
    pub started: Timestamp,
    pub phase: Phase,
    /// When all received changes were programmed last.
    pub last_sync: Option<Timestamp>,
    /// When the oldest change arrived that is not programmed yet.
    pub pending_since: Option<Timestamp>,
    pub frontends: usize,
    pub unwritten_frontends: usize,
    /// Services with frontends that found no room. Missing in the status of earlier versions.
    #[serde(default)]
    pub unplaced: Vec<Unplaced>,
    /// Parts of Services without effect, the first of them. Missing in the status of earlier versions.
    #[serde(default)]
    pub unserved: Vec<UnservedPart>,
    /// The number of all of them.
    #[serde(default)]
    pub unserved_count: usize,
    /// What this node does not permit, and the agent works without.
    #[serde(default)]
    pub impossible: Vec<String>,
    /// Invalid objects or parts of objects since the start.
    pub skipped_objects: usize,
    /// Hooks that had lost their program, since the start.
    pub reattachments: usize,
    /// The external devices, with their XDP state.
    #[serde(default)]
    pub xdp: Vec<XdpDevice>,
    /// The attach errors of the last attempt. Missing in the status of earlier versions.
    #[serde(default)]
    pub unattached: Vec<String>,
    /// What of DNS does not work and is retried: addresses that cannot be bound, an unusable Corefile.
    #[serde(default, alias = "unbound")]
    pub dns_faults: Vec<String>,
    /// The loop hangs; only the serving thread works.
    #[serde(default)]
    pub hangs: bool,
    /// Whether /livez is answered with 200. `None`: an earlier version.
    #[serde(default)]
    pub is_live: Option<bool>,
    pub tables: Vec<Table>,
    /// Missing in the status of earlier versions, as all that follow.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    #[serde(default)]
    pub source: Option<SourceReport>,
    /// Whether the Node object of this node was seen; `None` before the initial sync.
    #[serde(default)]
    pub is_node_known: Option<bool>,
    /// The directory whose sockets are translated.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
    /// The processes in it; `None` before the programs are attached.
    #[serde(default)]
    pub cgroup_scope: Option<CgroupScope>,
    #[serde(default)]
    pub planes: Option<Planes>,
    #[serde(default)]
    pub devices: Vec<DeviceStatus>,
    /// `None`: the agent has none.
    #[serde(default)]
    pub name_server: Option<NameServerStatus>,
    /// The addresses of the agent's servers, bound or not.
    #[serde(default)]
    pub ports: Vec<Port>,
}

/// The places of translation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planes {
    /// The value of `--socket-lb`.
    pub socket_lb: String,
    pub packet: bool,
}

/// A device of the packet plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    pub device: String,
    /// `external`, `pod` or `loopback`.
    pub role: String,
    /// The programs at its hooks.
    pub hooks: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameServerStatus {
    /// As the programs judge it.
    pub is_alive: bool,
    /// The time since all its threads were alive; `None`: they never were.
    pub heartbeat_age_ms: Option<u64>,
}

impl NameServerStatus {
    pub fn new(age: Option<Duration>) -> Self {
        let timeout = Duration::from_nanos(map::NAME_SERVER_TIMEOUT);
        let heartbeat_age_ms = age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        Self { is_alive: age.is_some_and(|age| age < timeout), heartbeat_age_ms }
    }
}

/// An address of one of the agent's servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    pub server: String,
    pub address: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The data plane is not open yet.
    Preparing,
    /// The data plane is locked, and objects are being read.
    Starting,
    /// Another agent holds the data plane.
    Waiting {
        holder: String,
    },
    Serving,
}

/// A Service with frontends that found no room. Those that are published keep their last state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unplaced {
    pub service: String,
    /// The table without room.
    pub table: String,
    /// The Service or its namespace has used up its share of the table. Missing in the status of earlier versions.
    #[serde(default)]
    pub is_over_budget: bool,
    pub reason: String,
    pub frontends: usize,
    pub since: Timestamp,
}

/// A part of a Service that clients cannot use although the object is valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnservedPart {
    pub service: String,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub name: String,
    pub used: u32,
    pub capacity: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpDevice {
    pub device: String,
    /// `native`, `generic` or `none`.
    pub place: String,
    /// The reason for `none`.
    pub reason: Option<String>,
    /// The configuration demands XDP here.
    pub is_fault: bool,
}

impl From<&XdpAttachment> for XdpDevice {
    fn from(device: &XdpAttachment) -> Self {
        let (place, reason) = match &device.result {
            Ok(mode) => (mode.name(), None),
            Err(reason) => ("none", Some(reason.to_string())),
        };
        Self { device: device.name.clone(), place: place.to_owned(), reason, is_fault: device.is_fault }
    }
}

impl From<Fill> for Table {
    fn from(Fill { map, used, capacity }: Fill) -> Self {
        Self { name: map.to_owned(), used, capacity }
    }
}

impl Table {
    pub fn percent(&self) -> u32 {
        let percent = u64::from(self.used) * 100 / u64::from(self.capacity.max(1));
        u32::try_from(percent).unwrap_or(u32::MAX)
    }
}

/// Changes that wait for this many seconds are a fault.
const BEHIND: i64 = 60;
/// A name server that was never alive is a fault after this many seconds.
const STARTUP: i64 = 5;
/// From this percentage on, a table is reported as a fault.
const ALMOST_FULL: u32 = 90;

impl Status {
    pub fn new(node: &str) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            node: node.to_owned(),
            started: Timestamp::now(),
            phase: Phase::Preparing,
            last_sync: None,
            pending_since: None,
            frontends: 0,
            unwritten_frontends: 0,
            unplaced: Vec::new(),
            unserved: Vec::new(),
            unserved_count: 0,
            impossible: Vec::new(),
            skipped_objects: 0,
            reattachments: 0,
            xdp: Vec::new(),
            unattached: Vec::new(),
            dns_faults: Vec::new(),
            hangs: false,
            is_live: None,
            tables: Vec::new(),
            conditions: Vec::new(),
            source: None,
            is_node_known: None,
            cgroup: None,
            cgroup_scope: None,
            planes: None,
            devices: Vec::new(),
            name_server: None,
            ports: Vec::new(),
        }
    }

    /// The present faults of the node, each in a sentence. Waiting for another agent is not a fault.
    pub fn faults(&self) -> Vec<String> {
        if self.conditions.is_empty() {
            // An agent of an earlier version.
            return self
                .stated(Timestamp::now())
                .into_values()
                .flatten()
                .map(|fault| fault.message)
                .collect();
        }
        let faults = self.conditions.iter().filter(|one| one.is_fault() && one.r#type.is_of_node());
        faults.map(|fault| fault.message.clone()).collect()
    }

    /// The conditions that follow from the other fields. A type that does not apply is missing.
    pub fn stated(&self, now: Timestamp) -> BTreeMap<ConditionType, Vec<Fault>> {
        let mut stated = BTreeMap::from([
            (ConditionType::Synced, self.unsynced(now)),
            (ConditionType::ProgramsAttached, self.attach_faults()),
            (
                ConditionType::AddressesBound,
                self.dns_faults.iter().map(|error| Fault::new(error, "DnsDegraded", error)).collect(),
            ),
            (ConditionType::TablesHaveRoom, self.full_tables()),
        ]);
        if !self.xdp.is_empty() {
            stated.insert(ConditionType::XdpAttached, self.xdp_faults());
        }
        if let Some(scope) = self.cgroup_scope.as_ref().filter(|_| self.translates_pods()) {
            stated.insert(ConditionType::SocketsTranslated, self.cgroup_faults(scope));
        }
        if let Some(source) = &self.source {
            stated.insert(ConditionType::SourceWatched, source_faults(source, now));
            if let (Some(is_known), true) = (self.is_node_known, source.is_api_server) {
                stated.insert(ConditionType::NodeFound, self.node_faults(is_known));
            }
        }
        if let Some(name_server) = self.name_server.as_ref().filter(|_| self.phase == Phase::Serving) {
            stated.insert(ConditionType::NameServerAlive, self.name_server_faults(name_server, now));
        }
        stated
    }

    /// Whether sockets of pods are to be translated.
    fn translates_pods(&self) -> bool {
        self.planes.as_ref().is_some_and(|planes| planes.socket_lb == SocketLb::All.name())
    }

    /// Sockets outside of the cgroup are not translated. Their packets are, at a pod's device.
    fn cgroup_faults(&self, scope: &CgroupScope) -> Vec<Fault> {
        let cgroup = self.cgroup.as_deref().unwrap_or(Path::new("?")).display();
        let has_pods = self.devices.iter().any(|device| device.role == "pod");
        let (reason, message) = match scope {
            CgroupScope::PodsElsewhere(pods) => {
                let pods = pods.display();
                (
                    "PodsElsewhere",
                    format!("sockets of pods are not translated: they are in {pods}, not in {cgroup}"),
                )
            }
            CgroupScope::OwnContainer => (
                "OwnContainer",
                format!("sockets of pods are not translated: {cgroup} holds the agent's own container alone"),
            ),
            CgroupScope::Empty if has_pods => {
                ("NoProcess", format!("sockets of pods are not translated: no process is in {cgroup}"))
            }
            CgroupScope::Empty | CgroupScope::Part | CgroupScope::Root => return Vec::new(),
        };
        vec![Fault::new("", reason, message)]
    }

    fn node_faults(&self, is_known: bool) -> Vec<Fault> {
        let message = format!(
            "the cluster has no Node object {}: local endpoints, NodePorts and pod networks are unknown; set --node-name",
            self.node
        );
        if is_known { Vec::new() } else { vec![Fault::new("", "NoSuchNode", message)] }
    }

    /// A server that was just started has not been alive yet.
    fn name_server_faults(&self, server: &NameServerStatus, now: Timestamp) -> Vec<Fault> {
        let is_starting = server.heartbeat_age_ms.is_none() && now < self.started + STARTUP.seconds();
        if server.is_alive || is_starting {
            return Vec::new();
        }
        let message = "the name server of this node does not answer: clients use the other endpoints of the DNS Service";
        vec![Fault::new("", "NoHeartbeat", message)]
    }

    fn unsynced(&self, now: Timestamp) -> Vec<Fault> {
        let mut faults = Vec::new();
        if matches!(self.phase, Phase::Preparing | Phase::Starting) {
            faults.push(Fault::new("", INITIAL_SYNC, "the initial sync of objects has not finished"));
        }
        if self.hangs {
            faults.push(Fault::new("loop", "Hangs", "the agent hangs and receives no changes: restart it"));
        }
        let is_behind = self.pending_since.is_some_and(|since| since < now - BEHIND.seconds());
        if is_behind && self.unwritten_frontends == 0 {
            let message = format!("received changes are not programmed after {BEHIND} s");
            faults.push(Fault::new("pending", "Behind", message));
        }
        if self.unwritten_frontends > 0 {
            let services = unplaced_text(&self.unplaced);
            let message = format!("{} frontends could not be written{services}", self.unwritten_frontends);
            faults.push(Fault::new("frontends", "NotWritten", message));
        }
        faults
    }

    fn attach_faults(&self) -> Vec<Fault> {
        let fault =
            |error: &String| Fault::new(error, "AttachFailed", format!("programs are not attached: {error}"));
        self.unattached.iter().map(fault).collect()
    }

    fn xdp_faults(&self) -> Vec<Fault> {
        let fault = |xdp: &XdpDevice| {
            let (device, reason) = (&xdp.device, xdp.reason.as_deref().unwrap_or("unknown reason"));
            let message = format!("XDP is not attached to {device}, which is served without it: {reason}");
            Fault::new(device, "NotAttached", message)
        };
        self.xdp.iter().filter(|xdp| xdp.is_fault).map(fault).collect()
    }

    fn full_tables(&self) -> Vec<Fault> {
        let fault = |table: &Table| {
            let message = format!("table {} is {} % full", table.name, table.percent());
            Fault::new(&table.name, "AlmostFull", message)
        };
        self.tables.iter().filter(|table| table.percent() >= ALMOST_FULL).map(fault).collect()
    }
}

fn source_faults(source: &SourceReport, now: Timestamp) -> Vec<Fault> {
    let fault = |(kind, failure): (String, SourceFailure)| {
        let SourceFailure { reason, message, .. } = failure;
        let message = if kind.is_empty() { message } else { format!("{kind}: {message}") };
        Fault { subject: kind, reason: reason.into(), message }
    };
    source.failures(now).into_iter().map(fault).collect()
}

/// The first Services without room, as the end of a sentence.
fn unplaced_text(unplaced: &[Unplaced]) -> String {
    const NAMES: usize = 3;
    let names: Vec<_> =
        unplaced.iter().take(NAMES).map(|one| format!("{} ({})", one.service, one.reason)).collect();
    match unplaced.len() {
        0 => String::new(),
        count @ ..=NAMES => format!("; no room for {count} of the Services: {}", names.join(", ")),
        count => format!("; no room for {count} of the Services: {}, ..", names.join(", ")),
    }
}

/// The control socket of the agent with this pin directory. One run directory serves several agents.
pub fn socket_path(run_dir: &Path, bpffs: &Path) -> PathBuf {
    let name = bpffs.to_string_lossy().trim_matches('/').replace('/', "-");
    run_dir.join(format!("{name}.sock"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{observe::conditions::ConditionStatus, source_state::KindReport};

    #[test]
    fn faults_require_action() {
        let table = |used| vec![Table { name: "SLOTS".to_owned(), used, capacity: 1000 }];
        let xdp = |is_fault| {
            let reason = Some("its driver does not support XDP".to_owned());
            vec![XdpDevice { device: "eth0".to_owned(), place: "none".to_owned(), reason, is_fault }]
        };
        let serving = Status { phase: Phase::Serving, ..Status::new("n") };
        let waiting = Phase::Waiting { holder: "process 1".to_owned() };
        for (status, want) in [
            (Status::new("n"), 1),
            (serving.clone(), 0),
            (Status { phase: waiting, ..serving.clone() }, 0),
            (Status { unwritten_frontends: 2, ..serving.clone() }, 1),
            (Status { hangs: true, ..serving.clone() }, 1),
            (Status { xdp: xdp(true), ..serving.clone() }, 1),
            (Status { xdp: xdp(false), ..serving.clone() }, 0),
            (Status { unattached: vec!["cannot attach to eth0".to_owned()], ..serving.clone() }, 1),
            (Status { dns_faults: vec!["cannot listen at [::1]:53".to_owned()], ..serving.clone() }, 1),
            (Status { tables: table(899), ..serving.clone() }, 0),
            (Status { tables: table(900), ..serving.clone() }, 1),
            (Status { tables: table(1000), unwritten_frontends: 1, ..serving }, 2),
        ] {
            assert_eq!(status.faults().len(), want, "{status:?}");
        }
    }

    /// A tenant that claims an address of another one must not make the agents of all nodes unhealthy.
    #[test]
    fn conditions_of_tenants_are_no_faults_of_the_node() {
        let condition = |r#type| Condition {
            r#type,
            status: ConditionStatus::False,
            since: Timestamp::now(),
            reason: "R".to_owned(),
            message: "m".to_owned(),
        };
        let with = |r#type| Status { conditions: vec![condition(r#type)], ..Status::new("n") };
        assert_eq!(with(ConditionType::ProgramsAttached).faults(), ["m"]);
        assert_eq!(with(ConditionType::ClaimsHeld).faults(), [""; 0]);
    }

    /// One condition per fault that operators met and that `status` did not show.
    #[test]
    fn each_fault_has_a_condition_with_a_reason() {
        let failure =
            |is_common| SourceFailure { reason: "R".to_owned(), is_common, message: "m".to_owned() };
        let source = |failure: Option<SourceFailure>| {
            let kind = KindReport { failure, ..KindReport::default() };
            let kinds = [("Nodes".to_owned(), kind)].into();
            Some(SourceReport { name: String::new(), is_api_server: true, kinds })
        };
        let serving = Status { phase: Phase::Serving, source: source(None), ..Status::new("n") };
        let dead = Some(NameServerStatus::new(Some(Duration::from_secs(2))));
        let now = serving.started + 100.seconds();
        let full = vec![Table { name: "SLOTS".to_owned(), used: 900, capacity: 1000 }];
        let planes = Some(Planes { socket_lb: "all".to_owned(), packet: true });
        let in_cgroup = |scope| Status {
            cgroup: Some("/sys/fs/cgroup/system.slice".into()),
            cgroup_scope: Some(scope),
            planes: planes.clone(),
            ..serving.clone()
        };
        for (status, want) in [
            (serving.clone(), None),
            (Status { source: source(Some(failure(true))), ..serving.clone() }, Some("SourceWatched R m")),
            (
                Status { source: source(Some(failure(false))), ..serving.clone() },
                Some("SourceWatched R Nodes: m"),
            ),
            (Status { is_node_known: Some(true), ..serving.clone() }, None),
            (Status { is_node_known: Some(false), ..serving.clone() }, Some("NodeFound NoSuchNode")),
            (Status { pending_since: Some(now - 59.seconds()), ..serving.clone() }, None),
            (Status { pending_since: Some(now - 61.seconds()), ..serving.clone() }, Some("Synced Behind")),
            (Status { name_server: dead, ..serving.clone() }, Some("NameServerAlive NoHeartbeat")),
            (Status { unwritten_frontends: 2, ..serving.clone() }, Some("Synced NotWritten")),
            (Status { hangs: true, ..serving.clone() }, Some("Synced Hangs")),
            (Status { tables: full, ..serving.clone() }, Some("TablesHaveRoom AlmostFull")),
            (
                Status { unattached: vec!["cannot attach to eth0".to_owned()], ..serving.clone() },
                Some("ProgramsAttached AttachFailed"),
            ),
            (
                in_cgroup(CgroupScope::PodsElsewhere("/sys/fs/cgroup/kubepods".into())),
                Some("SocketsTranslated PodsElsewhere"),
            ),
            (in_cgroup(CgroupScope::OwnContainer), Some("SocketsTranslated OwnContainer")),
            (
                Status { name_server: Some(NameServerStatus::new(None)), ..serving.clone() },
                Some("NameServerAlive NoHeartbeat"),
            ),
        ] {
            let line = |(r#type, fault): (ConditionType, Fault)| {
                format!("{type} {} {}", fault.reason, fault.message)
            };
            let stated = status.stated(now).into_iter();
            let mut lines = stated
                .flat_map(|(r#type, faults)| faults.into_iter().map(move |fault| (r#type, fault)))
                .map(line);
            let (line, more) = (lines.next(), lines.next());
            assert_eq!((line.is_some(), more), (want.is_some(), None), "{want:?} {line:?}");
            assert!(line.unwrap_or_default().starts_with(want.unwrap_or_default()), "{want:?}");
        }
    }

    #[test]
    fn agents_with_pins_of_their_own_have_sockets_of_their_own() {
        let path =
            |bpffs: &str| socket_path(Path::new("/run/portreeve"), Path::new(bpffs)).display().to_string();
        assert_eq!(path("/sys/fs/bpf/portreeve"), "/run/portreeve/sys-fs-bpf-portreeve.sock");
        assert_ne!(path("/sys/fs/bpf/a"), path("/sys/fs/bpf/b"));
    }
}
