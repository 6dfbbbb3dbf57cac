//! The part of a report that any process on the node can read: the kernel, its settings, the network, the programs.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufReader, Read},
    path::Path,
};

use anyhow::{Context as _, Result};
use flate2::read::GzDecoder;
use serde::Serialize;

use super::{anonymize::Form, collection::Collection};
use crate::{
    cli::{agents::Place, control},
    datapath::{self, NetworkListing, ProgramListing},
    observe::{control::ControlRequest, status::Status},
};

/// Options of the kernel's configuration that decide what the agent can do.
const OPTIONS: [&str; 24] = [
    "CONFIG_BPF",
    "CONFIG_BPF_SYSCALL",
    "CONFIG_BPF_JIT",
    "CONFIG_BPF_JIT_ALWAYS_ON",
    "CONFIG_BPF_JIT_DEFAULT_ON",
    "CONFIG_BPF_UNPRIV_DEFAULT_OFF",
    "CONFIG_BPF_STREAM_PARSER",
    "CONFIG_CGROUPS",
    "CONFIG_CGROUP_BPF",
    "CONFIG_SOCK_CGROUP_DATA",
    "CONFIG_DEBUG_INFO_BTF",
    "CONFIG_HZ",
    "CONFIG_INET_DIAG",
    "CONFIG_IPV6",
    "CONFIG_NET_CLS_ACT",
    "CONFIG_NET_CLS_BPF",
    "CONFIG_NET_SCH_INGRESS",
    "CONFIG_NET_XGRESS",
    "CONFIG_NETFILTER",
    "CONFIG_NF_CONNTRACK",
    "CONFIG_NF_TABLES",
    "CONFIG_PREEMPT_RT",
    "CONFIG_XDP_SOCKETS",
    "CONFIG_XFRM",
];
/// Limit of the kernel's configuration, in octets.
const MAX_CONFIG: u64 = 4 << 20;

/// Sysctls of the network and of BPF, below /proc/sys.
const SYSCTLS: [&str; 24] = [
    "kernel/unprivileged_bpf_disabled",
    "net/core/bpf_jit_enable",
    "net/core/bpf_jit_harden",
    "net/core/bpf_jit_limit",
    "net/core/netdev_max_backlog",
    "net/core/rmem_max",
    "net/core/somaxconn",
    "net/ipv4/conf/all/forwarding",
    "net/ipv4/fib_multipath_hash_policy",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_local_reserved_ports",
    "net/ipv4/ip_nonlocal_bind",
    "net/ipv4/ip_unprivileged_port_start",
    "net/ipv4/neigh/default/gc_thresh3",
    "net/ipv4/tcp_migrate_req",
    "net/ipv4/tcp_mtu_probing",
    "net/ipv4/tcp_timestamps",
    "net/ipv4/tcp_tw_reuse",
    "net/ipv6/bindv6only",
    "net/ipv6/conf/all/disable_ipv6",
    "net/ipv6/conf/all/forwarding",
    "net/netfilter/nf_conntrack_count",
    "net/netfilter/nf_conntrack_max",
];
/// Those of each device, below /proc/sys/net/ipv4/conf.
const OF_DEVICES: [&str; 5] = ["accept_local", "forwarding", "route_localnet", "rp_filter", "src_valid_mark"];
const MAX_DEVICES: usize = 1_000;
/// Limit of the names of one directory of pins. Each device has several.
const MAX_PINS: usize = 10_000;

/// The facts of the kernel.
#[derive(Debug, Serialize)]
struct Kernel {
    release: String,
    version: String,
    architecture: &'static str,
    cpus: usize,
    memory: String,
    has_btf: bool,
    /// The mounts of cgroups and bpffs.
    mounts: Vec<String>,
    config_file: Option<String>,
    config: BTreeMap<String, String>,
}

pub fn host_name() -> String {
    line("/proc/sys/kernel/hostname").to_lowercase()
}

