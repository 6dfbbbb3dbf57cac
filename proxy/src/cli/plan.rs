//! `plan`: the frontends that would be programmed on a node.
//!
//! With a table the exit code is 3 if an object, a part of one or a field was skipped: a pipeline notices a typo. In JSON the
//! list `skipped` says it, and the exit code is 0.

use std::{process::ExitCode, thread};

use anyhow::Result;
use clap::{ArgGroup, ValueEnum};
use serde::Serialize;

use super::{
    frontend_name::{FrontendName, address_cell, backends},
    name_server_args::NameServerArgs,
    objects_args::ObjectsArgs,
    output,
    policy_args::PolicyArgs,
    table_args::TableArgs,
    table_room,
};
use crate::{
    index::{Index, NotProgrammed},
    kube_proxy_config::ConfigFile,
    manifests,
    model::frontend::{Frontend, FrontendKind, View, WhenEmpty},
    update::Skipped,
};

#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("source").args(["manifests", "report"]).required(true)))]
pub struct Args {
    #[command(flatten)]
    objects: ObjectsArgs,
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Assume a DNS server on the node, as under `run --dns`
    #[arg(long, conflicts_with = "report")]
    dns: bool,
    #[command(flatten)]
    names: NameServerArgs,
    #[command(flatten)]
    tables: TableArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORMAT")]
    output: PlanFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PlanFormat {
    Table,
    /// A table with all backends
    Wide,
    Json,
}

/// The exit code if something was skipped.
const SKIPPED: u8 = 3;

#[derive(Debug, Serialize)]
struct Plan {
    frontends: Vec<PlannedFrontend>,
    dns: PlannedDns,
    skipped: Vec<Skipped>,
}

#[derive(Debug, Serialize)]
struct PlannedFrontend {
    #[serde(flatten)]
    name: FrontendName,
    internal: Vec<String>,
    external: Vec<String>,
    affinity_seconds: Option<u32>,
    source_ranges: Vec<String>,
    when_empty: &'static str,
    /// This node's own DNS server, which replaces all backends while it is alive.
    #[serde(skip_serializing_if = "Option::is_none")]
    served_here: Option<String>,
    /// Why the frontend is not programmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_programmed: Option<String>,
}

#[derive(Debug, Serialize)]
struct PlannedDns {
    records: usize,
}

pub fn run(args: Args, file: Option<&ConfigFile>) -> Result<ExitCode> {
    let loaded = args.objects.load(manifests::load_strictly)?;
    let name_server = args.dns.then(|| args.names.name_server(None, Vec::new()));
    let policy = loaded.policy(&args.policy, file, name_server)?;
    let dns = policy.name_server.as_ref().map(|server| server.service.clone());
    let loaded = loaded.manifests;
    let (records, (index, mut skipped)) = thread::scope(|scope| {
        let records = scope.spawn(|| loaded.dns_records());
        let joined = loaded.to_index(policy);
        (records.join(), joined)
    });
    let records = records.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let has_skipped = !skipped.is_empty();
    // Valid, but of no use to clients.
    skipped.extend(index.unserved().into_iter().map(|(service, unserved)| Skipped {
        object: format!("Service {service}"),
        reason: unserved.to_string(),
        reason_code: unserved.code(),
    }));
    let frontends = sorted(&index);
    let not_programmed = table_room::not_programmed(&index, &args.tables, dns)?;
    skipped.extend(table_room::skipped(&index, &not_programmed));
    match args.output {
        PlanFormat::Json => {
            let planned = |frontend| PlannedFrontend::new(frontend, &not_programmed);
            let frontends = frontends.iter().map(planned).collect();
            output::print_json(&Plan { frontends, dns: PlannedDns { records }, skipped })?;
            Ok(ExitCode::SUCCESS)
        }
        PlanFormat::Table | PlanFormat::Wide => {
            let is_wide = args.output == PlanFormat::Wide;
            output::print(&table(&frontends, records, (&skipped, &not_programmed), is_wide))?;
            Ok(if has_skipped { ExitCode::from(SKIPPED) } else { ExitCode::SUCCESS })
        }
    }
}

fn sorted(index: &Index) -> Vec<Frontend> {
    let mut frontends: Vec<_> = index.frontends().collect();
    frontends.sort_by(|a, b| (&a.service, a.kind, a.key).cmp(&(&b.service, b.kind, b.key)));
    frontends
}

impl PlannedFrontend {
    fn new(frontend: &Frontend, not_programmed: &NotProgrammed) -> Self {
        Self {
            name: frontend.into(),
            internal: backends(frontend, &frontend.internal),
            external: backends(frontend, &frontend.external),
            affinity_seconds: frontend.affinity.map(Into::into),
            source_ranges: frontend.source_ranges.iter().map(ToString::to_string).collect(),
            when_empty: when_empty(frontend),
            served_here: frontend.served_here.map(|address| address.to_string()),
            not_programmed: not_programmed.get(&frontend.key).cloned(),
        }
    }
}

/// The behaviour without backends, of the view that the traffic policy of this kind of frontend filters.
fn when_empty(frontend: &Frontend) -> &'static str {
    let view = match frontend.kind {
        FrontendKind::ClusterIp => &frontend.internal,
        FrontendKind::LoadBalancer | FrontendKind::ExternalIp | FrontendKind::NodePort => &frontend.external,
    };
    name(when_unused(frontend, view))
}

