//! The agent: all the wiring, and the loop in which changes become maps.
//!
//! changes → index → touched frontends → reconciler → maps. Whatever has arrived while a pass ran is the next pass.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use proxy_ebpf::abi::{self, ConfigFlags};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::spawn_blocking,
    time::{interval, sleep},
};
use tracing::{debug, info, warn};

use crate::{
    config::{Config, SocketLb},
    datapath::{self, Busy, KernelMaps, PinError, Pins, Programs},
    error::chain,
    index::Index,
    manifests::watch::{Update, watch as watch_manifests},
    model::{
        frontend::{Frontend, FrontendKey, WhenEmpty},
        policy::{DetectLocal, Policy},
    },
    reconcile::{Epoch, MapError, Pass, Reconciler},
};

/// What could not be written is tried again after this time, or as soon as something was freed.
const RETRY: Duration = Duration::from_secs(1);
/// How often the kernel is asked whether the programs are where they should be.
const VERIFICATION: Duration = Duration::from_secs(10);

/// Runs until SIGTERM or SIGINT, and leaves the data plane in place.
pub async fn run(config: Config) -> Result<()> {
    let Config { manifests, cgroup, bpffs, socket_lb, takeover, abi_version, policy } = config;
    let mut stop = Stop::new()?;
    datapath::require_capabilities()?;
    let cgroup = find_cgroup(cgroup)?;
    info!(node = policy.node_name, bpffs = %bpffs.display(), cgroup = %cgroup.display(), "starting");
    let program_config = program_config(&policy, socket_lb)?;
    let mut updates = follow_manifests(&manifests, &policy)?;
    let addresses = datapath::local_addresses().await?;

    let pins = tokio::select! {
        pins = acquire(bpffs, abi_version, takeover) => pins?,
        () = stop.requested() => return Ok(()),
    };
    let mut programs = datapath::load(&pins, program_config)?;
    datapath::follow_logs(&mut programs);
    let mut agent = Agent::adopt(&pins, policy, addresses)?;
    let first = updates.recv().await.context("the directory of manifests ended before it was read")?;
    agent.start(first, &mut updates);
    match socket_lb {
        SocketLb::All | SocketLb::HostOnly => datapath::attach(&mut programs, &cgroup, &pins)?,
        SocketLb::Off => datapath::detach(&pins)?,
    }
    if let Err(error) = pins.drop_other_versions() {
        warn!(error = %chain(&error), "maps of another version kept");
    }
    info!(frontends = agent.reconciler.len(), "ready");
    notify_ready();
    let attachment = Attachment { programs, cgroup, pins, is_wanted: socket_lb != SocketLb::Off };
    agent.follow(&mut updates, &mut stop, attachment).await;
    info!(repairs = agent.repairs, "stopping; the data plane stays in place");
    Ok(())
}

