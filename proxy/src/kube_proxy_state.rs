//! kube-proxy's leftovers in the kernel. Beside this data plane they would translate a second time, or to removed
//! backends.
//!
//! nftables tables are listed and deleted over netlink. Chains of iptables mode are removed with the node's own `iptables`
//! tools, because the nft and the legacy variant store them in different places. Established connections continue: their
//! translation is in nf_conntrack.

mod nftables;
mod xtables;

use std::{
    fs,
    io::{self, Write as _},
    process::{Command, Stdio},
};

pub use nftables::{Chain, dropping_forward_chains};
use nftables::{Family, Table};
use nix::net::if_::if_nametoindex;

/// The table of kube-proxy's nftables mode.
const TABLE: &str = "kube-proxy";
/// Our own table, without effect on packets. It keeps NAT and connection tracking active for the connections that
/// kube-proxy's rules translated.
const HANDOVER_TABLE: &str = "portreeve-handover";
/// The dummy interface of kube-proxy's IPVS mode.
const IPVS_INTERFACE: &str = "kube-ipvs0";

/// The iptables tools, one for each family and variant.
const VARIANTS: &[&str] = &["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"];

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot list nftables")]
    List(#[source] io::Error),
    #[error("cannot delete the tables {0}")]
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

/// One leftover of kube-proxy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leftover {
    /// kube-proxy itself.
    Process(u32),
    Nftables {
        family: &'static str,
    },
    /// Chains of iptables mode that one of the iptables tools lists.
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
    pub fn description(&self) -> String {
        match self {
            Self::Process(id) => format!("kube-proxy runs as process {id}"),
            Self::Nftables { family } => format!("table {family} {TABLE} of nftables mode"),
            Self::Chains { variant, count } => format!("chains of iptables mode in {variant}: {count}"),
            Self::UnreachableChains { family, count } => {
                format!("chains of iptables mode in nftables family {family}: {count}")
            }
            Self::Ipvs => format!("interface {IPVS_INTERFACE} of IPVS mode"),
        }
    }

    /// The command for manual removal, or `None` if `cleanup --kube-proxy` removes it.
    pub fn manual_command(&self) -> Option<String> {
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

/// The leftovers found, and the errors of the search.
#[derive(Debug, Default)]
pub struct Survey {
    pub found: Vec<Leftover>,
    pub errors: Vec<StateError>,
}

pub fn survey() -> Survey {
    let mut survey = Survey::default();
    survey.found.extend(processes("kube-proxy").map(Leftover::Process));
    match tables() {
        Ok(tables) => survey
            .found
            .extend(tables.into_iter().map(|table| Leftover::Nftables { family: table.family.name() })),
        Err(error) => survey.errors.push(error),
    }
    survey.find_chains();
    if if_nametoindex(IPVS_INTERFACE).is_ok() {
        survey.found.push(Leftover::Ipvs);
    }
    survey
}

impl Survey {
    fn find_chains(&mut self) {
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
                Err(error) => self.errors.push(error),
            }
        }
        if !has_tool {
            self.find_chains_in_nftables();
        }
    }

    /// Finds the chains of the nft variant over netlink, if no iptables tool is installed.
    fn find_chains_in_nftables(&mut self) {
        // `survey` already reported the error, for the tables.
        let chains = nftables::chains().unwrap_or_default();
        for family in [Family::IPV4, Family::IPV6] {
            let of = chains.iter().filter(|chain| chain.table.family == family);
            let count = of.filter(|chain| xtables::is_of_kube_proxy(&chain.name)).count();
            let found = Leftover::UnreachableChains { family: family.name(), count };
            self.found.extend((count > 0).then_some(found));
        }
    }
}

/// Removes the leftovers. Returns descriptions of the removed ones, and the errors.
pub fn remove() -> (Vec<String>, Vec<StateError>) {
    let (mut removed, mut errors) = (Vec::new(), Vec::new());
    match remove_tables() {
        Ok(tables) => removed.extend(tables),
        Err(error) => errors.push(error),
    }
    for variant in VARIANTS {
        match remove_chains(variant) {
            Ok(0) | Err(StateError::Start { .. }) => {}
            Ok(count) => removed.push(format!("chains of iptables mode in {variant}: {count}")),
            Err(error) => errors.push(error),
        }
    }
    (removed, errors)
}

fn tables() -> Result<Vec<Table>, StateError> {
    tables_named(TABLE)
}

fn tables_named(name: &str) -> Result<Vec<Table>, StateError> {
    let mut tables = nftables::tables().map_err(StateError::List)?;
    tables.retain(|table| table.name == name && [Family::IPV4, Family::IPV6].contains(&table.family));
    Ok(tables)
}

/// Deletes the handover tables and returns their number. Connections that kube-proxy's rules translated break, unless
/// other rules on the node keep NAT active.
pub fn end_handover() -> Result<usize, StateError> {
    let tables = tables_named(HANDOVER_TABLE)?;
    nftables::delete(&tables).map_err(|source| StateError::Delete(HANDOVER_TABLE.to_owned(), source))?;
    Ok(tables.len())
}

fn remove_tables() -> Result<Vec<String>, StateError> {
    let tables = tables()?;
    let named: Vec<String> =
        tables.iter().map(|table| format!("table {} {}", table.family.name(), table.name)).collect();
    nftables::replace(&tables, HANDOVER_TABLE)
        .map_err(|source| StateError::Delete(named.join(", "), source))?;
    Ok(named)
}

fn remove_chains(variant: &str) -> Result<usize, StateError> {
    let dump = run(&format!("{variant}-save"), None)?;
    let Some(script) = xtables::removal(&dump) else { return Ok(0) };
    run(&format!("{variant}-restore"), Some(&script))?;
    Ok(xtables::count(&dump))
}

/// Runs a tool with `input` on stdin and returns its stdout. With input, it is a restore: `--noflush` keeps other rules.
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

/// The ids of visible processes of that name.
fn processes(name: &str) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(move |id| {
        fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|comm| comm.trim_end() == name)
    })
}
