//! `status`: the state of the agent, its faults and the table fill. Exit code 1 if degraded.

use std::path::Path;

use anyhow::{Result, bail};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{
    agents::{self, FindArgs, Place},
    control,
    human_duration::human_duration,
    output::{self, Format, OutputArgs, Tone},
};
use crate::{
    datapath::{self, CgroupScope, InspectError},
    observe::{
        conditions::{Condition, ConditionStatus},
        control::ControlRequest,
        status::{DeviceStatus, Phase, Port, Status, Table, XdpDevice},
    },
    reconcile::LbMaps as _,
};

/// Times of the future up to this long say nothing about the clock.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(5);
const CLOCK_SET_BACK: &str =
    "set back while the agent ran: ages are wrong, and certificates and tokens may count as not valid yet";

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    find: FindArgs,
    /// Exit with 0 once the agent is synced, even if degraded: for startup probes
    #[arg(long)]
    ready: bool,
    /// Exit with 0 while the agent works as /livez tells, even if degraded: for liveness probes, which need no port then
    #[arg(long, conflicts_with = "ready")]
    live: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct StatusReport {
    state: &'static str,
    /// The agent's own status; `None` if no agent runs.
    agent: Option<Status>,
    /// When the last agent was alive, within a second; only if none runs. `None`: unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_alive: Option<Timestamp>,
    /// `set_back`: the agent started later than now.
    #[serde(skip_serializing_if = "Option::is_none")]
    clock: Option<&'static str>,
    /// The data plane in the kernel, read only if no agent runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_plane: Option<DataPlane>,
    /// The fill of the tables that the programs write; empty with `--ready` and `--live`, which probes use, and if they
    /// cannot be read.
    flow_tables: Vec<Table>,
    faults: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
struct DataPlane {
    is_present: bool,
    frontends: usize,
    /// The error if it cannot be read.
    problem: Option<String>,
}

pub fn run(args: Args) -> Result<()> {
    let report = read(&args.find.find()?, !args.ready && !args.live)?;
    match args.output.output {
        Format::Json => output::print_json(&report)?,
        Format::Table => output::print(&table(&report, Timestamp::now()))?,
    }
    match report.faults.as_slice() {
        _ if args.ready && report.is_ready() || args.live && report.is_live() => Ok(()),
        [] if args.live => bail!("not live: changes are overdue"),
        [] => Ok(()),
        [only] => bail!("degraded: {only}"),
        [first, rest @ ..] => bail!("degraded: {first}, and {} more", rest.len()),
    }
}

/// The status as JSON, for a report.
pub fn json(place: &Place) -> Result<String> {
    Ok(serde_json::to_string_pretty(&read(place, true)?)? + "\n")
}

fn read(Place { bpffs, run_dir, socket, .. }: &Place, has_flow_tables: bool) -> Result<StatusReport> {
    let agent = control::request(socket, ControlRequest::Status)?;
    // Only without an agent: reading all maps is too slow for frequent probes.
    let data_plane = agent.is_none().then(|| data_plane(bpffs));
    let last_alive = datapath::last_alive(bpffs).filter(|_| agent.is_none());
    let last_alive = last_alive.and_then(|time| Timestamp::try_from(time).ok());
    let mut report = StatusReport::new(agent, last_alive, data_plane, Timestamp::now());
    if has_flow_tables {
        report.add_flow_tables(bpffs);
    }
    if let (None, Some(fault)) = (&report.agent, report.faults.first_mut()) {
        let hint = agents::hint(bpffs, Some(run_dir));
        *fault += &format!("; nothing listens on {}{hint}", socket.display());
    }
    Ok(report)
}

fn data_plane(bpffs: &Path) -> DataPlane {
    let frontends = datapath::inspect(bpffs)
        .and_then(|maps| maps.frontends().map_err(|error| InspectError::Unreadable(Box::new(error))));
    match frontends {
        Ok(frontends) => DataPlane { is_present: true, frontends: frontends.len(), problem: None },
        Err(InspectError::NoDataPlane(_)) => DataPlane::default(),
        Err(error) => DataPlane { problem: Some(crate::error::chain(&error)), ..DataPlane::default() },
    }
}

impl StatusReport {
    fn new(
        agent: Option<Status>,
        last_alive: Option<Timestamp>,
        data_plane: Option<DataPlane>,
        now: Timestamp,
    ) -> Self {
        let since = last_alive.map(|time| format!(" since {time:.0}")).unwrap_or_default();
        let is_present = data_plane.as_ref().is_some_and(|data_plane| data_plane.is_present);
        let faults = match &agent {
            Some(agent) => agent.faults(),
            None if is_present => {
                vec![format!("no agent runs{since}: the data plane works as last programmed")]
            }
            None => vec![format!("no agent runs{since}, and there is no data plane")],
        };
        let state = match agent.as_ref().map(|agent| &agent.phase) {
            Some(Phase::Serving) if faults.is_empty() => "serving",
            Some(Phase::Serving) => "degraded",
            Some(Phase::Waiting { .. }) => "waiting",
            Some(Phase::Preparing | Phase::Starting) => "starting",
            None => "down",
        };
        let started = agent.as_ref().map(|agent| agent.started).or(last_alive);
        let clock = started.filter(|started| *started > now + CLOCK_TOLERANCE).map(|_| "set_back");
        Self { state, agent, last_alive, clock, data_plane, flow_tables: Vec::new(), faults }
    }

    fn add_flow_tables(&mut self, bpffs: &Path) {
        // Without a data plane there are none, and it is said already.
        self.flow_tables =
            datapath::flow_fill(bpffs).unwrap_or_default().into_iter().map(Into::into).collect();
    }

    /// Whether the agent is synced. An agent that waits to take over is.
    fn is_ready(&self) -> bool {
        let phase = self.agent.as_ref().map(|agent| &agent.phase);
        matches!(phase, Some(Phase::Serving | Phase::Waiting { .. }))
    }

    /// Whether the agent answers, its loop turns, and no change is overdue.
    fn is_live(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.is_live.unwrap_or(!agent.hangs))
    }
}

