//! The loop in which changes become maps.
//!
//! changes → index → touched frontends → reconciler → maps. Whatever has arrived while a pass ran is the next pass.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use ipnetwork::IpNetwork;
use proxy_ebpf::abi::Unclaimed;
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{attachment::Attachment, names::Names, pod_cidrs::PodCidrs, source::Source, stop::Stop};
use crate::{
    datapath::{self, KernelMaps, Pins},
    error::chain,
    index::{Change, Index},
    model::{
        address::PerFamily,
        frontend::{Frontend, FrontendAddress, FrontendKey, FrontendKind},
        policy::Policy,
    },
    observe::{
        log_once::LogOnce,
        telemetry::{CompletedPass, Telemetry},
    },
    reconcile::{Epoch, MapError, Pass, Reconciler, UnclaimedNetworks},
    update::Update,
};

/// What could not be written is tried again after this time, or as soon as something was freed.
const RETRY: Duration = Duration::from_secs(1);
/// How often the kernel is asked whether the programs are where they should be.
const VERIFICATION: Duration = Duration::from_secs(10);

/// If a pass has more frontends than this, and most of those there are, it may as well take all.
const FULL_SYNC_THRESHOLD: usize = 4096;

/// The index and the maps that follow it.
pub struct Agent {
    index: Index,
    reconciler: Reconciler<KernelMaps>,
    /// Frontends to be written again: those that failed, and their siblings.
    unwritten: BTreeSet<FrontendKey>,
    /// Something of the last pass found a map full.
    has_full_map: bool,
    /// Frontends whose last failure was logged.
    logged: HashSet<FrontendKey>,
    addresses: watch::Receiver<BTreeSet<IpAddr>>,
    /// The node's addresses as they are written, and which of them serve NodePorts; none: not as they should be.
    node_addresses: Option<BTreeMap<IpAddr, bool>>,
    networks: UnclaimedNetworks,
    /// What of these two could not be written.
    unwritten_addresses: LogOnce,
    unwritten_networks: LogOnce,
    /// None: somebody else answers names.
    names: Option<Names>,
    grace_periods: GracePeriods,
    /// Hooks that were found without our program since the start.
    repairs: usize,
    pod_cidrs: PodCidrs,
    telemetry: Telemetry,
}

/// Grace periods take milliseconds, so they pass on another thread.
struct GracePeriods {
    sender: mpsc::UnboundedSender<Epoch>,
    over: mpsc::UnboundedReceiver<Epoch>,
}

impl Agent {
    pub fn adopt(
        pins: &Pins,
        policy: Policy,
        addresses: watch::Receiver<BTreeSet<IpAddr>>,
        names: Option<Names>,
        telemetry: Telemetry,
    ) -> Result<Self> {
        // Programs that began under a predecessor may still hold what looks free from here.
        datapath::grace_period().context("cannot wait for running programs")?;
        let reconciler = Reconciler::adopt(KernelMaps::open(&pins.maps())?)?;
        let networks = UnclaimedNetworks::adopt(reconciler.maps())?;
        info!(frontends = reconciler.len(), "adopted what an earlier agent left");
        let (sender, over) = mpsc::unbounded_channel();
        Ok(Self {
            pod_cidrs: PodCidrs::new(&policy),
            index: Index::new(policy),
            reconciler,
            unwritten: BTreeSet::new(),
            has_full_map: false,
            logged: HashSet::new(),
            node_addresses: None,
            networks,
            unwritten_addresses: LogOnce::default(),
            unwritten_networks: LogOnce::default(),
            addresses,
            names,
            grace_periods: GracePeriods { sender, over },
            repairs: 0,
            telemetry,
        })
    }

    /// How many frontends are published.
    pub fn frontends(&self) -> usize {
        self.reconciler.len()
    }

    pub fn repairs(&self) -> usize {
        self.repairs
    }

    /// Who takes over shares the port with nobody who knows less.
    pub fn start_dns(&mut self, maps: &Path) -> Result<()> {
        let Some(names) = &mut self.names else { return Ok(()) };
        self.telemetry.dns_started(names.redirect_clients(maps)?);
        Ok(())
    }

    /// Answers what was asked, and leaves the maps as they are.
    pub async fn shut_down(self) {
        self.telemetry.loop_ended();
        if let Some(names) = self.names {
            names.stop().await;
        }
    }

    /// Nothing is written before everything was read. What was not named by then goes, unless it has come since: an
    /// agent that waited for another one begins with the present.
    pub async fn initial_sync(&mut self, source: &mut Source) -> Result<()> {
        let mut is_synced = false;
        while !is_synced {
            let update =
                source.next().await.context("the source of objects ended before everything was read")?;
            is_synced = update.is_synced;
            self.apply_update(update);
        }
        while let Some(update) = source.next_now() {
            self.apply_update(update);
        }
        self.await_pod_cidrs(source).await?;
        let began = Instant::now();
        self.write_node_addresses();
        let pass = self.write_all();
        info!(
            frontends = self.frontends(),
            programming_ms = began.elapsed().as_secs_f64() * 1e3,
            "programmed"
        );
        self.finish(pass, true);
        Ok(())
    }

