//! `dns check`: line by line, what the server does with a Corefile. Needs no privileges.

use std::{collections::BTreeMap, env, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use dns::{
    corefile::{
        Source,
        kube_dns::{STUB_DOMAINS, UPSTREAM_NAMESERVERS, from_config_map},
    },
    plugins::check::{CheckedLine, Verdict, check},
    text_file,
};
use serde::{Deserialize, Serialize};

use crate::{
    cli::output::{self, Format, OutputArgs},
    yaml::split,
};

#[derive(Debug, clap::Args)]
#[group(id = "input", required = true, multiple = false, args = ["corefile", "from_configmap"])]
pub struct Args {
    /// CoreDNS's configuration file, or the directory to which the ConfigMap of CoreDNS or of kube-dns is mounted
    #[arg(value_name = "COREFILE")]
    corefile: Option<PathBuf>,
    /// The YAML of a ConfigMap with the key `Corefile`, as `kubectl get configmap coredns -o yaml` prints it, or of
    /// kube-dns's with `stubDomains` and `upstreamNameservers`
    #[arg(long, value_name = "FILE")]
    from_configmap: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// A line as JSON.
#[derive(Serialize)]
struct Line<'a> {
    file: &'a str,
    line: Option<usize>,
    text: &'a str,
    verdict: &'static str,
    reason: &'a str,
}

pub fn run(Args { corefile, from_configmap, output: OutputArgs { output } }: Args) -> Result<()> {
    let environment = |name: &str| env::var(name).ok();
    let lines = match (corefile, from_configmap) {
        (Some(path), _) => check(Source::file(&path), &environment),
        (None, Some(path)) => {
            let text = text_file::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let corefile = corefile_of(&text).with_context(|| format!("{}", path.display()))?;
            // The keys of a ConfigMap are files of one directory.
            let name = PathBuf::from(format!("{}#Corefile", path.display()));
            check(Source::text(&name, &corefile), &environment)
        }
        (None, None) => bail!("name a Corefile, or a ConfigMap with --from-configmap"),
    };
    match output {
        Format::Json => output::print_json(&lines.iter().map(Line::from).collect::<Vec<_>>())?,
        Format::Table => output::print(&table(&lines))?,
    }
    match lines.iter().filter(|line| line.verdict == Verdict::Refused).count() {
        0 => Ok(()),
        1 => bail!("one line of the Corefile is refused, see above"),
        many => bail!("{many} lines of the Corefile are refused, see above"),
    }
}

impl<'a> From<&'a CheckedLine> for Line<'a> {
    fn from(checked: &'a CheckedLine) -> Self {
        let CheckedLine { file, line, text, verdict, reason } = checked;
        Self { file, line: *line, text, verdict: verdict.name(), reason }
    }
}

/// One table for each file, with its name above it.
fn table(lines: &[CheckedLine]) -> String {
    let mut text = String::new();
    for of_file in lines.chunk_by(|one, next| one.file == next.file) {
        let mut table = output::table();
        for CheckedLine { line, text, verdict, reason, .. } in of_file {
            let number = line.map(|line| line.to_string()).unwrap_or_default();
            table.add_row([&number, verdict.name(), text]);
            if !reason.is_empty() {
                table.add_row(["", "", &format!("-> {reason}")]);
            }
        }
        let name = of_file.first().map_or("", |line| &line.file);
        text += &format!("{name}:\n{}", output::text(table));
    }
    text
}

#[derive(Deserialize)]
struct ConfigMap {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

/// The Corefile in the first ConfigMap that has one, or that of kube-dns's ConfigMap.
fn corefile_of(text: &str) -> Result<String> {
    for document in split(text) {
        // Other objects may stand in the file.
        let Ok(ConfigMap { kind, mut data }) = serde_saphyr::from_str(document.text) else { continue };
        if kind != "ConfigMap" {
            continue;
        }
        if let Some(corefile) = data.remove("Corefile") {
            return Ok(corefile);
        }
        let (stub_domains, upstreams) = (data.remove(STUB_DOMAINS), data.remove(UPSTREAM_NAMESERVERS));
        if stub_domains.is_some() || upstreams.is_some() {
            return Ok(from_config_map(stub_domains.as_deref(), upstreams.as_deref())?);
        }
    }
    bail!("there is no ConfigMap with the key `Corefile`")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: coredns\ndata:\n  Corefile: |\n    . {\n        any\n    }\n";

    #[test]
    fn the_corefile_of_a_config_map_is_found() {
        let want = ". {\n    any\n}\n";
        let service = "apiVersion: v1\nkind: Service\nspec: [1]\n---\n";
        for text in [MAP.to_owned(), format!("{service}{MAP}")] {
            assert_eq!(corefile_of(&text).unwrap(), want, "{text}");
        }
        for (text, want) in [
            ("", "no ConfigMap"),
            ("kind: Service\ndata:\n  Corefile: x\n", "no ConfigMap"),
            ("kind: ConfigMap\ndata:\n  other: x\n", "no ConfigMap"),
            ("kind: ConfigMap\ndata:\n  stubDomains: '{'\n", "stubDomains, line 1: no valid JSON"),
        ] {
            let error = corefile_of(text).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
        let kube_dns = "kind: ConfigMap\ndata:\n  stubDomains: '{\"acme.local\": [\"1.2.3.4\"]}'\n";
        assert!(corefile_of(kube_dns).unwrap().contains("acme.local:53 {\n"));
    }
}
