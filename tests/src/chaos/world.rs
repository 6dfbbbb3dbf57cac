//! The cluster of a run: its load, the steps, and what must hold after each of them.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use proxy_ebpf::abi::ABI_VERSION;
use tokio::time::sleep;

use super::{
    hostile,
    step::{CHANGING, Change, HOSTILE, NODES, SERVICES, SOUND, Step},
};
use crate::lab::{
    cluster::{Cluster, Placement},
    eventually::within,
    node::Node,
    objects::Condition,
    pod::{Dialling, Pod},
    service::Service,
    traffic::{Dial, How, Report},
};

const NODE_PORT: u16 = 30_080;
/// Open connections of each client that holds some.
const HELD: usize = 100;
/// Each client has two connections in this time, so that the processors are not busy with the load alone.
const PAUSE_US: u64 = 10_000;

/// The time in which a new pod's device gets its programs, with much to spare.
const START: Duration = Duration::from_secs(30);
/// The time after which a datagram counts as lost.
const UDP_TIMEOUT_MS: u64 = 1_000;

/// Continuous connections of one client.
struct Load {
    client: String,
    /// The Services that it dials.
    services: BTreeSet<usize>,
    dialling: Dialling,
}

pub struct World<'a> {
    cluster: &'a Cluster,
    services: Vec<Service<'a>>,
    /// By Service, the states of the endpoints that come and go.
    changing: [[Option<Condition>; CHANGING]; SERVICES],
    hostile: [bool; HOSTILE],
    loads: Vec<Load>,
    held: Vec<(Arc<Pod>, u64)>,
    /// Pods that came and went.
    visitors: usize,
}

/// The connections of a run.
#[derive(Debug, Default)]
pub struct Totals {
    pub connections: u64,
    /// Those that took more than a second.
    pub slow: u64,
    pub longest_us: u32,
}

fn backend(service: usize, index: usize) -> String {
    format!("s{service}-b{index}")
}

/// The name of a server is that of its Service's pod.
fn is_of(services: &BTreeSet<usize>, server: &str) -> bool {
    services.iter().any(|service| server.starts_with(&format!("s{service}-")))
}

impl<'a> World<'a> {
    /// Creates Services and pods, and starts the load.
    pub async fn create(cluster: &'a Cluster) -> Result<Self> {
        let mut services = Vec::new();
        for number in 0..SERVICES {
            let names: Vec<String> = (0..SOUND + CHANGING).map(|index| backend(number, index)).collect();
            let service =
                cluster.service(&format!("chaos-{number}")).tcp(80).node_port(NODE_PORT + number as u16);
            services.push(service.udp(53).backends(names.iter().map(String::as_str)).create().await?);
        }
        let mut world = Self {
            cluster,
            services,
            changing: [[Some(Condition::Ready); CHANGING]; SERVICES],
            hostile: [false; HOSTILE],
            loads: Vec::new(),
            held: Vec::new(),
            visitors: 0,
        };
        world.start_load().await?;
        Ok(world)
    }

    async fn start_load(&mut self) -> Result<()> {
        for node in 0..NODES {
            let tcp = [node % SERVICES, (node + 1) % SERVICES];
            self.dial(&format!("client-{node}"), Placement::Node(node), How::Tcp, &tcp).await?;
            self.dial(&format!("vm-{node}"), Placement::Sandbox(node), How::Tcp, &tcp).await?;
            self.dial(&format!("host-{node}"), Placement::Host(node), How::Tcp, &tcp).await?;
        }
        for (name, how) in
            [("udp", How::ConnectedUdp), ("udp-one", How::OneConnectedUdp), ("udp-open", How::UnconnectedUdp)]
        {
            self.dial(name, Placement::Node(0), how, &[0]).await?;
        }
        self.dial("vm-udp", Placement::Sandbox(1), How::ConnectedUdp, &[1]).await?;
        for (name, placement) in [("holder", Placement::Node(0)), ("vm-holder", Placement::Sandbox(1))] {
            let to = self.addresses(How::Tcp, &[0, 1]);
            self.hold(name, placement, to).await?;
        }
        let node = self.cluster.node(1);
        let to: Vec<_> = (0..2)
            .flat_map(|at| node.addresses.both().map(|ip| SocketAddr::new(ip, NODE_PORT + at)))
            .collect();
        self.hold("outside-holder", Placement::Outside, to.clone()).await?;
        self.dial_to("outside", Placement::Outside, How::Tcp, to, &[0, 1]).await
    }