    /// A mode that tells pods by the networks of the Node object can tell nothing before they are there.
    async fn await_pod_cidrs(&mut self, source: &mut Source) -> Result<()> {
        while let Some(remaining) = self.pod_cidrs.wait(self.index.node_info())? {
            match timeout(remaining, source.next()).await {
                Ok(Some(update)) => drop(self.apply_update(update)),
                Ok(None) => bail!("the source of objects ended before the Node object had pod networks"),
                // What was waited for did not come: the next turn says so.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Until it is told to stop. An error: what was fixed at the start is not so any more.
    pub async fn run(
        &mut self,
        source: &mut Source,
        stop: &mut Stop,
        mut attachment: Attachment,
    ) -> Result<()> {
        let mut verification = interval(VERIFICATION);
        // What was missed meanwhile is not made up for.
        verification.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.telemetry.heartbeat();
            tokio::select! {
                () = stop.requested() => return Ok(()),
                update = source.next() => {
                    // Whoever is told of nothing any more must not go on as if nothing happened.
                    self.run_pass(update.context("the source of objects ended")?, source);
                    self.pod_cidrs.check(self.index.node_info())?;
                }
                Some(epoch) = self.grace_periods.over.recv() => self.reclaim(epoch),
                Ok(()) = self.addresses.changed() => self.write_node_addresses(),
                repairs = attachment.devices_changed() => self.report_attachment(repairs, &attachment),
                _ = verification.tick() => {
                    let repairs = attachment.verify();
                    self.report_attachment(repairs, &attachment);
                }
                () = sleep(RETRY), if !self.is_written() => self.retry(),
            }
        }
    }

    fn report_attachment(&mut self, repairs: usize, attachment: &Attachment) {
        self.repairs += repairs;
        self.telemetry.hooks_verified(repairs, attachment.failures());
    }

    /// One pass for everything that has arrived.
    fn run_pass(&mut self, first: Update, source: &mut Source) {
        let mut touched = std::mem::take(&mut self.unwritten);
        // What comes while these are taken in waits for the next pass, however much it is.
        let waiting = source.waiting();
        touched.extend(self.apply_update(first));
        for update in (0..waiting).map_while(|_| source.next_now()) {
            touched.extend(self.apply_update(update));
        }
        self.write_node_addresses();
        self.write(touched);
    }

    /// Puts an update into the index; the frontends that may look different now.
    fn apply_update(&mut self, update: Update) -> BTreeSet<FrontendKey> {
        self.telemetry.objects_skipped(update.skipped.len());
        update.log_skipped();
        if let Some(names) = &mut self.names {
            names.apply(update.names);
        }
        let mut touched = BTreeSet::new();
        for change in update.changes {
            if change == Change::Node(None) {
                // kube-proxy does no more than say so (rule R1). Without the addresses that it named, NodePorts would be
                // served at every address, and without its pod networks pods would be strangers.
                warn!("the Node object is gone, going on with what it said last");
                continue;
            }
            self.telemetry.change_received(&change, &self.index);
            touched.extend(self.index.apply(change));
        }
        touched
    }

    /// Brings every frontend in line, one after the other: all of them together would weigh more than everything else.
    fn write_all(&mut self) -> Pass {
        let Self { index, reconciler, telemetry, .. } = self;
        telemetry.frontends_queued(index.frontend_keys());
        let wanted =
            index.frontends().inspect(|frontend| telemetry.frontend_resolved(frontend.key, Some(frontend)));
        let pass = reconciler.apply_all(wanted);
        self.networks.set_all(self.index.unclaimed_networks());
        self.write_networks();
        pass
    }

    fn write(&mut self, touched: BTreeSet<FrontendKey>) {
        if touched.len() > FULL_SYNC_THRESHOLD && touched.len() > self.frontends() / 2 {
            // Those that have gone are not among all.
            touched.iter().for_each(|key| self.telemetry.frontend_resolved(*key, None));
            let pass = self.write_all();
            return self.finish(pass, true);
        }
        let changes: Vec<_> = touched.into_iter().map(|key| (key, self.index.frontend(&key))).collect();
        self.want_networks(&changes);
        self.telemetry.frontends_queued(changes.iter().map(|(key, _)| key));
        for (key, wanted) in &changes {
            self.telemetry.frontend_resolved(*key, wanted.as_ref());
        }
        let pass = self.reconciler.apply(changes);
        self.finish(pass, false);
        self.write_networks();
    }

    fn finish(&mut self, pass: Pass, is_full_sync: bool) {
        debug!(changed = pass.changed, failed = pass.failed.len(), "pass");
        for (key, error) in pass.failed.iter().filter(|(key, _)| !self.logged.contains(key)) {
            warn!(frontend = %key, error = %chain(&**error), "frontend not written, will retry");
        }
        self.has_full_map = pass.failed.iter().any(|(_, error)| matches!(**error, MapError::Full { .. }));
        self.logged = pass.failed.into_iter().map(|(key, _)| key).collect();
        self.unwritten.extend(pass.retry);
        self.telemetry.pass_completed(CompletedPass {
            is_full_sync,
            index: &self.index,
            unwritten: &self.unwritten,
            local_addresses: &self.addresses.borrow(),
            frontends: self.reconciler.len(),
            fill: self.reconciler.fill(),
        });
        // Not before: a name must not lead to an address that nothing serves yet.
        if let Some(names) = &mut self.names {
            names.publish();
            self.telemetry.dns_published();
        }
        if let Some(epoch) = pass.grace {
            let over = self.grace_periods.sender.clone();
            spawn_blocking(move || match datapath::grace_period() {
                // The agent may have ended meanwhile.
                Ok(()) => drop(over.send(epoch)),
                Err(error) => warn!(%error, "no grace period: what was replaced stays unused"),
            });
        }
    }

    /// What found no room may find some now; what failed otherwise waits for its time.
    fn reclaim(&mut self, epoch: Epoch) {
        let made_room = self.reconciler.reclaim(epoch);
        if self.has_full_map && made_room {
            self.retry();
        }
    }

    fn retry(&mut self) {
        self.write_node_addresses();
        self.write_networks();
        if !self.unwritten.is_empty() {
            let touched = std::mem::take(&mut self.unwritten);
            self.write(touched);
        }
    }

    fn is_written(&self) -> bool {
        self.unwritten.is_empty() && self.node_addresses.is_some() && self.networks.is_written()
    }

    /// Which addresses are the node's depends on the interfaces; which of them serve NodePorts, and which sources are
    /// pods, on the Node object and the flags as well.
    fn write_node_addresses(&mut self) {
        let node = self.index.node();
        let pods = if node.detect_local.is_by_interface() { PerFamily::default() } else { node.pod_range };
        self.reconciler.maps_mut().set_pod_ranges(&pods);
        let local = self.addresses.borrow_and_update().clone();
        let reachable = local.into_iter().filter(|address| is_reachable(*address));
        let addresses: BTreeMap<IpAddr, bool> =
            reachable.map(|address| (address, node.nodeports_include(address))).collect();
        if self.node_addresses.as_ref() == Some(&addresses) {
            return;
        }
        let outcome = self.reconciler.maps_mut().set_node_addresses(&addresses);
        self.node_addresses = outcome.is_ok().then_some(addresses);
        self.unwritten_addresses.record("addresses of the node not written", outcome);
    }

    /// A ClusterIP comes and goes with its frontends; ServiceCIDRs are few.
    fn want_networks(&mut self, changes: &[(FrontendKey, Option<Frontend>)]) {
        let mut gone = Vec::new();
        for (key, wanted) in changes {
            match (key.address, wanted) {
                (FrontendAddress::Ip(address), Some(frontend))
                    if frontend.kind == FrontendKind::ClusterIp =>
                {
                    self.networks.set(address.into(), Some(Unclaimed::UndefinedPort));
                }
                (FrontendAddress::Ip(address), _) if self.networks.has(address.into()) => gone.push(address),
                (FrontendAddress::Ip(_) | FrontendAddress::NodePort(_), _) => {}
            }
        }
        // Another port of the Service, or another Service, may have the address still.
        gone.retain(|address| !self.index.has_cluster_ip(*address));
        gone.into_iter().for_each(|address| self.networks.set(address.into(), None));
        let cidrs: BTreeSet<IpNetwork> = self.index.service_cidrs().collect();
        let gone: Vec<_> = self.networks.service_cidrs().filter(|network| !cidrs.contains(network)).collect();
        gone.into_iter().for_each(|network| self.networks.set(network, None));
        cidrs.into_iter().for_each(|network| self.networks.set(network, Some(Unclaimed::Unallocated)));
    }

    fn write_networks(&mut self) {
        let outcome = self.networks.write(self.reconciler.maps_mut());
        self.unwritten_networks.record("networks of Services not written", outcome);
    }
}

/// To the programs 127.0.0.1 is all of 127.0.0.0/8; ::1 never serves (kube-proxy's rule J6).
fn is_reachable(address: IpAddr) -> bool {
    !address.is_loopback() || address == IpAddr::from([127, 0, 0, 1])
}
