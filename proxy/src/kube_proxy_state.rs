//! What kube-proxy leaves in the kernel. Beside ours it would translate a second time, or to backends long gone.
//!
//! nftables' own tables are found and removed over netlink. The chains of iptables mode go through the node's own
//! `iptables`, as two variants of it keep them in different places. Connections that were made through either go on:
//! the kernel tracks them by itself.

mod nftables;
mod xtables;

use std::{
    fs,
    io::{self, Write as _},
    process::{Command, Stdio},
};

use nftables::{Family, Table};
use nix::net::if_::if_nametoindex;

/// The table of kube-proxy's nftables mode.
const TABLE: &str = "kube-proxy";
/// Ours: it keeps the connections at work that kube-proxy's rules translated, and does nothing else.
const KEEPER: &str = "portreeve-handover";
/// The interface of its IPVS mode.
const IPVS_INTERFACE: &str = "kube-ipvs0";

/// Each speaks of one family and one of the two places where chains are kept.
const VARIANTS: &[&str] = &["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"];

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot ask the kernel for its nftables")]
    List(#[source] io::Error),
    #[error("cannot remove the tables {0}")]
    Delete(String, #[source] io::Error),
    #[error("{command} failed: {output}")]
    Command { command: String, output: String },
    #[error("cannot run {command}")]
    Start {
        command: String,
        #[source]
        source: io::Error,
    },
}

/// One thing that is there, in words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leftover {
    /// kube-proxy itself.
    Process(u32),
    Nftables {
        family: &'static str,
    },
    /// Chains of iptables mode in a place that one variant of the tool speaks for.
    Chains {
        variant: String,
        count: usize,
    },
    /// Chains of iptables mode that no tool on this node can remove.
    UnreachableChains {
        family: &'static str,
        count: usize,
    },
    Ipvs,
}

impl Leftover {
    pub fn what(&self) -> String {
        match self {
            Self::Process(id) => format!("kube-proxy runs as process {id}"),
            Self::Nftables { family } => format!("table {family} {TABLE} of nftables mode"),
            Self::Chains { variant, count } => format!("chains of iptables mode in {variant}: {count}"),
            Self::UnreachableChains { family, count } => {
                format!("chains of iptables mode in nftables' family {family}: {count}")
            }
            Self::Ipvs => format!("interface {IPVS_INTERFACE} of IPVS mode"),
        }
    }

    /// What somebody has to do by hand; nothing where `cleanup --kube-proxy` does it.
    pub fn by_hand(&self) -> Option<String> {
        match self {
            Self::Process(_) => {
                Some("kubectl --namespace kube-system delete daemonset kube-proxy".to_owned())
            }
            Self::UnreachableChains { family, .. } => {
                let tool = if *family == "ip6" { "ip6tables" } else { "iptables" };
                Some(format!("{tool}-save | grep -v KUBE- | {tool}-restore"))
            }
            Self::Ipvs => Some(format!("ipvsadm --clear; ip link delete {IPVS_INTERFACE}")),
            Self::Nftables { .. } | Self::Chains { .. } => None,
        }
    }
}

/// What was found, and what could not be looked at.
#[derive(Debug, Default)]
pub struct Survey {
    pub found: Vec<Leftover>,
    pub problems: Vec<StateError>,
}

pub fn survey() -> Survey {
    let mut survey = Survey::default();
    survey.found.extend(processes("kube-proxy").map(Leftover::Process));
    match tables() {
        Ok(tables) => survey
            .found
            .extend(tables.into_iter().map(|table| Leftover::Nftables { family: table.family.name() })),
        Err(error) => survey.problems.push(error),
    }
    survey.look_at_chains();
    if if_nametoindex(IPVS_INTERFACE).is_ok() {
        survey.found.push(Leftover::Ipvs);
    }
    survey
}

