//! `status`: the state of the agent, its faults and the table fill. Exit code 1 if degraded.

use std::path::Path;

use anyhow::{Result, bail};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    agents, control,
    output::{self, Format, OutputArgs},
    run::{PinArgs, RunDirArgs},
};
use crate::{
    datapath::{self, InspectError},
    observe::{
        conditions::Condition,
        control::ControlRequest,
        status::{Phase, Status, XdpDevice, socket_path},
    },
    reconcile::LbMaps as _,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pins: PinArgs,
    #[command(flatten)]
    run_dir: RunDirArgs,
    /// Exit with 0 once the agent is synced, even if degraded: for liveness probes
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct StatusReport {
    state: &'static str,
    /// The agent's own status; `None` if no agent runs.
    agent: Option<Status>,
    /// The data plane in the kernel, read only if no agent runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_plane: Option<DataPlane>,
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
    let bpffs = &args.pins.bpffs;
    let socket = socket_path(&args.run_dir.run_dir, bpffs);
    let agent = control::request(&socket, ControlRequest::Status)?;
    // Only without an agent: reading all maps is too slow for frequent probes.
    let data_plane = agent.is_none().then(|| data_plane(bpffs));
    let mut report = StatusReport::new(agent, data_plane);
    if let (None, Some(fault)) = (&report.agent, report.faults.first_mut()) {
        let hint = agents::hint(bpffs, Some(&args.run_dir.run_dir));
        *fault += &format!("; nothing listens on {}{hint}", socket.display());
    }
    match args.output.output {
        Format::Json => output::print_json(&report)?,
        Format::Table => output::print(&table(&report, Timestamp::now()))?,
    }
    match report.faults.as_slice() {
        _ if args.ready && report.is_ready() => Ok(()),
        [] => Ok(()),
        [only] => bail!("degraded: {only}"),
        [first, rest @ ..] => bail!("degraded: {first}, and {} more", rest.len()),
    }
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
    fn new(agent: Option<Status>, data_plane: Option<DataPlane>) -> Self {
        let is_present = data_plane.as_ref().is_some_and(|data_plane| data_plane.is_present);
        let faults = match &agent {
            Some(agent) => agent.faults(),
            None if is_present => {
                vec!["no agent runs: the data plane works as last programmed".to_owned()]
            }
            None => vec!["no agent runs, and there is no data plane".to_owned()],
        };
        let state = match agent.as_ref().map(|agent| &agent.phase) {
            Some(Phase::Serving) if faults.is_empty() => "serving",
            Some(Phase::Serving) => "degraded",
            Some(Phase::Waiting { .. }) => "waiting",
            Some(Phase::Preparing | Phase::Starting) => "starting",
            None => "down",
        };
        Self { state, agent, data_plane, faults }
    }

    /// Whether the agent is synced. An agent that waits to take over is.
    fn is_ready(&self) -> bool {
        let phase = self.agent.as_ref().map(|agent| &agent.phase);
        matches!(phase, Some(Phase::Serving | Phase::Waiting { .. }))
    }
}

fn table(report: &StatusReport, now: Timestamp) -> String {
    let mut table = output::table();
    table.add_row(["STATE", &state(report)]);
    if let Some(agent) = &report.agent {
        add_agent(&mut table, agent, now);
    }
    if let Some(data_plane) = &report.data_plane {
        table.add_row(["IN THE KERNEL", &data_plane_text(data_plane)]);
    }
    for (n, xdp) in report.agent.iter().flat_map(|agent| &agent.xdp).enumerate() {
        table.add_row([if n == 0 { "XDP" } else { "" }, &xdp_text(xdp)]);
    }
    for (n, used) in report.agent.iter().flat_map(|agent| &agent.tables).enumerate() {
        let text = format!("{} {} of {} ({} %)", used.name, used.used, used.capacity, used.percent());
        table.add_row([if n == 0 { "TABLES" } else { "" }, &text]);
    }
    for (n, fault) in report.faults.iter().enumerate() {
        table.add_row([if n == 0 { "FAULTS" } else { "" }, fault]);
    }
    let conditions = report.agent.as_ref().map(|agent| agent.conditions.as_slice()).unwrap_or_default();
    format!("{}\n{}", table.trim_fmt(), conditions_table(conditions, now))
}

/// As `kubectl describe` prints conditions. One line each, however long: the message comes last.
fn conditions_table(conditions: &[Condition], now: Timestamp) -> String {
    if conditions.is_empty() {
        return String::new();
    }
    let mut table = output::unwrapped_table();
    table.set_header(["TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"]);
    for Condition { r#type, status, since, reason, message } in conditions {
        let since = age(now.duration_since(*since).as_secs());
        let message = if message.is_empty() { "-" } else { message };
        table.add_row([&r#type.to_string(), status.name(), &since, reason, message]);
    }
    format!("\n{}\n", table.trim_fmt())
}

fn xdp_text(xdp: &XdpDevice) -> String {
    let reason = xdp.reason.as_ref().map(|reason| format!(", {reason}")).unwrap_or_default();
    format!("{}: {}{reason}", xdp.device, xdp.place)
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
}

/// An age in its largest unit.
fn age(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{}s", seconds.max(0)),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::status::Table;

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
            ..Status::new("node-1")
        }
    }

    fn report(agent: Option<Status>, frontends: usize) -> StatusReport {
        let data_plane = DataPlane { is_present: frontends > 0, frontends, problem: None };
        let data_plane = agent.is_none().then_some(data_plane);
        StatusReport::new(agent, data_plane)
    }

    #[test]
    fn the_table_shows_the_agent() {
        let text = table(&report(Some(serving()), 3), at("2026-01-01T02:00:00Z"));
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            text.lines().map(words).collect::<Vec<_>>(),
            [
                "STATE serving",
                concat!("AGENT process 7, version ", env!("CARGO_PKG_VERSION"), ", for 2h"),
                "NODE node-1",
                "LAST SYNC 1m ago",
                "FRONTENDS 3 published, 0 not written",
                "SINCE START 0 objects skipped, 0 hooks repaired",
                "XDP eth0: native",
                "TABLES SLOTS 10 of 1000 (1 %)",
            ]
        );
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
