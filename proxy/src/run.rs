//! The agent's wiring. Each part has a file below `run/`.
//!
//! source → agent (index → reconciler → maps), and the attachment that keeps the programs at their hooks.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use proxy_ebpf::abi::{self, ConfigFlags};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use crate::{
    config::{
        Config, ConntrackConfig, ConntrackTimeouts, DeviceConfig, DeviceSelection, DnsConfig, Forwarding,
        HostConfig, Objects, PassiveHealth, SocketLb, TableSizes,
    },
    datapath::{
        self, Busy, EventSource, FlowSelection, Heartbeats, OutgrownFlows, PinError, Pins, Programs,
        SuccessorHeartbeat,
    },
    error::chain,
    host,
    k8s::{
        events::{self, Report},
        reader::Reader,
    },
    memory,
    model::policy::{DetectLocal, Policy},
    observe::{
        agent_state::AgentState,
        serve::Serve,
        status::{Phase, Status, socket_path},
        telemetry::Telemetry,
    },
};

mod agent;
mod attachment;
mod config_file;
mod devices;
mod kube_proxy_leftovers;
mod local_networks;
mod name_server;
mod pod_cidrs;
mod ready;
mod retries;
mod source;
mod stale_connections;
mod stop;
mod xdp;

use agent::Agent;
use attachment::Attachment;
use devices::Devices;
use local_networks::LocalNetworks;
use name_server::NameServer;
pub use name_server::run as name_server;
use ready::notify_ready;
use source::Source;
use stale_connections::StaleConnections;
use stop::Stop;

/// Runs until SIGTERM or SIGINT, and leaves the data plane in place.
pub async fn run(config: Config) -> Result<()> {
    let Config {
        objects,
        cgroup,
        bpffs,
        socket_lb,
        reset_stale_connections,
        passive_health,
        devices,
        takeover,
        abi_version,
        policy,
        dns,
        host,
        shares,
        sizes,
        config_file,
        serving,
        pages,
        run_dir,
    } = config;
    let state = Arc::new(AgentState::new(serving.health_timeout, Status::new(&policy.node_name))?);
    let reports = follow_reports(&objects, &policy.node_name, &state);
    let telemetry = Telemetry::new(Arc::clone(&state), reports.clone());
    let serve = Serve {
        reports: reports.clone(),
        config: serving,
        pages,
        bpffs: bpffs.clone(),
        status_socket: socket_path(&run_dir, &bpffs),
        state: Arc::clone(&state),
        health_ports: telemetry.health_ports(),
    };
    state.add_impossible(prepare_node(&host, dns.is_some()));
    datapath::require_capabilities()?;
    let cgroup = find_cgroup(cgroup)?;
    info!(node = policy.node_name, bpffs = %bpffs.display(), cgroup = %cgroup.display(), "starting");
    state.set_setup(&cgroup, socket_lb.name(), devices.has_packet_plane());
    let program_config = program_config(&policy, socket_lb, passive_health, &devices, host.conntrack)?;
    let mut stop = Stop::new(config_file, serve.start()?)?;
    let mut source = Source::new(objects, reader(&policy, dns.as_ref()), state.source.clone()).await?;
    let local = LocalNetworks::watch().await?;
    let (addresses, network, links) = (local.addresses.clone(), local.network.clone(), local.network.clone());

    let waiting = (takeover && dns.is_some()).then(|| SuccessorHeartbeat::start(&bpffs));
    let pins = tokio::select! {
        pins = acquire(bpffs, abi_version, takeover, &state) => pins?,
        () = stop.requested() => return stop.result(),
    };
    state.enter(Phase::Starting);
    let mut programs = load_programs(&pins, program_config, &sizes, &state)?;
    datapath::start_sweeper(&mut programs)?;
    datapath::forward_logs(&mut programs);
    provide_events(&mut programs, &pins, &state);
    memory::release_startup_pages(datapath::object());
    let name_server =
        dns.map(|dns| start_name_server(dns, &policy, local, &pins, &state, takeover)).transpose()?;
    let mut devices = Devices::new(network, devices, policy.clone(), &pins, Arc::clone(&state))?;
    let mut agent = Agent::adopt(&pins, policy, addresses, name_server, telemetry, shares)?;
    tokio::select! {
        started = agent.initial_sync(&mut source) => started?,
        () = stop.requested() => return stop.result(),
    }
    agent.start_dns(&pins.maps())?;
    // The earlier agent has answered DNS queries until now.
    drop(waiting);
    attach_programs(&mut programs, &pins, &cgroup, &mut devices)?;
    report_uncounted(&programs, &state);
    info!(frontends = agent.frontends(), "ready");
    state.enter(Phase::Serving);
    memory::release_startup_pages(datapath::object());
    // Without an API server there is no receiver.
    let _ = reports.send(Report::starting());
    kube_proxy_leftovers::watch();
    notify_ready();
    let stale = StaleConnections::new(&mut programs, reset_stale_connections, links);
    let attachment = Attachment::new(programs, cgroup, pins, devices);
    let outcome = agent.run(&mut source, &mut stop, attachment, stale).await;
    info!(repairs = agent.repairs(), "stopping; the data plane stays in place");
    agent.shut_down().await;
    outcome.and(stop.result())
}

