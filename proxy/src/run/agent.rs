//! The agent's loop: object changes become map entries.
//!
//! changes → index → touched frontends → reconciler → maps. Changes that arrive during a pass form the next
//! pass.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use ipnetwork::IpNetwork;
use jiff::Timestamp;
use proxy_ebpf::abi::Unclaimed;
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use super::{
    attachment::Attachment,
    name_server::NameServer,
    pod_cidrs::PodCidrs,
    retries::{FIRST_DELAY, FailedPass, Retries},
    source::Source,
    stale_connections::StaleConnections,
    stop::Stop,
};
use crate::{
    config::TableShares,
    datapath::{self, KernelMaps, Pins},
    index::{Change, Index},
    model::{
        address::PerFamily,
        frontend::{Frontend, FrontendAddress, FrontendKey, FrontendKind},
        policy::Policy,
    },
    observe::{
        log_once::LogOnce,
        objects::Objects,
        telemetry::{CompletedPass, Telemetry},
    },
    reconcile::{Budget, Epoch, MapError, Pass, Reconciler, UnclaimedNetworks},
    update::Update,
};

/// How often the attachment of the programs is verified.
const VERIFICATION: Duration = Duration::from_secs(10);

/// A pass with more frontends than this, and more than half of all, becomes a full sync.
const FULL_SYNC_THRESHOLD: usize = 4096;

/// The index and the maps that follow it.
pub struct Agent {
    index: Index,
    reconciler: Reconciler<KernelMaps>,
    /// Frontends to be retried.
    retries: Retries,
    addresses: watch::Receiver<BTreeSet<IpAddr>>,
    /// The node's addresses as written, and whether each serves NodePorts; `None`: not written.
    node_addresses: Option<BTreeMap<IpAddr, bool>>,
    networks: UnclaimedNetworks,
    /// Failures of these two writes.
    unwritten_addresses: LogOnce,
    unwritten_networks: LogOnce,
    /// `None`: this agent does not serve DNS.
    name_server: Option<NameServer>,
    grace_periods: GracePeriods,
    /// Hooks that had lost their program, since the start.
    repairs: usize,
    pod_cidrs: PodCidrs,
    /// The Node object has changed since the name server followed it.
    is_node_new: bool,
    telemetry: Telemetry,
}

/// Grace periods take milliseconds, so they are awaited on other threads.
struct GracePeriods {
    sender: mpsc::UnboundedSender<Epoch>,
    over: mpsc::UnboundedReceiver<Epoch>,
}

impl Agent {
    pub fn adopt(
        pins: &Pins,
        policy: Policy,
        addresses: watch::Receiver<BTreeSet<IpAddr>>,
        name_server: Option<NameServer>,
        telemetry: Telemetry,
        shares: TableShares,
    ) -> Result<Self> {
        // Programs that started under an earlier agent may still use entries that look free from here.
        datapath::grace_period().context("cannot wait for a grace period")?;
        let TableShares { service, namespace } = shares;
        let dns = policy.name_server.as_ref().map(|server| server.service.clone());
        let budget = Budget { service, namespace, name_server: dns };
        let reconciler = Reconciler::adopt_with(KernelMaps::open(&pins.maps())?, Some(budget))?;
        let networks = UnclaimedNetworks::adopt(reconciler.maps())?;
        info!(frontends = reconciler.len(), "adopted the maps of an earlier agent");
        let (sender, over) = mpsc::unbounded_channel();
        Ok(Self {
            pod_cidrs: PodCidrs::new(&policy),
            index: Index::new(policy),
            reconciler,
            retries: Retries::default(),
            node_addresses: None,
            networks,
            unwritten_addresses: LogOnce::default(),
            unwritten_networks: LogOnce::default(),
            addresses,
            name_server,
            grace_periods: GracePeriods { sender, over },
            repairs: 0,
            is_node_new: false,
            telemetry,
        })
    }

    /// The number of published frontends.
    pub fn frontends(&self) -> usize {
        self.reconciler.len()
    }

    pub fn repairs(&self) -> usize {
        self.repairs
    }

    /// Starts to serve DNS. A successor does so only now: it must not share the port while its data are
    /// incomplete.
    pub fn start_dns(&mut self, maps: &Path) -> Result<()> {
        let Some(name_server) = &mut self.name_server else { return Ok(()) };
        self.telemetry.dns_started(name_server.redirect_clients(maps)?);
        Ok(())
    }

    /// Answers pending DNS queries, and leaves the maps as they are.
    pub async fn shut_down(self) {
        self.telemetry.loop_ended();
        if let Some(name_server) = self.name_server {
            name_server.stop().await;
        }
    }

