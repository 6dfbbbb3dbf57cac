//! `explain`: the verdict on one flow, or the answer to one name, with the reason.
//!
//! With objects from files the model is asked; without, the programs and maps of this node, and then the model with the objects of
//! its agent.

mod chain;
mod flows;
mod live;
mod names;
mod target;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use clap::error::ErrorKind;
use serde::Serialize;

use live::{Differing, LivePart};
use target::{Destination, ServiceName, SourceName};

use super::{
    agents::FindArgs,
    frontend_name::FrontendName,
    name_server_args::NameServerArgs,
    objects_args::{Loaded, ObjectsArgs},
    output::{self, Format, OutputArgs},
    policy_args::PolicyArgs,
    table_args::TableArgs,
    table_room,
};
use crate::{
    kube_proxy_config::ConfigFile,
    manifests,
    model::flow::{BackendChoice, FlowVerdict},
    update::Skipped,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A Service: the verdict on a flow to each of its frontends, or to those of one port, by number or name
    #[arg(value_name = "[NAMESPACE/]SERVICE[:PORT]", value_parser = target::service, conflicts_with_all = ["to", "dns"])]
    service: Option<ServiceName>,
    #[command(flatten)]
    objects: ObjectsArgs,
    /// The source of the flow: an address, or a pod that is an endpoint on the node [default for a Service: the node]
    #[arg(long, value_name = "IP|[NAMESPACE/]POD", value_parser = target::source)]
    from: Option<SourceName>,
    /// The destination before translation; TCP by default
    #[arg(long, value_name = "IP:PORT[/tcp|udp|sctp]", value_parser = target::destination, requires = "from")]
    to: Option<Destination>,
    #[command(flatten)]
    find: FindArgs,
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// With a name: its answer to a pod, along the search list. Without: assume a DNS server on the node, as under `run --dns`
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    dns: Option<String>,
    /// The namespace of the pod that asks for the name
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The cluster domain
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    #[command(flatten)]
    names: NameServerArgs,
    #[command(flatten)]
    tables: TableArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The verdict on a flow. The last three fields are there only if the programs of this node were asked.
#[derive(Debug, Serialize)]
struct Explanation {
    result: String,
    frontend: Option<FrontendName>,
    backends: BTreeSet<String>,
    masquerade: bool,
    /// Present only if the backends differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    masquerade_by_backend: Option<BTreeMap<String, bool>>,
    plane: String,
    reason: String,
    reason_code: &'static str,
    /// The steps of the decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<LivePart>,
    /// The model's verdict on the objects of the agent; null: there was none to ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<Option<Box<Explanation>>>,
    /// The fields in which the programs and the model differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    differs: Option<Vec<Differing>>,
}

pub fn run(args: Args, file: Option<&ConfigFile>) -> Result<()> {
    if let Some(name) = args.dns.as_deref().filter(|name| !name.is_empty()) {
        return explain_name(&args, name);
    }
    if args.to.is_none() && args.service.is_none() {
        let missing = "give --from and --to for a flow, a Service, or --dns NAME for a name\n";
        clap::Error::raw(ErrorKind::MissingRequiredArgument, missing).exit();
    }
    if args.objects.are_given() { explain_objects(&args, file) } else { live::explain(&args) }
}

/// Explains by the model, from objects in files.
fn explain_objects(args: &Args, file: Option<&ConfigFile>) -> Result<()> {
    let loaded = args.objects.load(manifests::load)?;
    let name_server = args.dns.is_some().then(|| args.names.clone().name_server(None, Vec::new()));
    let policy = loaded.policy(&args.policy, file, name_server)?;
    let dns = policy.name_server.as_ref().map(|server| server.service.clone());
    let (index, skipped) = loaded.manifests.to_index(policy);
    for Skipped { object, reason, .. } in &skipped {
        tracing::warn!(object, reason, "object skipped");
    }
    let flows = flows::of_objects(args.service.as_ref(), args.from.as_ref(), args.to, &index)?;
    let not_programmed = table_room::not_programmed(&index, &args.tables, dns)?;
    let verdicts = flows.iter().map(|flow| index.explain_without(flow, &not_programmed));
    match args.output.output {
        Format::Json if args.to.is_some() => {
            let only = verdicts.map(|verdict| Explanation::from(&verdict)).next();
            output::print_json(&only)
        }
        Format::Json => {
            let all: Vec<_> = verdicts.map(|verdict| Explanation::from(&verdict)).collect();
            output::print_json(&all)
        }
        Format::Table => {
            let tables: Vec<_> = verdicts.map(|verdict| table(&verdict)).collect();
            output::print(&tables.join("\n"))
        }
    }
}

fn explain_name(args: &Args, name: &str) -> Result<()> {
    let loaded = match args.objects.are_given() {
        true => args.objects.load(manifests::load)?,
        false => Loaded::of_agent(&args.find.find()?.socket)?,
    };
    loaded.require_names()?;
    let namespace = match &args.from {
        Some(SourceName::Pod(pod)) => {
            pod.split_once('/').map_or(&*args.namespace, |(namespace, _)| namespace)
        }
        Some(SourceName::Address(_)) | None => &args.namespace,
    };
    let explanation = names::explain(&loaded.manifests, name, namespace, &args.cluster_domain)?;
    match args.output.output {
        Format::Json => output::print_json(&explanation),
        Format::Table => output::print(&explanation.text()),
    }
}

impl From<&FlowVerdict> for Explanation {
    fn from(verdict: &FlowVerdict) -> Self {
        let all = !verdict.choices.is_empty() && verdict.choices.iter().all(|choice| choice.masquerade);
        let some = verdict.choices.iter().any(|choice| choice.masquerade);
        Self {
            result: verdict.outcome.to_string(),
            frontend: verdict.frontend.as_ref().map(FrontendName::from),
            backends: verdict.choices.iter().map(|choice| choice.backend.address.to_string()).collect(),
            masquerade: all,
            masquerade_by_backend: (some && !all).then(|| by_backend(&verdict.choices)),
            plane: verdict.plane.to_string(),
            reason: verdict.explanation(),
            reason_code: verdict.reason.code().name(),
            live: None,
            model: None,
            differs: None,
        }
    }
}

fn by_backend(choices: &[BackendChoice]) -> BTreeMap<String, bool> {
    choices.iter().map(|choice| (choice.backend.address.to_string(), choice.masquerade)).collect()
}

fn table(verdict: &FlowVerdict) -> String {
    let mut table = output::table();
    table.add_row(["RESULT", &verdict.outcome.to_string()]);
    let frontend = verdict.frontend.as_ref().map_or_else(
        || "none".to_owned(),
        |frontend| format!("{} {} of {}", frontend.kind.name(), frontend.key, frontend.service),
    );
    table.add_row(["FRONTEND", &frontend]);
    table.add_row(["SOURCE", verdict.source.name()]);
    let choices: BTreeMap<String, &BackendChoice> =
        verdict.choices.iter().map(|choice| (choice.backend.address.to_string(), choice)).collect();
    for (n, (address, choice)) in choices.iter().enumerate() {
        table.add_row([if n == 0 { "BACKENDS" } else { "" }, &format!("{address}{}", remarks(choice))]);
    }
    table.add_row(["PLANE", &verdict.plane.to_string()]);
    table.add_row(["REASON", &verdict.explanation()]);
    output::text(table)
}

fn remarks(choice: &BackendChoice) -> String {
    let mut remarks = String::new();
    if choice.backend.is_local {
        remarks += "  local";
    }
    if choice.masquerade {
        remarks += "  masqueraded";
    }
    remarks
}