/// Applies the settings of the node. Returns those that it does not permit.
fn prepare_node(host: &HostConfig, serves_dns: bool) -> Vec<String> {
    let mut impossible = host::apply(host);
    if serves_dns {
        impossible.extend(host::hand_over_connections());
    }
    impossible
}

/// Loads the programs. The status tells if there is no memory for tables of the wanted sizes.
fn load_programs(
    pins: &Pins,
    config: abi::Config,
    sizes: &TableSizes,
    state: &AgentState,
) -> Result<Programs> {
    let (programs, not_grown) = datapath::load_with_sizes(pins, config, sizes)?;
    if let Some(error) = &not_grown {
        warn!(error = %chain(error), "the tables keep their sizes");
        state.add_impossible([format!("the tables keep their sizes: {}", chain(error))]);
    }
    Ok(programs)
}

/// Attaches the programs to all hooks, and forgets maps that no program uses any more.
fn attach_programs(programs: &mut Programs, pins: &Pins, cgroup: &Path, devices: &mut Devices) -> Result<()> {
    datapath::attach(programs, cgroup, pins)?;
    // Counters are not worth the agent.
    if let Err(error) = datapath::take_over_connections(pins) {
        warn!(error = %chain(&error), "the connections that earlier programs counted are lost");
    }
    match OutgrownFlows::open(pins)? {
        Some(outgrown) => take_over_flows(outgrown, programs, pins, devices)?,
        None => drop(devices.keep(programs)),
    }
    if let Err(error) = pins.drop_other_versions() {
        warn!(error = %chain(&error), "maps of another version kept");
    }
    Ok(())
}

/// The agent is worth more than its events.
fn provide_events(programs: &mut Programs, pins: &Pins, state: &AgentState) {
    match EventSource::take(programs, pins) {
        Ok(source) => state.events.provide(source),
        Err(error) => warn!(error = %chain(&error), "there are no events"),
    }
}

/// The status tells if connections of sockets are not counted.
fn report_uncounted(programs: &Programs, state: &AgentState) {
    if let Some(reason) = programs.uncounted() {
        warn!(reason, "connections of sockets are not counted");
        state.add_impossible([format!("connections of sockets are not counted: {reason}")]);
    }
}

/// Attaches the programs where those of an earlier agent use other flow tables. Both are at each hook until the flows are copied, so
/// that at any time each packet meets the programs that know its flow.
fn take_over_flows(
    mut outgrown: OutgrownFlows,
    programs: &mut Programs,
    pins: &Pins,
    devices: &mut Devices,
) -> Result<()> {
    programs.set_standby(true)?;
    devices.add(programs);
    keep_flows(&mut outgrown, FlowSelection::OfDatagrams, programs)?;
    outgrown.disown_closed()?;
    programs.set_standby(false)?;
    // From now on no flow is created in the earlier tables.
    datapath::grace_period().context("cannot wait for a grace period")?;
    keep_flows(&mut outgrown, FlowSelection::all(datapath::now()), programs)?;
    devices.keep(programs);
    // Once more, for what the earlier programs noted until their flows were found.
    keep_flows(&mut outgrown, FlowSelection::all(datapath::now()), programs)?;
    Ok(outgrown.forget(pins)?)
}

/// Copies the flows of tables that larger ones replace, or those of another layout, and lets the programs find them.
fn keep_flows(outgrown: &mut OutgrownFlows, which: FlowSelection, programs: &mut Programs) -> Result<()> {
    let copied = outgrown.copy(which)?;
    info!(flows = copied.alive, lost = copied.lost, "copied flows to other tables");
    // Without it these flows end, and new ones are tracked all the same.
    if let Err(error) = datapath::adopt_flows(programs, outgrown.slots()) {
        warn!(error = %chain(&error), "flows of the earlier tables are not found");
    }
    Ok(())
}