/// Takes the pin directory, at once or when the agent that holds it ends.
async fn acquire(dir: PathBuf, version: u32, takeover: bool) -> Result<Pins> {
    match Pins::acquire(&dir, version, Busy::Fail) {
        Err(PinError::Held { holder, .. }) if takeover => {
            info!(holder, "ready to take over, waiting");
            // Whoever replaces agents ends the old one only when the new one is ready.
            notify_ready();
            let (sender, pins) = oneshot::channel();
            // A thread of its own: the runtime would wait for it at the end, and it may wait for ever.
            std::thread::spawn(move || sender.send(Pins::acquire(&dir, version, Busy::Wait)));
            Ok(pins.await.context("the wait for the other agent was broken off")??)
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

fn follow_manifests(path: &Path, policy: &Policy) -> Result<mpsc::UnboundedReceiver<Update>> {
    // Unbounded: a watch thread that waits would only read later what it reads now, and it reads whole states.
    let (sender, updates) = mpsc::unbounded_channel();
    watch_manifests(path, &policy.node_name, move |update| sender.send(update).is_ok())?;
    Ok(updates)
}

fn program_config(policy: &Policy, socket_lb: SocketLb) -> Result<abi::Config> {
    let host_netns = datapath::netns_cookie().context("cannot tell the network namespace of the node")?;
    let no_detector = |cidr: Option<_>| policy.detect_local == DetectLocal::ClusterCidr && cidr.is_none();
    let flags = ConfigFlags::default()
        .with(ConfigFlags::HOST_ONLY, socket_lb == SocketLb::HostOnly)
        .with(ConfigFlags::PODS_ARE_EXTERNAL_V4, no_detector(policy.cluster_cidrs.v4))
        .with(ConfigFlags::PODS_ARE_EXTERNAL_V6, no_detector(policy.cluster_cidrs.v6));
    Ok(abi::Config { host_netns, flags, zero: 0 })
}

fn notify_ready() {
    // Nobody listens unless a service manager started us.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// What holds the programs at their hooks.
struct Attachment {
    programs: Programs,
    cgroup: PathBuf,
    pins: Pins,
    is_wanted: bool,
}

impl Attachment {
    /// Somebody may have detached a program, or put another in its place: how many hooks were repaired.
    fn verify(&mut self) -> usize {
        if !self.is_wanted {
            return 0;
        }
        match datapath::repair(&mut self.programs, &self.cgroup, &self.pins) {
            Ok(repaired) => {
                for hook in &repaired {
                    warn!(hook, "program was not attached any more, attached again");
                }
                repaired.len()
            }
            Err(error) => {
                warn!(error = %chain(&error), "programs not attached, will retry");
                0
            }
        }
    }
}

/// The signals that end the agent.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The index and the maps that follow it.
struct Agent {
    index: Index,
    reconciler: Reconciler<KernelMaps>,
    /// Frontends to be written again: those that failed, and their siblings.
    unwritten: BTreeSet<FrontendKey>,
    /// Something of the last pass found a map full.
    is_full: bool,
    /// Frontends whose last failure was logged.
    complained: HashSet<FrontendKey>,
    /// Frontends whose verdict the socket plane cannot give; each is warned about once.
    refused: HashSet<FrontendKey>,
    addresses: watch::Receiver<BTreeSet<IpAddr>>,
    /// The addresses that serve NodePorts, as they were last written.
    serving: Option<BTreeSet<IpAddr>>,
    graces: Graces,
    /// Hooks that were found without our program since the start.
    repairs: usize,
}

/// Grace periods take milliseconds, so they pass on another thread.
struct Graces {
    sender: mpsc::UnboundedSender<Epoch>,
    over: mpsc::UnboundedReceiver<Epoch>,
}

impl Agent {
    fn adopt(pins: &Pins, policy: Policy, addresses: watch::Receiver<BTreeSet<IpAddr>>) -> Result<Self> {
        // Programs that began under a predecessor may still hold what looks free from here.
        datapath::grace_period().context("cannot wait for running programs")?;
        let reconciler = Reconciler::adopt(KernelMaps::open(&pins.maps())?)?;
        info!(frontends = reconciler.len(), "adopted what an earlier agent left");
        let (sender, over) = mpsc::unbounded_channel();
        Ok(Self {
            index: Index::new(policy),
            reconciler,
            unwritten: BTreeSet::new(),
            is_full: false,
            complained: HashSet::new(),
            serving: None,
            refused: HashSet::new(),
            addresses,
            graces: Graces { sender, over },
            repairs: 0,
        })
    }

    /// The first update is everything there was, so what it does not name goes, unless it has come since: an agent
    /// that waited for another one begins with the present.
    fn start(&mut self, first: Update, updates: &mut mpsc::UnboundedReceiver<Update>) {
        self.take_in(first, updates);
        self.write_node_addresses();
        let wanted: Vec<Frontend> = self.index.frontends().collect();
        wanted.iter().for_each(|frontend| self.warn_if_refused(frontend));
        let pass = self.reconciler.apply_all(wanted);
        self.finish(pass);
    }

    async fn follow(
        &mut self,
        updates: &mut mpsc::UnboundedReceiver<Update>,
        stop: &mut Stop,
        mut attachment: Attachment,
    ) {
        let mut verification = interval(VERIFICATION);
        loop {
            tokio::select! {
                () = stop.requested() => return,
                Some(update) = updates.recv() => self.absorb(update, updates),
                Some(epoch) = self.graces.over.recv() => self.reclaim(epoch),
                Ok(()) = self.addresses.changed() => self.write_node_addresses(),
                _ = verification.tick() => self.repairs += attachment.verify(),
                () = sleep(RETRY), if !self.unwritten.is_empty() || self.serving.is_none() => self.retry(),
            }
        }
    }

    /// One pass for everything that has arrived.
    fn absorb(&mut self, first: Update, updates: &mut mpsc::UnboundedReceiver<Update>) {
        let mut touched = std::mem::take(&mut self.unwritten);
        touched.extend(self.take_in(first, updates));
        self.write_node_addresses();
        self.write(touched);
    }

    /// Everything that has arrived goes into the index; the frontends that may look different now.
    fn take_in(
        &mut self,
        first: Update,
        updates: &mut mpsc::UnboundedReceiver<Update>,
    ) -> BTreeSet<FrontendKey> {
        let mut touched = BTreeSet::new();
        let mut next = Some(first);
        while let Some(update) = next {
            self.report(&update);
            for change in update.changes {
                touched.extend(self.index.apply(change));
            }
            next = updates.try_recv().ok();
        }
        touched
    }

    fn write(&mut self, touched: BTreeSet<FrontendKey>) {
        let changes: Vec<_> = touched.into_iter().map(|key| (key, self.index.frontend(&key))).collect();
        for (key, wanted) in &changes {
            match wanted {
                Some(frontend) => self.warn_if_refused(frontend),
                None => drop(self.refused.remove(key)),
            }
        }
        let pass = self.reconciler.apply(changes);
        self.finish(pass);
    }

    fn finish(&mut self, pass: Pass) {
        debug!(changed = pass.changed, failed = pass.failed.len(), "pass");
        for (key, error) in pass.failed.iter().filter(|(key, _)| !self.complained.contains(key)) {
            warn!(frontend = %key, error = %chain(&**error), "frontend not written, will retry");
        }
        self.is_full = pass.failed.iter().any(|(_, error)| matches!(**error, MapError::Full { .. }));
        self.complained = pass.failed.into_iter().map(|(key, _)| key).collect();
        self.unwritten.extend(pass.retry);
        if let Some(epoch) = pass.grace {
            let over = self.graces.sender.clone();
            spawn_blocking(move || match datapath::grace_period() {
                // The agent may have ended meanwhile.
                Ok(()) => drop(over.send(epoch)),
                Err(error) => warn!(%error, "no grace period: what was replaced stays unused"),
            });
        }
    }

    /// What found no room may find some now; what failed otherwise waits for its time.
    fn reclaim(&mut self, epoch: Epoch) {
        self.reconciler.reclaim(epoch);
        if self.is_full {
            self.retry();
        }
    }

    fn retry(&mut self) {
        self.write_node_addresses();
        if !self.unwritten.is_empty() {
            let touched = std::mem::take(&mut self.unwritten);
            self.write(touched);
        }
    }

    fn report(&self, update: &Update) {
        for skipped in &update.skipped {
            warn!(object = skipped.object, reason = skipped.reason, "object skipped");
        }
    }

    /// Which local addresses serve NodePorts depends on the interfaces, the Node object and the flags.
    fn write_node_addresses(&mut self) {
        let node = self.index.node();
        let local = self.addresses.borrow_and_update().clone();
        let serving = local.into_iter().filter(|address| node.would_serve_nodeports(*address));
        let serving: BTreeSet<IpAddr> = serving.filter(|address| is_dialled(*address)).collect();
        if self.serving.as_ref() == Some(&serving) {
            return;
        }
        match self.reconciler.maps_mut().set_node_port_addresses(&serving) {
            Ok(()) => self.serving = Some(serving),
            Err(error) => warn!(error = %chain(&error), "addresses that serve NodePorts not written"),
        }
    }

    fn warn_if_refused(&mut self, frontend: &Frontend) {
        let Some(why) = refusal(frontend) else {
            self.refused.remove(&frontend.key);
            return;
        };
        if self.refused.insert(frontend.key) {
            warn!(frontend = %frontend.key, service = %frontend.service, why, "frontend refused at the socket");
        }
    }
}

/// Of all loopback addresses only 127.0.0.1 serves: the others are for the node's own purposes.
fn is_dialled(address: IpAddr) -> bool {
    !address.is_loopback() || address == IpAddr::from([127, 0, 0, 1])
}

/// Why the socket plane refuses a frontend that the packet plane, which is not built yet, will decide.
fn refusal(frontend: &Frontend) -> Option<&'static str> {
    if !frontend.source_ranges.is_empty() {
        Some("source ranges need a source address")
    } else if frontend.internal.backends.is_empty() && frontend.internal.when_empty == WhenEmpty::Drop {
        Some("the traffic policy is Local and this node has no endpoint")
    } else {
        None
    }
}
