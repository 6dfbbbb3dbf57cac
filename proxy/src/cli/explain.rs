//! `explain`: the verdict on one flow, or the answer to one name, with the reason.

mod names;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use anyhow::Result;
use clap::error::ErrorKind;
use serde::Serialize;

use super::{
    frontend_name::FrontendName,
    name_server_args::NameServerArgs,
    objects_args::ObjectsArgs,
    output::{self, Format, OutputArgs},
    policy_args::{PolicyArgs, address},
    table_args::TableArgs,
    table_room,
};
use crate::{
    kube_proxy_config::ConfigFile,
    manifests,
    model::{
        address::{Protocol, parse_ip},
        flow::{BackendChoice, Flow, FlowVerdict},
        node::Source,
    },
    update::Skipped,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    objects: ObjectsArgs,
    /// The source of the flow
    #[arg(long, value_name = "IP", value_parser = address, requires = "to")]
    from: Option<IpAddr>,
    /// The destination before translation; TCP by default
    #[arg(long, value_name = "IP:PORT[/tcp|udp|sctp]", value_parser = destination, requires = "from")]
    to: Option<Destination>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Destination {
    address: SocketAddr,
    protocol: Protocol,
}

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
}

pub fn run(args: Args, file: Option<&ConfigFile>) -> Result<()> {
    if let Some(name) = args.dns.as_deref().filter(|name| !name.is_empty()) {
        return explain_name(&args, name);
    }
    let (Some(source), Some(to)) = (args.from, args.to) else {
        let missing = "give --from and --to for a flow, or --dns NAME for a name\n";
        clap::Error::raw(ErrorKind::MissingRequiredArgument, missing).exit();
    };
    let loaded = args.objects.load(manifests::load)?;
    let name_server = args.dns.is_some().then(|| args.names.name_server(None, Vec::new()));
    let policy = loaded.policy(&args.policy, file, name_server)?;
    let dns = policy.name_server.as_ref().map(|server| server.service.clone());
    let (index, skipped) = loaded.manifests.to_index(policy);
    for Skipped { object, reason } in &skipped {
        tracing::warn!(object, reason, "object skipped");
    }
    let Destination { address: destination, protocol } = to;
    let not_programmed = table_room::not_programmed(&index, &args.tables, dns)?;
    let verdict = index.explain_without(&Flow { source, destination, protocol }, &not_programmed);
    match args.output.output {
        Format::Json => output::print_json(&Explanation::from(&verdict)),
        Format::Table => output::print(&table(&verdict)),
    }
}

fn explain_name(args: &Args, name: &str) -> Result<()> {
    let loaded = args.objects.load(manifests::load)?;
    loaded.require_names()?;
    let explanation = names::explain(&loaded.manifests, name, &args.namespace, &args.cluster_domain)?;
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
    table.add_row(["SOURCE", source(verdict.source)]);
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

fn source(source: Source) -> &'static str {
    match source {
        Source::Pod => "pod",
        Source::Node => "node",
        Source::Outside => "outside",
    }
}

fn destination(text: &str) -> Result<Destination, String> {
    let (endpoint, protocol) = match text.split_once('/') {
        Some((endpoint, protocol)) => {
            (endpoint, protocol.to_uppercase().parse().map_err(|e| format!("{e}"))?)
        }
        None => (text, Protocol::Tcp),
    };
    let invalid = || format!("`{endpoint}` is not IP:PORT (an IPv6 address goes in brackets)");
    let (host, port) = endpoint.rsplit_once(':').ok_or_else(invalid)?;
    let ip = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) if inner.contains(':') => parse_ip(inner),
        Some(_) => None,
        None if host.contains(':') => None,
        None => parse_ip(host),
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|_| digits).ok_or_else(invalid)?;
    Ok(Destination { address: SocketAddr::new(ip.ok_or_else(invalid)?, port), protocol })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_parsed() {
        for (text, want) in [
            ("10.0.0.1:80", Some("10.0.0.1:80 TCP")),
            ("10.0.0.1:53/udp", Some("10.0.0.1:53 UDP")),
            ("10.0.0.1:53/SCTP", Some("10.0.0.1:53 SCTP")),
            ("010.0.0.01:80", Some("10.0.0.1:80 TCP")),
            ("[fd00::1]:80/udp", Some("[fd00::1]:80 UDP")),
            ("[::ffff:10.0.0.1]:80", Some("10.0.0.1:80 TCP")),
            ("10.0.0.1:0", Some("10.0.0.1:0 TCP")),
            ("10.0.0.1", None),
            ("10.0.0.1:", None),
            ("10.0.0.1:+80", None),
            ("10.0.0.1:65536", None),
            ("10.0.0.1:80/", None),
            ("10.0.0.1:80/icmp", None),
            ("10.0.0.1:80/tcp/udp", None),
            ("fd00::1:80", None),
            ("[10.0.0.1]:80", None),
            ("[fd00::1:80", None),
            ("web:80", None),
            ("", None),
        ] {
            let got = destination(text).ok().map(|to| format!("{} {}", to.address, to.protocol));
            assert_eq!(got.as_deref(), want, "{text:?}");
        }
    }
}