    fn addresses(&self, how: How, services: &[usize]) -> Vec<SocketAddr> {
        let port = usize::from(how != How::Tcp);
        let of = |service: &usize| {
            self.services
                .get(*service)
                .map(|service| service.vips().map(|vip| SocketAddr::new(vip.ip(), service.port(port).port)))
        };
        services.iter().filter_map(of).flatten().collect()
    }

    async fn dial(&mut self, name: &str, at: Placement, how: How, services: &[usize]) -> Result<()> {
        let to = self.addresses(how, services);
        self.dial_to(name, at, how, to, services).await
    }

    async fn dial_to(
        &mut self,
        name: &str,
        at: Placement,
        how: How,
        to: Vec<SocketAddr>,
        services: &[usize],
    ) -> Result<()> {
        let pod = self.serving_pod(name, at, how, &to).await?;
        // A lost datagram is not sent again.
        let timeout_ms = if how == How::Tcp { Dial::default().timeout_ms } else { UDP_TIMEOUT_MS };
        let dial = Dial { to, how, workers: 2, pause_us: PAUSE_US, timeout_ms, ..Dial::default() };
        let dialling = pod.dial_in_background(dial).await?;
        self.loads.push(Load {
            client: name.to_owned(),
            services: services.iter().copied().collect(),
            dialling,
        });
        Ok(())
    }

    /// A pod whose device has its programs: all these addresses answer.
    async fn serving_pod(&self, name: &str, at: Placement, how: How, to: &[SocketAddr]) -> Result<Arc<Pod>> {
        let pod = self.cluster.ensure_pod(name, at, None).await?;
        let times = Some(to.len() as u64);
        let dial = Dial { to: to.to_vec(), how, times, timeout_ms: UDP_TIMEOUT_MS, ..Dial::default() };
        within(START, &format!("{name} reaches {to:?}"), async || {
            let report = pod.dial(dial.clone()).await?;
            ensure!(report.failed() == 0, "{:?}", report.first_failures);
            Ok(())
        })
        .await?;
        Ok(pod)
    }

    async fn hold(&mut self, name: &str, at: Placement, to: Vec<SocketAddr>) -> Result<()> {
        let pod = self.serving_pod(name, at, How::Tcp, &to).await?;
        let (held, opened) = pod.hold(to, HELD).await?;
        ensure!(opened.failed() == 0, "{name} cannot connect: {:?}", opened.first_failures);
        self.held.push((pod, held));
        Ok(())
    }

