//! `run`: the agent.

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use proxy_ebpf::abi::ABI_VERSION;

use super::{
    device_args::DeviceArgs,
    dns_args::{Answering, DnsArgs},
    kube_proxy_args::KubeProxyArgs,
    name_server_args::NameServerArgs,
    policy_args::PolicyArgs,
    source_args::SourceArgs,
    told::{Told, told},
};
use crate::{
    config::{Config, DnsConfig, Pages, SocketLb},
    host,
    kube_proxy_config::{ConfigFile, KubeProxyConfiguration, default_file},
    memory,
    model::policy::Policy,
    run,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// The cgroup v2 directory whose sockets are translated [default: the cgroup2 mount]
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
    #[command(flatten)]
    pins: PinArgs,
    #[command(flatten)]
    run_dir: RunDirArgs,
    /// Whose connections are translated when they are made
    #[arg(long, value_enum, default_value = "all", value_name = "WHO")]
    socket_lb: SocketLb,
    #[command(flatten)]
    devices: DeviceArgs,
    /// Answer the names of the cluster [default: when another flag says how]
    #[arg(long, overrides_with = "no_dns")]
    dns: bool,
    /// Do not answer names
    #[arg(long, overrides_with = "dns")]
    no_dns: bool,
    #[command(flatten)]
    names: DnsArgs,
    #[command(flatten)]
    name_server: NameServerArgs,
    /// Start beside a running agent: prepare, report ready, and continue where it ends
    #[arg(long)]
    takeover: bool,
    /// Pin the maps under another ABI version, to try an upgrade
    #[arg(long, hide = true, default_value_t = ABI_VERSION)]
    abi_version: u32,
    #[command(flatten)]
    pub policy: PolicyArgs,
    #[command(flatten)]
    kube_proxy: KubeProxyArgs,
}

/// Where the data plane is kept.
#[derive(Debug, clap::Args)]
pub struct PinArgs {
    /// Where maps and links are pinned, on a bpffs; they outlive the agent
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/portreeve")]
    pub bpffs: PathBuf,
}

/// Where the agent and who asks it meet.
#[derive(Debug, clap::Args)]
pub struct RunDirArgs {
    /// Where the agent's socket lies, at which `status` and `get dns` ask
    #[arg(long, value_name = "DIR", default_value = "/run/portreeve")]
    pub run_dir: PathBuf,
}

pub fn run(args: Args, file: Option<ConfigFile>) -> Result<()> {
    if let Some(path) = &args.kube_proxy.write_config_to {
        return fs::write(path, default_file()?).with_context(|| format!("cannot write {}", path.display()));
    }
    let Args {
        source,
        cgroup,
        pins,
        run_dir,
        socket_lb,
        devices,
        dns,
        no_dns,
        names,
        name_server,
        takeover,
        abi_version,
        policy: policy_args,
        kube_proxy,
    } = args;
    let Told { settings, config: configz, host, file } = told(&kube_proxy, &policy_args, file)?;
    let answers_names = dns || (names.are_given() || name_server.are_given()) && !no_dns;
    if kube_proxy.init_only {
        let is_set = host::apply(&host) & (!answers_names || host::hand_over_connections());
        ensure!(is_set, "not everything could be set, see above");
        return Ok(());
    }
    memory::limit_allocator(!answers_names);
    let policy = policy_args.policy(file.is_some().then_some(&settings))?;
    let dns = answers_names.then(|| names.config(Answering::InTheAgent)).transpose()?;
    let listens = dns.as_ref().map(DnsConfig::addresses).transpose()?;
    let name_server = listens.map(|listens| name_server.name_server(Some(listens)));
    // A feature gate, which is a flag of this verb alone.
    let policy = Policy { external_ips: settings.external_ips, name_server, ..policy };
    let config = Config {
        objects: source.objects(settings.kubeconfig.clone()),
        cgroup,
        bpffs: pins.bpffs,
        socket_lb,
        devices: devices.config(),
        takeover,
        abi_version,
        policy,
        dns,
        host,
        config_file: file,
        serving: settings.serving,
        pages: pages(&configz),
        run_dir: run_dir.run_dir,
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run::run(config))
}

/// As upstream: the configuration below the name of its group.
fn pages(config: &KubeProxyConfiguration) -> Pages {
    let configz = serde_json::json!({ "kubeproxy.config.k8s.io": config }).to_string();
    Pages { configz, arguments: env::args().skip(1).collect() }
}