fn table(report: &StatusReport, now: Timestamp) -> String {
    let mut table = output::table();
    table.add_row(["STATE", &state(report)]);
    if let Some(agent) = &report.agent {
        add_agent(&mut table, agent, now);
    }
    if let Some(time) = report.last_alive {
        table.add_row(["LAST ALIVE", &format!("{time:.0}, {} ago", age(now.duration_since(time).as_secs()))]);
    }
    if report.clock.is_some() {
        table.add_row(["CLOCK", CLOCK_SET_BACK]);
    }
    if let Some(data_plane) = &report.data_plane {
        table.add_row(["IN THE KERNEL", &data_plane_text(data_plane)]);
    }
    for (n, xdp) in report.agent.iter().flat_map(|agent| &agent.xdp).enumerate() {
        table.add_row([if n == 0 { "XDP" } else { "" }, &xdp_text(xdp)]);
    }
    let tables = report.agent.iter().flat_map(|agent| &agent.tables).chain(&report.flow_tables);
    for (n, used) in tables.enumerate() {
        let text = format!("{} {} of {} ({} %)", used.name, used.used, used.capacity, used.percent());
        table.add_row([if n == 0 { "TABLES" } else { "" }, &text]);
    }
    for (n, part) in report.agent.iter().flat_map(|agent| &agent.unserved).enumerate() {
        table
            .add_row([if n == 0 { "NOT SERVED" } else { "" }, &format!("{}: {}", part.service, part.reason)]);
    }
    if let Some(more) = report.agent.as_ref().and_then(more_unserved) {
        table.add_row(["", &more]);
    }
    for (n, impossible) in report.agent.iter().flat_map(|agent| &agent.impossible).enumerate() {
        table.add_row([if n == 0 { "NOT POSSIBLE HERE" } else { "" }, impossible]);
    }
    let conditions = report.agent.as_ref().map(|agent| agent.conditions.as_slice()).unwrap_or_default();
    // An agent of an earlier version, or none.
    for (n, fault) in report.faults.iter().enumerate().filter(|_| conditions.is_empty()) {
        table.add_row([if n == 0 { "FAULTS" } else { "" }, fault]);
    }
    output::text(table) + &conditions_table(conditions, now)
}