/// The behaviour of a view without usable backends. The data plane rejects flows to backends that it refuses.
fn when_unused(frontend: &Frontend, view: &View) -> WhenEmpty {
    if frontend.refused_ports(view).is_empty() { view.when_empty } else { WhenEmpty::Reject }
}

fn name(when_empty: WhenEmpty) -> &'static str {
    match when_empty {
        WhenEmpty::Reject => "reject",
        WhenEmpty::Drop => "drop",
    }
}

fn table(
    frontends: &[Frontend],
    records: usize,
    (skipped, not_programmed): (&[Skipped], &NotProgrammed),
    is_wide: bool,
) -> String {
    let mut table = output::table();
    let wide: &[_] = if is_wide { &["AFFINITY", "SOURCE RANGES"] } else { &[] };
    table.set_header([&["SERVICE", "TYPE", "ADDRESS", "PORT(S)", "INTERNAL", "EXTERNAL"], wide].concat());
    for frontend in frontends {
        let cell = |view| match not_programmed.get(&frontend.key) {
            Some(_) => "not programmed".to_owned(),
            None if is_wide => list(frontend, view),
            None => summary(frontend, view),
        };
        let mut row = vec![
            frontend.service.to_string(),
            frontend.kind.name().to_owned(),
            address_cell(frontend.key.address),
            format!("{}/{}", frontend.key.port, frontend.key.protocol),
            cell(&frontend.internal),
            cell(&frontend.external),
        ];
        if is_wide {
            let ranges = frontend.source_ranges.iter().map(ToString::to_string).collect::<Vec<_>>();
            let affinity = frontend.affinity.map(|seconds| format!("{}s", u32::from(seconds)));
            row.extend([affinity.unwrap_or_else(|| "-".to_owned()), or_dash(ranges.join(","))]);
        }
        table.add_row(row);
    }
    let mut text = output::text(table);
    text += &format!("\n{} frontends, {records} DNS records\n", frontends.len());
    if !skipped.is_empty() {
        let mut table = output::table();
        table.set_header(["SKIPPED", "REASON"]);
        table.add_rows(skipped.iter().map(|skipped| [&skipped.object, &skipped.reason]));
        text += &format!("\n{}", output::text(table));
    }
    text
}

/// All backends of a view, or the behaviour without any.
fn list(frontend: &Frontend, view: &View) -> String {
    let backends = backends(frontend, view);
    if backends.is_empty() { summary(frontend, view) } else { backends.join(",") }
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// The number of backends of a view, or the behaviour without any.
fn summary(frontend: &Frontend, view: &View) -> String {
    let usable = || view.backends.iter().filter(|backend| !frontend.refuses(backend));
    let others = match usable().count() {
        0 => name(when_unused(frontend, view)).to_owned(),
        all => format!("{all} ({} local)", usable().filter(|backend| backend.is_local).count()),
    };
    if frontend.served_here.is_some() { format!("served on this node, else {others}") } else { others }
}
