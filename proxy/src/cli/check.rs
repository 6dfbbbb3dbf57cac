//! `check`: the requirements of the agent on this node, each line with its remedy. Needs no privileges: without them, a
//! line says what could not be read.

mod agent;
mod api_server;
mod finding;
mod foreign_programs;
mod forward;
mod ipsec;
mod kernel;
mod kube_proxy;
mod masquerade_ports;
mod memory_limit;
mod sysctls;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use finding::{Finding, Verdict};

use super::{
    agents::{self, FindArgs},
    output::{self, Format, OutputArgs, Tone},
    source_args::SourceArgs,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    find: FindArgs,
    /// The cgroup v2 directory whose sockets the socket LB translates [default: the cgroup2 mount]
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub fn run(args: Args) -> Result<()> {
    let Args { find, cgroup, source, output: OutputArgs { output } } = args;
    let findings = findings(&find, cgroup.as_deref(), source);
    match output {
        Format::Json => output::print_json(&findings)?,
        Format::Table => output::print(&table(&findings))?,
    }
    match findings.iter().filter(|finding| finding.verdict == Verdict::Fail).count() {
        0 => Ok(()),
        1 => bail!("one requirement of the agent is not met, see above"),
        many => bail!("{many} requirements of the agent are not met, see above"),
    }
}

/// The findings as JSON, for a report.
pub fn json(find: &FindArgs) -> Result<String> {
    let source = SourceArgs { manifests: None, kubeconfig: None, api_server: None };
    Ok(serde_json::to_string_pretty(&findings(find, None, source))? + "\n")
}

fn findings(find: &FindArgs, cgroup: Option<&Path>, source: SourceArgs) -> Vec<Finding> {
    // Of several agents, that with the usual directories: what `run` would use.
    let bpffs = find.find().map_or_else(|_| agents::BPFFS.into(), |place| place.bpffs);
    let mut findings = kernel::check(&bpffs, cgroup);
    findings.extend(sysctls::check());
    findings.push(masquerade_ports::check());
    findings.push(ipsec::check());
    findings.extend(memory_limit::check(find));
    findings.push(api_server::check(source));
    findings.extend(kube_proxy::check());
    findings.extend(foreign_programs::check());
    findings.extend(forward::check());
    findings.extend(agent::check(find));
    findings
}

fn table(findings: &[Finding]) -> String {
    let mut table = output::table();
    for finding in findings {
        let tone = match finding.verdict {
            Verdict::Ok => Tone::Good,
            Verdict::Warn => Tone::Plain,
            Verdict::Fail => Tone::Bad,
        };
        let plain = |text: &str| output::cell(text, Tone::Plain);
        let verdict = output::cell(finding.verdict.name(), tone);
        table.add_row([verdict, plain(finding.name), plain(&finding.what)]);
        if !finding.remedy.is_empty() {
            table.add_row(["", "", &format!("-> {}", finding.remedy)]);
        }
    }
    output::text(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_and_its_remedy_another() {
        let long = "a sentence that goes on and on ".repeat(10).trim_end().to_owned();
        let text = table(&[Finding::ok("kernel", "6.1"), Finding::fail("api-server", &long, &long)]);
        let want = format!("ok    kernel      6.1\nfail  api-server  {long}\n                  -> {long}\n");
        assert_eq!(text, want);
    }
}