pub fn collect(place: &Place, collection: &mut Collection) {
    collection.add("kernel.json", Form::Json, serde_json::to_string_pretty(&kernel()).map_err(Into::into));
    collection.add("sysctls.txt", Form::Text, Ok(sysctls(Path::new("/proc/sys"))));
    let listing = network();
    let xdp = match listing {
        Ok(NetworkListing { links, addresses, routes, rules, xdp }) => {
            collection.add("links.txt", Form::Text, Ok(links));
            collection.add("addresses.txt", Form::Text, Ok(addresses));
            collection.add("routes.txt", Form::Text, Ok(routes));
            collection.add("rules.txt", Form::Text, Ok(rules));
            xdp
        }
        Err(error) => {
            collection
                .lack("links.txt, addresses.txt, routes.txt, rules.txt", crate::error::chain(error.as_ref()));
            BTreeMap::new()
        }
    };
    collection.add("programs.json", Form::Json, programs(place, &xdp));
    collection.add("pins.txt", Form::Text, pins(&place.bpffs));
}

/// The names of pinned maps and links, which are below the directory and one level deeper.
fn pins(directory: &Path) -> Result<String> {
    let names = |directory: &Path| -> Result<Vec<String>> {
        let entries =
            fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<_> = names.take(MAX_PINS).collect();
        names.sort_unstable();
        Ok(names)
    };
    let mut text = String::new();
    for name in names(directory)? {
        let below = names(&directory.join(&name)).unwrap_or_default();
        text += &format!("{name}\n");
        below.iter().for_each(|below| text += &format!("{name}/{below}\n"));
    }
    Ok(text)
}

fn kernel() -> Kernel {
    let release = line("/proc/sys/kernel/osrelease");
    let files = ["/proc/config.gz".to_owned(), format!("/boot/config-{release}")];
    let read = files.into_iter().find_map(|path| Some((config(&path)?, path)));
    let (config, config_file) = read.map_or_else(Default::default, |(config, path)| (config, Some(path)));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let is_of_bpf = |line: &&str| [" cgroup", " bpf "].iter().any(|kind| line.contains(kind));
    Kernel {
        version: line("/proc/sys/kernel/version"),
        release,
        architecture: std::env::consts::ARCH,
        cpus: std::thread::available_parallelism().map_or(0, usize::from),
        memory: fs::read_to_string("/proc/meminfo")
            .unwrap_or_default()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned(),
        has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        mounts: mounts.lines().filter(is_of_bpf).take(MAX_DEVICES).map(str::to_owned).collect(),
        config_file,
        config,
    }
}

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The options of a kernel's configuration that are set.
fn config(path: &str) -> Option<BTreeMap<String, String>> {
    let file = BufReader::new(File::open(path).ok()?);
    let mut text = String::new();
    let plain: Box<dyn Read> =
        if path.ends_with(".gz") { Box::new(GzDecoder::new(file)) } else { Box::new(file) };
    plain.take(MAX_CONFIG).read_to_string(&mut text).ok()?;
    let options = text.lines().filter_map(|line| line.split_once('='));
    let told = options.filter(|(option, _)| OPTIONS.contains(option));
    Some(told.map(|(option, value)| (option.to_owned(), value.to_owned())).collect())
}

fn sysctls(root: &Path) -> String {
    let mut text = String::new();
    let mut add = |name: &str| {
        if let Ok(value) = fs::read_to_string(root.join(name)) {
            text += &format!("{} = {}\n", name.replace('/', "."), value.trim().replace(['\t', '\n'], " "));
        }
    };
    SYSCTLS.iter().for_each(|name| add(name));
    let devices = fs::read_dir(root.join("net/ipv4/conf")).into_iter().flatten();
    let devices = devices.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut devices: Vec<_> = devices.take(MAX_DEVICES).collect();
    devices.sort_unstable();
    for device in &devices {
        OF_DEVICES.iter().for_each(|name| add(&format!("net/ipv4/conf/{device}/{name}")));
    }
    text
}

fn network() -> Result<NetworkListing> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(NetworkListing::read()).context("cannot read the network of this node")
}

fn programs(place: &Place, xdp: &BTreeMap<String, Vec<u32>>) -> Result<String> {
    datapath::require_capabilities()?;
    let status = control::request::<Status>(&place.socket, ControlRequest::Status).ok().flatten();
    let cgroup = status.and_then(|status| status.cgroup).or_else(|| datapath::cgroup_root().ok());
    Ok(serde_json::to_string_pretty(&ProgramListing::read(cgroup.as_deref(), xdp))? + "\n")
}