/// A successor starts to answer later, when its data are as complete as those of the running agent.
fn start_name_server(
    mut config: DnsConfig,
    policy: &Policy,
    local: LocalNetworks,
    pins: &Pins,
    state: &AgentState,
    takeover: bool,
) -> Result<NameServer> {
    config.setup.faults = state.dns_faults.clone();
    let mut name_server = NameServer::of_agent(config, policy, local);
    let heartbeats = Heartbeats::open(&pins.maps())?;
    let beats = heartbeats.clone();
    state.watch_name_server(move || beats.serving_age());
    name_server.set_heartbeats(heartbeats);
    if !takeover {
        name_server.serve()?;
    }
    Ok(name_server)
}

/// Reads the objects and fields that this agent uses.
fn reader(policy: &Policy, dns: Option<&DnsConfig>) -> Reader {
    let dns = dns.map(|dns| dns.read_options_of(&policy.node_name));
    Reader { node_name: policy.node_name.clone(), dns }
}

/// Sends events to the API server that objects come from. With manifests there are no events.
fn follow_reports(objects: &Objects, node: &str, state: &AgentState) -> mpsc::UnboundedSender<Report> {
    let (sender, reports) = mpsc::unbounded_channel();
    if let Objects::ApiServer(access) = objects {
        let requests = state.source.requests.clone();
        tokio::spawn(events::send(access.clone(), node.to_owned(), requests, reports));
    }
    sender
}

/// Locks the pin directory, at once or when the agent that holds it ends.
async fn acquire(dir: PathBuf, version: u32, takeover: bool, state: &AgentState) -> Result<Pins> {
    match Pins::acquire(&dir, version, Busy::Fail) {
        Err(PinError::Held { holder, .. }) if takeover => {
            info!(holder, "ready to take over, waiting");
            state.enter(Phase::Waiting { holder });
            // A rollout ends the old agent only when the new one is ready.
            notify_ready();
            let (sender, pins) = oneshot::channel();
            // Not on the runtime, which would wait for it at its end, perhaps for ever.
            std::thread::spawn(move || sender.send(Pins::acquire(&dir, version, Busy::Wait)));
            Ok(pins.await.context("the thread that waits for the other agent has ended")??)
        }
        acquired => Ok(acquired?),
    }
}

fn find_cgroup(named: Option<PathBuf>) -> Result<PathBuf> {
    let cgroup = match named {
        Some(cgroup) => cgroup,
        None => datapath::cgroup_root()?,
    };
    datapath::require_cgroup(&cgroup)?;
    Ok(cgroup)
}

/// The load-time constants of the programs.
fn program_config(
    policy: &Policy,
    socket_lb: SocketLb,
    passive_health: PassiveHealth,
    devices: &DeviceConfig,
    conntrack: Option<ConntrackConfig>,
) -> Result<abi::Config> {
    let host_netns = datapath::netns_cookie().context("cannot read the network namespace of the node")?;
    let no_detector = |cidr: Option<_>| policy.detect_local == DetectLocal::ClusterCidr && cidr.is_none();
    let flags = ConfigFlags::default()
        .with(ConfigFlags::HOST_ONLY, socket_lb == SocketLb::HostOnly)
        .with(ConfigFlags::OWN_ADDRESSES_ONLY, socket_lb == SocketLb::Off)
        .with(ConfigFlags::PODS_ARE_EXTERNAL_V4, no_detector(policy.cluster_cidrs.v4))
        .with(ConfigFlags::PODS_ARE_EXTERNAL_V6, no_detector(policy.cluster_cidrs.v6))
        .with(ConfigFlags::PACKET_PLANE, devices.has_packet_plane())
        .with(ConfigFlags::EXTERNAL_DEVICES, devices.external != DeviceSelection::None)
        .with(ConfigFlags::BYPASS_STACK, devices.forwarding == Forwarding::Redirect)
        .with(ConfigFlags::PODS_BY_DEVICE, policy.detect_local.is_by_interface())
        .with(ConfigFlags::RECORDS_HEALTH, passive_health != PassiveHealth::Off)
        .with(ConfigFlags::ACTS_ON_HEALTH, passive_health == PassiveHealth::On);
    let (first_port, last_port) = host::masquerade_ports();
    let timeouts = timeouts(conntrack.unwrap_or_default().timeouts());
    Ok(abi::Config { host_netns, flags, timeouts, first_port, last_port, ..abi::Config::DEFAULT })
}

/// Converts timeouts into the programs' ticks.
fn timeouts(configured: ConntrackTimeouts) -> abi::Timeouts {
    let ConntrackTimeouts { tcp_established, tcp_close_wait, udp, udp_stream } = configured;
    let ticks = |time: Duration| abi::flow_state::ticks(u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
    abi::Timeouts {
        tcp_established: ticks(tcp_established),
        tcp_close_wait: ticks(tcp_close_wait),
        udp: ticks(udp),
        udp_stream: ticks(udp_stream),
        ..abi::Timeouts::DEFAULT
    }
}