    /// Writes nothing until all objects were read; then deletes entries without an object. Includes later
    /// changes, because an agent that waited for another one starts with the present state.
    pub async fn initial_sync(&mut self, source: &mut Source) -> Result<()> {
        let mut is_synced = false;
        while !is_synced {
            let update =
                source.next().await.context("the source of objects ended before the initial sync")?;
            is_synced = update.is_synced;
            self.apply_update(update);
        }
        while let Some(update) = source.next_now() {
            self.apply_update(update);
        }
        self.await_pod_cidrs(source).await?;
        let began = Instant::now();
        self.write_node_addresses();
        self.follow_name_server();
        self.retries.take_all();
        let pass = self.write_all();
        info!(
            frontends = self.frontends(),
            programming_ms = began.elapsed().as_secs_f64() * 1e3,
            "programmed"
        );
        self.finish(pass, true);
        // Of what the source listed, nothing has left.
        self.index.take_departures();
        Ok(())
    }

    /// Waits for the pod CIDRs of the Node object, if the detection of pods depends on them.
    async fn await_pod_cidrs(&mut self, source: &mut Source) -> Result<()> {
        while let Some(remaining) = self.pod_cidrs.wait(self.index.node_info())? {
            match timeout(remaining, source.next()).await {
                Ok(Some(update)) => drop(self.apply_update(update)),
                Ok(None) => bail!("the source of objects ended before the Node object had pod networks"),
                // Timeout: the next iteration returns the error.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Runs until a stop is requested. Errors: settings of the start have changed.
    pub async fn run(
        &mut self,
        source: &mut Source,
        stop: &mut Stop,
        mut attachment: Attachment,
        mut stale: StaleConnections,
    ) -> Result<()> {
        let mut verification = interval(VERIFICATION);
        // Missed ticks are not made up for.
        verification.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.telemetry.heartbeat();
            let (next_retry, is_written) = (self.next_retry(), self.is_written());
            tokio::select! {
                () = stop.requested() => return Ok(()),
                update = source.next() => {
                    // Without a source the agent must not go on as if nothing changed.
                    self.run_pass(update.context("the source of objects ended")?, source);
                    stale.departed(self.index.take_departures());
                    self.pod_cidrs.check(self.index.node_info())?;
                }
                Some(epoch) = self.grace_periods.over.recv() => self.reclaim(epoch),
                Ok(()) = self.addresses.changed() => self.write_node_addresses(),
                () = name_server_changed(&mut self.name_server) => {
                    let touched = self.follow_name_server();
                    if !touched.is_empty() {
                        self.write(touched);
                    }
                }
                request = self.telemetry.object_request() => drop(request.send(Objects::of(&self.index))),
                repairs = attachment.devices_changed() => self.report_attachment(repairs, &attachment),
                progress = stale.progress() => {
                    let is_current = self.telemetry.are_slices_current();
                    self.telemetry.sockets_reset(stale.advance(progress, &self.index, is_current));
                }
                _ = verification.tick() => {
                    attachment.read_sockets();
                    let repairs = attachment.verify();
                    self.report_attachment(repairs, &attachment);
                    self.telemetry.report_unserved(&self.index);
                }
                () = sleep_until(next_retry), if !is_written => self.retry(),
            }
        }
    }

    fn report_attachment(&mut self, repairs: usize, attachment: &Attachment) {
        self.repairs += repairs;
        self.telemetry.hooks_verified(repairs, attachment.failures());
    }

    /// One pass for all changes that have arrived.
    fn run_pass(&mut self, first: Update, source: &mut Source) {
        let mut touched = BTreeSet::new();
        // Changes that arrive meanwhile wait for the next pass, so that this one ends.
        let waiting = source.waiting();
        touched.extend(self.apply_update(first));
        for update in (0..waiting).map_while(|_| source.next_now()) {
            touched.extend(self.apply_update(update));
        }
        if std::mem::take(&mut self.is_node_new) {
            touched.extend(self.follow_name_server());
        }
        touched.extend(self.retries.take(Instant::now(), &touched));
        self.write_node_addresses();
        self.write(touched);
    }

    /// The name server follows the node's networks, and the redirect to it the addresses at which it can be reached.
    /// Returns the frontends that may have changed.
    fn follow_name_server(&mut self) -> BTreeSet<FrontendKey> {
        let Self { name_server: Some(name_server), index, .. } = self else { return BTreeSet::new() };
        let addresses = name_server.follow_node(index.policy(), index.node_info(), &index.node().addresses);
        index.set_name_server_addresses(addresses)
    }

    /// Applies an update to the index. Returns the frontends that may have changed.
    fn apply_update(&mut self, update: Update) -> BTreeSet<FrontendKey> {
        self.telemetry.objects_skipped(update.skipped.len());
        update.log_skipped();
        if let Some(name_server) = &mut self.name_server {
            name_server.apply(update.names);
        }
        let mut touched = BTreeSet::new();
        for change in update.changes {
            if change == Change::Node(None) {
                // kube-proxy only logs it (rule R1). Without the node's addresses NodePorts would be served
                // at every address, and without its pod CIDRs pods would count as external.
                warn!("the Node object was deleted, keeping its last state");
                continue;
            }
            self.is_node_new |= matches!(change, Change::Node(_));
            if let (Change::Node(Some(node)), Some(name_server)) = (&change, &self.name_server) {
                name_server.set_local_networks(&node.pod_cidrs);
            }
            self.telemetry.change_received(&change, &self.index);
            touched.extend(self.index.apply(change));
        }
        touched
    }

    /// A full sync, one frontend after the other: all resolved frontends together would take more memory than
    /// everything else.
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
            // Deleted frontends are not among all.
            touched.iter().for_each(|key| self.telemetry.frontend_resolved(*key, None));
            self.retries.take_all();
            let pass = self.write_all();
            return self.finish(pass, true);
        }
        let mut changes: Vec<_> = touched.into_iter().map(|key| (key, self.index.frontend(&key))).collect();
        changes.sort_by_cached_key(|(key, _)| self.index.precedence_of(key));
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
        let (index, fill) = (&self.index, self.reconciler.fill());
        let room = |error: &MapError| self.reconciler.room(error);
        let failed = FailedPass { failed: &pass.failed, retry: pass.retry, room: &room };
        let owner = |key: &FrontendKey| index.owner(key).cloned();
        for new in self.retries.record(failed, owner, (Instant::now(), Timestamp::now())) {
            warn!(
                frontends = new.count,
                first = new.names,
                error = new.error,
                "frontends not written, will retry"
            );
        }
        self.telemetry.pass_completed(CompletedPass {
            is_full_sync,
            index: &self.index,
            unwritten: self.retries.failed(),
            unsynced: self.retries.services(),
            late: self.retries.late_families(self.reconciler.len()),
            unplaced: self.retries.unplaced(),
            local_addresses: &self.addresses.borrow(),
            frontends: self.reconciler.len(),
            fill,
        });
        // Only now: a name must not resolve to an address that is not served yet.
        if let Some(name_server) = &mut self.name_server {
            name_server.publish();
            self.telemetry.dns_published();
        }
        if let Some(epoch) = pass.grace {
            let over = self.grace_periods.sender.clone();
            spawn_blocking(move || match datapath::grace_period() {
                // The agent may have ended meanwhile.
                Ok(()) => drop(over.send(epoch)),
                Err(error) => warn!(%error, "no grace period, replaced entries stay unused"),
            });
        }
    }