    pub async fn perform(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Kill { node, away_ms, meanwhile } => {
                let node = self.node(node)?;
                node.kill_agent().await?;
                self.change(meanwhile)?;
                sleep(Duration::from_millis(away_ms)).await;
                node.start_agent().await
            }
            Step::Freeze { node, for_ms, meanwhile } => {
                let agent = self.node(node)?.agent_id().await.context("no agent runs")?;
                let agent = Pid::from_raw(agent.cast_signed());
                kill(agent, Signal::SIGSTOP).context("cannot stop the agent")?;
                self.change(meanwhile)?;
                sleep(Duration::from_millis(for_ms)).await;
                kill(agent, Signal::SIGCONT).context("cannot continue the agent")
            }
            Step::Replace { node, by } => {
                let flags = by.flags(ABI_VERSION);
                let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
                self.node(node)?.replace_agent(&flags).await
            }
            Step::Endpoint(change) => self.change(change),
            Step::Burst { changes, times } => {
                changes.iter().cycle().take(times).try_for_each(|change| self.change_through_absence(*change))
            }
            Step::Hostile(number) => self.toggle(number),
            Step::Pod { node } => self.visit(node).await,
        }
    }

    fn node(&self, index: usize) -> Result<&'a Node> {
        self.cluster.nodes().get(index).context("the cluster has no such node")
    }

    fn change(&mut self, change: Change) -> Result<()> {
        let Change { service, backend: at, condition } = change;
        let state = self.changing.get_mut(service).and_then(|states| states.get_mut(at));
        *state.context("no such endpoint")? = condition;
        let (states, service_at) = (self.changing[service], service);
        let service = self.services.get(service).context("no such Service")?;
        let state_of = |pod: &str| (0..CHANGING).find(|at| pod == backend(service_at, SOUND + at));
        service.list_only(|pod| state_of(pod).is_none_or(|at| states[at].is_some()));
        if let Some(condition) = condition {
            service.set(&backend(service_at, SOUND + at), condition);
        }
        Ok(())
    }

    fn change_through_absence(&mut self, change: Change) -> Result<()> {
        self.change(Change { condition: None, ..change })?;
        self.change(change)
    }

    fn toggle(&mut self, number: usize) -> Result<()> {
        let file = format!("hostile-{number}.yaml");
        let is_there = self.hostile.get_mut(number).context("no such object")?;
        *is_there = !*is_there;
        if !*is_there {
            return self.cluster.manifests().remove(&file);
        }
        let claimed = self.services.first().context("no Service")?.vips().map(|vip| vip.ip());
        self.cluster.manifests().write_text(&file, &hostile::manifest(number, claimed))
    }

    async fn visit(&mut self, node: usize) -> Result<()> {
        self.visitors += 1;
        let name = format!("visitor-{}", self.visitors);
        let pod = self.cluster.ensure_pod(&name, Placement::Node(node), None).await?;
        let dial = Dial { to: self.addresses(How::Tcp, &[0]), times: Some(10), ..Dial::default() };
        let report = pod.dial(dial).await?;
        self.cluster.remove_pod(&name);
        check(&name, &BTreeSet::from([0]), &report)
    }

    /// No connection has failed, none has reached another Service's pod, and every open one answers. Returns the number of those that
    /// took more than a second, as a packet was lost.
    pub async fn check(&self) -> Result<u64> {
        let mut slow = 0;
        for Load { client, services, dialling } in &self.loads {
            let report = dialling.progress().await?;
            check(client, services, &report)?;
            slow += report.slow;
        }
        for (pod, held) in &self.held {
            let echoes = pod.echo(*held).await?;
            ensure!(
                echoes.failed() == 0 && echoes.answered() == HELD as u64,
                "{}: open connections broke: {:?}",
                pod.name,
                echoes.first_failures
            );
        }
        Ok(slow)
    }

    /// Waits until no change is under way. Then the state of each node is that of a fresh start, and new connections reach exactly
    /// the endpoints that are ready.
    pub async fn settle(&self) -> Result<u64> {
        for node in self.cluster.nodes() {
            node.replace_agent(&[]).await?;
            node.wait_equals_fresh_start(&format!("the state of {} equals a fresh start's", node.name))
                .await?;
        }
        for (number, states) in self.changing.iter().enumerate() {
            let is_ready = |at: usize| at < SOUND || states[at - SOUND] == Some(Condition::Ready);
            let want: BTreeSet<String> =
                (0..SOUND + CHANGING).filter(|at| is_ready(*at)).map(|at| backend(number, at)).collect();
            for client in ["client-0", "vm-1", "host-2"] {
                let pod = self.cluster.all_pods().into_iter().find(|pod| pod.name == client);
                let to = self.addresses(How::Tcp, &[number]);
                let dial = Dial { to, times: Some(100), ..Dial::default() };
                let report = pod.with_context(|| format!("{client} is gone"))?.dial(dial).await?;
                let found: BTreeSet<String> = report.answers.keys().cloned().collect();
                ensure!(
                    report.failed() == 0 && found == want,
                    "{client}, Service {number}: {found:?} answer, and {want:?} are ready; {:?}",
                    report.first_failures
                );
            }
        }
        self.check().await
    }

    /// Ends the load.
    pub async fn end(self) -> Result<Totals> {
        let mut totals = Totals::default();
        for Load { client, services, dialling } in self.loads {
            let report = dialling.stop().await?;
            check(&client, &services, &report)?;
            totals.connections += report.attempts;
            totals.slow += report.slow;
            totals.longest_us = totals.longest_us.max(report.latency.max_us);
        }
        Ok(totals)
    }
}

fn check(client: &str, services: &BTreeSet<usize>, report: &Report) -> Result<()> {
    ensure!(report.failed() == 0, "{client}: connections failed: {:?}", report.first_failures);
    let wrong = report.answers.keys().find(|server| !is_of(services, server));
    ensure!(wrong.is_none(), "{client}: a connection to Services {services:?} reached {wrong:?}");
    Ok(())
}
