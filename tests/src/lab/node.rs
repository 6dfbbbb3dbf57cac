//! A node: a network namespace with routes to its pods, a cgroup subtree, a pin directory and an agent.

use std::{
    path::Path,
    process::ExitStatus,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use proxy::k8s::watch::Timing;
use tokio::sync::Mutex;

use crate::lab::{
    addresses::{Addresses, NodeAddressing, Subnet},
    agent::{Agent, AgentSetting},
    eventually::within,
    kernel::{cgroup::Cgroup, leftovers::unique_name, mounts::PinDir, netns::Netns},
    pinned_maps::pinned_state,
    pod_network::PodNetwork,
};

/// Pods are numbered from here, so that examples may use the addresses below.
const FIRST_POD: u16 = 100;

#[derive(Debug)]
pub struct Node {
    pub name: String,
    pub addresses: Addresses,
    pub pods: Subnet,
    pub network: PodNetwork,
    agent: Mutex<Option<Agent>>,
    setting: AgentSetting,
    next_pod: AtomicU16,
    netns: Arc<Netns>,
    // Last, in this order: the pinned links are attached to the cgroup, and the agent above uses both.
    _pins: PinDir,
    cgroup: Cgroup,
}

/// The parts of a node, which the cluster has connected.
pub struct NodeParts {
    pub addresses: Addresses,
    pub pods: Subnet,
    pub network: PodNetwork,
    pub setting: AgentSetting,
    pub netns: Netns,
    pub pins: PinDir,
    pub cgroup: Cgroup,
}

impl Node {
    pub async fn start(parts: NodeParts) -> Result<Self> {
        let NodeParts { addresses, pods, network, setting, netns, pins, cgroup } = parts;
        netns.forward()?;
        network.prepare(&netns, &pods, addresses).await?;
        Ok(Self {
            name: setting.node.clone(),
            addresses,
            pods,
            network,
            agent: Mutex::new(None),
            setting,
            next_pod: AtomicU16::new(FIRST_POD),
            netns: Arc::new(netns),
            _pins: pins,
            cgroup,
        })
    }

    pub fn netns(&self) -> &Arc<Netns> {
        &self.netns
    }

    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    pub fn addressing(&self) -> NodeAddressing {
        NodeAddressing { addresses: self.addresses, pods: self.pods }
    }

    pub fn bpffs(&self) -> &Path {
        &self.setting.bpffs
    }

    pub fn setting(&self) -> &AgentSetting {
        &self.setting
    }

    pub fn next_pod(&self) -> Addresses {
        self.pods.host(self.next_pod.fetch_add(1, Ordering::Relaxed))
    }

    /// Starts the agent and waits until it is ready.
    pub async fn start_agent(&self) -> Result<()> {
        self.spawn_agent().await?;
        self.agent_is_ready().await
    }

    /// Starts the agent with additional flags and waits until it is ready.
    pub async fn start_agent_with(&self, more: &[&str]) -> Result<()> {
        let mut setting = self.setting.clone();
        setting.more.extend(more.iter().map(|flag| (*flag).to_owned()));
        self.spawn(&setting).await?;
        self.agent_is_ready().await
    }

    /// Starts the agent without waiting.
    pub async fn spawn_agent(&self) -> Result<()> {
        self.spawn(&self.setting).await
    }

    async fn spawn(&self, setting: &AgentSetting) -> Result<()> {
        let mut agent = self.agent.lock().await;
        ensure!(agent.is_none(), "an agent runs on {} already", self.name);
        *agent = Some(Agent::spawn(setting, &self.netns)?);
        Ok(())
    }

    pub async fn agent_is_ready(&self) -> Result<()> {
        let mut agent = self.agent.lock().await;
        agent.as_mut().with_context(|| format!("no agent runs on {}", self.name))?.ready().await
    }

    /// The maps of an agent of this node that starts with empty maps, beside the running one.
    pub async fn fresh_state(&self) -> Result<String> {
        let name = unique_name(&self.name);
        // The agent is ended first, then its pins, cgroup and namespace are removed.
        let (pins, cgroup, netns) =
            (PinDir::create(&name)?, self.cgroup.child(&name)?, Netns::create().await?);
        let setting = AgentSetting {
            cgroup: cgroup.path().to_owned(),
            bpffs: pins.path().to_owned(),
            notify: self.setting.notify.with_extension("fresh"),
            ..self.setting.clone()
        };
        let mut agent = Agent::spawn(&setting, &netns)?;
        agent.ready().await?;
        let state = pinned_state(pins.path())?;
        agent.kill()?;
        Ok(state)
    }

    /// Waits until the maps equal those of a fresh start: at the latest after the longest retry interval to an
    /// API server that was unavailable.
    pub async fn wait_equals_fresh_start(&self, when: &str) -> Result<()> {
        let fresh = self.fresh_state().await?;
        ensure!(fresh.lines().count() > 1, "a fresh start programs nothing: {fresh}");
        let limit = Timing::default().max_backoff + Duration::from_secs(10);
        within(limit, when, async || {
            let state = self.state()?;
            ensure!(state == *fresh, "the state is\n{state}\nand a fresh start's\n{fresh}");
            Ok(())
        })
        .await
    }

    /// The content of the pinned maps of this node, whether or not an agent runs.
    pub fn state(&self) -> Result<String> {
        pinned_state(self.bpffs())
    }

    pub async fn kill_agent(&self) -> Result<()> {
        self.take_agent().await?.kill()
    }

    pub async fn terminate_agent(&self) -> Result<ExitStatus> {
        self.take_agent().await?.terminate().await
    }

    /// Starts another agent beside the running one, which is terminated as soon as the new one is ready: a
    /// rolling update. Returns when the new one has taken over.
    pub async fn replace_agent(&self, more: &[&str]) -> Result<()> {
        self.replace_agent_by(None, more).await
    }

    /// The same with an agent of another binary; `None` is the one that was built with the tests.
    pub async fn replace_agent_by(&self, binary: Option<&Path>, more: &[&str]) -> Result<()> {
        let mut setting = self.setting.clone();
        setting.binary = binary.map(Path::to_owned);
        setting.notify = self.setting.notify.with_extension("next");
        setting.more.extend(["--takeover"].iter().chain(more).map(|flag| (*flag).to_owned()));
        let mut next = Agent::spawn(&setting, &self.netns)?;
        next.ready().await.context("waiting beside the old one")?;
        let status = self.terminate_agent().await?;
        ensure!(status.success(), "the old agent ended with {status}");
        next.ready().await.context("after the old one ended")?;
        *self.agent.lock().await = Some(next);
        Ok(())
    }

    /// The process id of the running agent.
    pub async fn agent_id(&self) -> Option<u32> {
        self.agent.lock().await.as_ref().map(Agent::id)
    }

    async fn take_agent(&self) -> Result<Agent> {
        self.agent.lock().await.take().with_context(|| format!("no agent runs on {}", self.name))
    }
}