    /// Frees entries after a grace period, and retries what waited for them.
    fn reclaim(&mut self, epoch: Epoch) {
        let made_room = self.reconciler.reclaim(epoch);
        if made_room && self.retries.room_appeared(Instant::now(), |error| self.reconciler.room(error)) {
            self.retry();
        }
    }

    fn retry(&mut self) {
        self.write_node_addresses();
        self.write_networks();
        let due = self.retries.take(Instant::now(), &BTreeSet::new());
        if !due.is_empty() {
            self.write(due);
        }
    }

    fn is_written(&self) -> bool {
        self.retries.is_empty() && self.are_networks_written()
    }

    fn are_networks_written(&self) -> bool {
        self.node_addresses.is_some() && self.networks.is_written()
    }

    fn next_retry(&self) -> Instant {
        let soon = Instant::now() + FIRST_DELAY;
        let due = self.retries.next_due().unwrap_or(soon);
        if self.are_networks_written() { due } else { due.min(soon) }
    }

    /// The node's addresses depend on the interfaces; their NodePorts and the pod ranges on the Node object
    /// and the flags as well.
    fn write_node_addresses(&mut self) {
        let node = self.index.node();
        let pods = if node.detect_local.is_by_interface() { PerFamily::default() } else { node.pod_range };
        let ranges = self.reconciler.maps_mut().set_pod_ranges(&pods);
        let local = self.addresses.borrow_and_update().clone();
        let reachable = local.into_iter().filter(|address| is_reachable(*address));
        let addresses: BTreeMap<IpAddr, bool> =
            reachable.map(|address| (address, node.nodeports_include(address))).collect();
        if ranges.is_ok() && self.node_addresses.as_ref() == Some(&addresses) {
            return;
        }
        let maps = self.reconciler.maps_mut();
        let result = ranges.and_then(|()| maps.set_node_addresses(&addresses));
        self.node_addresses = result.is_ok().then_some(addresses);
        self.unwritten_addresses.record("addresses of the node not written", result);
    }

    /// Updates the networks of Services: ClusterIPs follow their frontends; ServiceCIDRs are few.
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
        // Another port of the Service, or another Service, may still have the address.
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

/// Waits for ever without a name server.
async fn name_server_changed(name_server: &mut Option<NameServer>) {
    match name_server {
        Some(name_server) => name_server.changed().await,
        None => std::future::pending().await,
    }
}

/// Programs treat 127.0.0.1 as all of 127.0.0.0/8.
fn is_reachable(address: IpAddr) -> bool {
    !address.is_loopback() || [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()].contains(&address)
}