/// As `kubectl describe` prints conditions. One line each, however long: the message comes last.
fn conditions_table(conditions: &[Condition], now: Timestamp) -> String {
    if conditions.is_empty() {
        return String::new();
    }
    let mut table = output::table();
    table.set_header(["TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"]);
    for Condition { r#type, status, since, reason, message } in conditions {
        let since = age(now.duration_since(*since).as_secs());
        let message = if message.is_empty() { "-" } else { message };
        let tone = if *status == ConditionStatus::True { Tone::Good } else { Tone::Bad };
        let plain = |text: &str| output::cell(text, Tone::Plain);
        let status = output::cell(status.name(), tone);
        table.add_row([plain(&r#type.to_string()), status, plain(&since), plain(reason), plain(message)]);
    }
    format!("\n{}", output::text(table))
}

fn xdp_text(xdp: &XdpDevice) -> String {
    let reason = xdp.reason.as_ref().map(|reason| format!(", {reason}")).unwrap_or_default();
    format!("{}: {}{reason}", xdp.device, xdp.place)
}

/// The number of parts of Services that are not named.
fn more_unserved(agent: &Status) -> Option<String> {
    let more = agent.unserved_count.saturating_sub(agent.unserved.len());
    (more > 0).then(|| format!("and {more} more"))
}

fn data_plane_text(data_plane: &DataPlane) -> String {
    let DataPlane { is_present, frontends, problem } = data_plane;
    match problem {
        Some(problem) => problem.clone(),
        None if *is_present => format!("{frontends} frontends"),
        None => "nothing".to_owned(),
    }
}

fn state(report: &StatusReport) -> String {
    match report.agent.as_ref().map(|agent| &agent.phase) {
        Some(Phase::Waiting { holder }) => format!("waiting to take over from {holder}"),
        _ => report.state.to_owned(),
    }
}

fn add_agent(table: &mut comfy_table::Table, agent: &Status, now: Timestamp) {
    let age = |time: Timestamp| age(now.duration_since(time).as_secs());
    let process = format!("process {}, version {}, for {}", agent.process, agent.version, age(agent.started));
    table.add_row(["AGENT", &process]);
    table.add_row(["NODE", &agent.node]);
    let synced = agent.last_sync.map_or_else(|| "never".to_owned(), |time| format!("{} ago", age(time)));
    let pending = agent.pending_since.map(|time| format!(", a change is pending for {}", age(time)));
    table.add_row(["LAST SYNC", &format!("{synced}{}", pending.unwrap_or_default())]);
    let written = format!("{} published, {} not written", agent.frontends, agent.unwritten_frontends);
    table.add_row(["FRONTENDS", &written]);
    table.add_row([
        "SINCE START",
        &format!("{} objects skipped, {} hooks repaired", agent.skipped_objects, agent.reattachments),
    ]);
    add_setup(table, agent, age);
}

fn add_setup(table: &mut comfy_table::Table, agent: &Status, age: impl Fn(Timestamp) -> String) {
    if let Some(source) = &agent.source {
        let kind = if source.is_api_server { "API server" } else { "manifests" };
        let heard =
            source.last_heard().map_or_else(|| "never".to_owned(), |time| format!("{} ago", age(time)));
        table.add_row(["SOURCE", &format!("{kind} {}, last heard {heard}", source.name)]);
    }
    if let Some(cgroup) = &agent.cgroup {
        let scope = agent.cgroup_scope.as_ref().map(|scope| format!(", {}", scope_text(scope)));
        table.add_row(["CGROUP", &format!("{}{}", cgroup.display(), scope.unwrap_or_default())]);
    }
    if let Some(planes) = &agent.planes {
        let packet = if planes.packet { "on" } else { "off" };
        table.add_row(["PLANES", &format!("socket LB {}, packet LB {packet}", planes.socket_lb)]);
    }
    let name_server = match &agent.name_server {
        Some(server) if server.is_alive => "alive",
        Some(_) => "not alive",
        None => "none",
    };
    table.add_row(["NAME SERVER", name_server]);
    for (n, Port { server, address }) in agent.ports.iter().enumerate() {
        table.add_row([if n == 0 { "PORTS" } else { "" }, &format!("{server} {address}")]);
    }
    for (n, DeviceStatus { device, role, hooks }) in agent.devices.iter().enumerate() {
        let hooks = if hooks.is_empty() { "no program".to_owned() } else { hooks.join(", ") };
        table.add_row([if n == 0 { "DEVICES" } else { "" }, &format!("{device}: {role}, {hooks}")]);
    }
}

fn scope_text(scope: &CgroupScope) -> String {
    match scope {
        CgroupScope::Root => "the root: all processes".to_owned(),
        CgroupScope::Part => "the processes below it".to_owned(),
        CgroupScope::PodsElsewhere(pods) => format!("without the pods, which are in {}", pods.display()),
        CgroupScope::OwnContainer => "the agent's own container alone".to_owned(),
        CgroupScope::Empty => "no process".to_owned(),
    }
}

/// The clock may have been set back.
fn age(seconds: i64) -> String {
    human_duration(seconds.max(0))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::{
        observe::{
            conditions::{ConditionStatus, ConditionType},
            status::{NameServerStatus, Planes, UnservedPart},
        },
        source_state::{KindReport, SourceReport},
    };

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn serving() -> Status {
        Status {
            process: 7,
            started: at("2026-01-01T00:00:00Z"),
            phase: Phase::Serving,
            last_sync: Some(at("2026-01-01T01:59:00Z")),
            frontends: 3,
            xdp: vec![XdpDevice {
                device: "eth0".to_owned(),
                place: "native".to_owned(),
                reason: None,
                is_fault: false,
            }],
            tables: vec![Table { name: "SLOTS".to_owned(), used: 10, capacity: 1000 }],
            ..with_setup(Status::new("node-1"))
        }
    }

    fn with_setup(status: Status) -> Status {
        let heard = KindReport { last_heard: Some(at("2026-01-01T01:59:55Z")), ..KindReport::default() };
        let (name, kinds) = ("https://192.0.2.1:6443".to_owned(), [("Services".to_owned(), heard)].into());
        let hooks = ["tc_external_ingress", "tc_external_egress"].map(str::to_owned).into();
        let (device, role) = ("eth0".to_owned(), "external".to_owned());
        let (server, address) = ("health".to_owned(), "0.0.0.0:10256".parse().unwrap());
        Status {
            source: Some(SourceReport { name, is_api_server: true, kinds }),
            cgroup: Some("/sys/fs/cgroup".into()),
            cgroup_scope: Some(CgroupScope::Root),
            planes: Some(Planes { socket_lb: "all".to_owned(), packet: true }),
            devices: vec![DeviceStatus { device, role, hooks }],
            name_server: Some(NameServerStatus { is_alive: true, heartbeat_age_ms: Some(100) }),
            ports: vec![Port { server, address }],
            ..status
        }
    }

    fn condition(
        r#type: ConditionType,
        status: ConditionStatus,
        since: &str,
        reason: &str,
        message: &str,
    ) -> Condition {
        let (since, reason, message) = (at(since), reason.to_owned(), message.to_owned());
        Condition { r#type, status, since, reason, message }
    }

    fn report(agent: Option<Status>, frontends: usize) -> StatusReport {
        let data_plane = DataPlane { is_present: frontends > 0, frontends, problem: None };
        let data_plane = agent.is_none().then_some(data_plane);
        StatusReport::new(agent, None, data_plane, at("2026-01-01T02:00:00Z"))
    }

    #[test]
    fn the_table_shows_the_agent() {
        let conditions = vec![
            condition(ConditionType::Synced, ConditionStatus::True, "2026-01-01T00:00:00Z", "AsExpected", ""),
            condition(
                ConditionType::NameServerAlive,
                ConditionStatus::False,
                "2026-01-01T01:59:30Z",
                "NoHeartbeat",
                "the name server does not answer",
            ),
        ];
        let report = report(Some(Status { conditions, ..serving() }), 3);
        assert_eq!(report.state, "degraded");
        let text = table(&report, at("2026-01-01T02:00:00Z"));
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            text.lines().map(words).collect::<Vec<_>>(),
            [
                "STATE degraded",
                concat!("AGENT process 7, version ", env!("CARGO_PKG_VERSION"), ", for 120m"),
                "NODE node-1",
                "LAST SYNC 60s ago",
                "FRONTENDS 3 published, 0 not written",
                "SINCE START 0 objects skipped, 0 hooks repaired",
                "SOURCE API server https://192.0.2.1:6443, last heard 5s ago",
                "CGROUP /sys/fs/cgroup, the root: all processes",
                "PLANES socket LB all, packet LB on",
                "NAME SERVER alive",
                "PORTS health 0.0.0.0:10256",
                "DEVICES eth0: external, tc_external_ingress, tc_external_egress",
                "XDP eth0: native",
                "TABLES SLOTS 10 of 1000 (1 %)",
                "",
                "TYPE STATUS SINCE REASON MESSAGE",
                "Synced True 120m AsExpected -",
                "NameServerAlive False 30s NoHeartbeat the name server does not answer",
            ]
        );
    }

    #[test]
    fn an_agent_lives_as_livez_tells() {
        let earlier = Status { is_live: None, ..serving() };
        for (agent, want) in [
            (Some(Status { is_live: Some(true), ..serving() }), true),
            // Degraded, and alive.
            (
                Some(Status {
                    is_live: Some(true),
                    unattached: vec!["cannot attach to eth0".to_owned()],
                    ..serving()
                }),
                true,
            ),
            // Overdue changes are no fault of `status` yet.
            (Some(Status { is_live: Some(false), ..serving() }), false),
            (Some(earlier.clone()), true),
            (Some(Status { hangs: true, ..earlier }), false),
            (None, false),
        ] {
            assert_eq!(report(agent.clone(), 3).is_live(), want, "{agent:?}");
        }
    }

    #[test]
    fn what_is_not_served_and_not_possible_is_named_and_no_fault() {
        let part = UnservedPart { service: "shop/web".to_owned(), reason: "lost".to_owned() };
        let impossible = vec!["the OOM score is not -999".to_owned()];
        let agent = Status { unserved: vec![part], unserved_count: 3, impossible, ..serving() };
        let report = report(Some(agent), 3);
        assert_eq!((report.state, report.faults.len()), ("serving", 0));
        let text = table(&report, at("2026-01-01T02:00:00Z"));
        let words: Vec<_> = text.split_whitespace().collect();
        let text = words.join(" ");
        for line in ["NOT SERVED shop/web: lost", "and 2 more", "NOT POSSIBLE HERE the OOM score is not -999"]
        {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn without_an_agent_its_end_is_told() {
        let data_plane = || Some(DataPlane { is_present: true, frontends: 3, problem: None });
        let known = StatusReport::new(
            None,
            Some(at("2026-01-01T01:57:00.7Z")),
            data_plane(),
            at("2026-01-01T02:00:00Z"),
        );
        expect![[r#"
            STATE          down
            LAST ALIVE     2026-01-01T01:57:00Z, 2m59s ago
            IN THE KERNEL  3 frontends
            FAULTS         no agent runs since 2026-01-01T01:57:00Z: the data plane works as last programmed
        "#]]
        .assert_eq(&table(&known, at("2026-01-01T02:00:00Z")));
        let unknown = StatusReport::new(None, None, data_plane(), at("2026-01-01T02:00:00Z"));
        assert_eq!(unknown.faults, ["no agent runs: the data plane works as last programmed"]);
    }

    #[test]
    fn a_clock_that_was_set_back_is_stated() {
        let now = at("2026-01-01T02:00:00Z");
        for (started, is_stated) in
            [("2026-01-01T00:00:00Z", false), ("2026-01-01T02:00:03Z", false), ("2026-01-01T02:10:00Z", true)]
        {
            let agent = Status { started: at(started), ..serving() };
            let report = StatusReport::new(Some(agent), None, None, now);
            assert_eq!(report.clock.is_some(), is_stated, "{started}");
            assert_eq!(
                table(&report, now).contains("CLOCK        set back while the agent ran"),
                is_stated,
                "{started}"
            );
            let json = serde_json::to_value(&report).unwrap();
            assert_eq!(json["clock"].as_str(), is_stated.then_some("set_back"));
        }
        let last_alive = Some(at("2026-01-01T02:10:00Z"));
        assert!(
            StatusReport::new(None, last_alive, None, now).clock.is_some(),
            "also when the agent is gone"
        );
    }

    /// Sockets outside of the cgroup are a fault of the node, if sockets of pods are to be translated.
    #[test]
    fn a_cgroup_without_the_pods_is_a_fault() {
        let elsewhere = CgroupScope::PodsElsewhere("/sys/fs/cgroup/kubepods".into());
        let pods = DeviceStatus { device: "veth0".to_owned(), role: "pod".to_owned(), hooks: Vec::new() };
        let off = Some(Planes { socket_lb: "host-only".to_owned(), packet: true });
        let with = |scope: CgroupScope| Status { cgroup_scope: Some(scope), ..serving() };
        for (status, want) in [
            (with(CgroupScope::Root), None),
            (with(CgroupScope::Part), None),
            (with(elsewhere.clone()), Some("they are in /sys/fs/cgroup/kubepods, not in /sys/fs/cgroup")),
            (with(CgroupScope::OwnContainer), Some("holds the agent's own container alone")),
            // Before the first pod.
            (with(CgroupScope::Empty), None),
            (
                Status { devices: vec![pods], ..with(CgroupScope::Empty) },
                Some("no process is in /sys/fs/cgroup"),
            ),
            (Status { planes: off, ..with(elsewhere) }, None),
        ] {
            let faults = status.faults();
            assert_eq!(faults.len(), usize::from(want.is_some()), "{faults:?}");
            assert!(
                faults.iter().all(|fault| fault.contains(want.unwrap_or_default())),
                "{want:?}: {faults:?}"
            );
        }
    }

    #[test]
    fn states_follow_from_agent_and_kernel() {
        let waiting = Phase::Waiting { holder: "process 1".to_owned() };
        for (report, state, faults) in [
            (report(Some(serving()), 3), "serving", 0),
            (report(Some(Status { unwritten_frontends: 1, ..serving() }), 3), "degraded", 1),
            (report(Some(Status { phase: waiting, ..serving() }), 3), "waiting", 0),
            (report(Some(Status { phase: Phase::Starting, ..serving() }), 0), "starting", 1),
            (report(None, 3), "down", 1),
            (report(None, 0), "down", 1),
        ] {
            assert_eq!((report.state, report.faults.len()), (state, faults), "{report:?}");
        }
    }
}