impl Survey {
    fn look_at_chains(&mut self) {
        let mut has_tool = false;
        for variant in VARIANTS {
            match run(&format!("{variant}-save"), None) {
                Ok(dump) => {
                    has_tool = true;
                    let count = xtables::count(&dump);
                    let variant = (*variant).to_owned();
                    self.found.extend((count > 0).then_some(Leftover::Chains { variant, count }));
                }
                // Not installed.
                Err(StateError::Start { .. }) => {}
                Err(error) => self.problems.push(error),
            }
        }
        if !has_tool {
            self.look_at_chains_of_nftables();
        }
    }

    /// Without the tool, chains can be seen where its newer variant keeps them.
    fn look_at_chains_of_nftables(&mut self) {
        // That nftables cannot be asked was said for its tables.
        let chains = nftables::chains().unwrap_or_default();
        for family in [Family::IPV4, Family::IPV6] {
            let of = chains.iter().filter(|chain| chain.table.family == family);
            let count = of.filter(|chain| xtables::is_kube_proxys(&chain.name)).count();
            let found = Leftover::UnreachableChains { family: family.name(), count };
            self.found.extend((count > 0).then_some(found));
        }
    }
}

/// Removes what can be removed; what was, in words, and what could not be.
pub fn remove() -> (Vec<String>, Vec<StateError>) {
    let (mut removed, mut problems) = (Vec::new(), Vec::new());
    match remove_tables() {
        Ok(tables) => removed.extend(tables),
        Err(error) => problems.push(error),
    }
    for variant in VARIANTS {
        match remove_chains(variant) {
            Ok(0) | Err(StateError::Start { .. }) => {}
            Ok(count) => removed.push(format!("chains of iptables mode in {variant}: {count}")),
            Err(error) => problems.push(error),
        }
    }
    (removed, problems)
}

fn tables() -> Result<Vec<Table>, StateError> {
    tables_named(TABLE)
}

fn tables_named(name: &str) -> Result<Vec<Table>, StateError> {
    let mut tables = nftables::tables().map_err(StateError::List)?;
    tables.retain(|table| table.name == name && [Family::IPV4, Family::IPV6].contains(&table.family));
    Ok(tables)
}

/// Ends the connections that kube-proxy's rules translated, where nothing else on the node keeps them; how many tables
/// went.
pub fn end_handover() -> Result<usize, StateError> {
    let tables = tables_named(KEEPER)?;
    nftables::delete(&tables).map_err(|source| StateError::Delete(KEEPER.to_owned(), source))?;
    Ok(tables.len())
}

fn remove_tables() -> Result<Vec<String>, StateError> {
    let tables = tables()?;
    let named: Vec<String> =
        tables.iter().map(|table| format!("table {} {}", table.family.name(), table.name)).collect();
    nftables::replace(&tables, KEEPER).map_err(|source| StateError::Delete(named.join(", "), source))?;
    Ok(named)
}

fn remove_chains(variant: &str) -> Result<usize, StateError> {
    let dump = run(&format!("{variant}-save"), None)?;
    let Some(script) = xtables::removal(&dump) else { return Ok(0) };
    run(&format!("{variant}-restore"), Some(&script))?;
    Ok(xtables::count(&dump))
}

/// What the program prints; `input` is what it reads. A restore leaves alone what it is not told about.
fn run(program: &str, input: Option<&str>) -> Result<String, StateError> {
    let start_error = |source| StateError::Start { command: program.to_owned(), source };
    let mut command = Command::new(program);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if input.is_some() {
        command.args(["--noflush", "--wait"]);
    }
    let mut child = command.spawn().map_err(start_error)?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        stdin.write_all(input.as_bytes()).map_err(start_error)?;
    }
    let output = child.wait_with_output().map_err(start_error)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(StateError::Command { command: program.to_owned(), output })
}

/// Processes of that name which can be seen from here.
fn processes(name: &str) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(move |id| {
        fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|comm| comm.trim_end() == name)
    })
}
