//! The loop in which changes become maps.
//!
//! changes → index → touched frontends → reconciler → maps. Whatever has arrived while a pass ran is the next pass.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{Instant, interval, sleep},
};
use tracing::{debug, info, warn};

use super::{
    attachment::Attachment,
    names::Names,
    source::Source,
    stop::Stop,
    witness::{After, Witness},
};
use crate::{
    datapath::{self, KernelMaps, Pins},
    error::chain,
    index::Index,
    model::{
        frontend::{Frontend, FrontendKey, WhenEmpty},
        policy::Policy,
    },
    reconcile::{Epoch, MapError, Pass, Reconciler},
    update::Update,
};

/// What could not be written is tried again after this time, or as soon as something was freed.
const RETRY: Duration = Duration::from_secs(1);
/// How often the kernel is asked whether the programs are where they should be.
const VERIFICATION: Duration = Duration::from_secs(10);

/// The index and the maps that follow it.
pub struct Agent {
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
    /// None: somebody else answers names.
    names: Option<Names>,
    graces: Graces,
    /// Hooks that were found without our program since the start.
    repairs: usize,
    witness: Witness,
}

/// Grace periods take milliseconds, so they pass on another thread.
struct Graces {
    sender: mpsc::UnboundedSender<Epoch>,
    over: mpsc::UnboundedReceiver<Epoch>,
}

impl Agent {
    pub fn adopt(
        pins: &Pins,
        policy: Policy,
        addresses: watch::Receiver<BTreeSet<IpAddr>>,
        names: Option<Names>,
        witness: Witness,
    ) -> Result<Self> {
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
            names,
            graces: Graces { sender, over },
            repairs: 0,
            witness,
        })
    }

    /// How many frontends are published.
    pub fn frontends(&self) -> usize {
        self.reconciler.len()
    }

    pub fn repairs(&self) -> usize {
        self.repairs
    }

    pub fn serve_names(&mut self) -> Result<()> {
        self.names.as_mut().map_or(Ok(()), Names::serve)
    }

    /// Answers what was asked, and leaves the maps as they are.
    pub async fn end(self) {
        if let Some(names) = self.names {
            names.stop().await;
        }
    }

    /// Nothing is written before everything was read. What was not named by then goes, unless it has come since: an
    /// agent that waited for another one begins with the present.
    pub async fn start(&mut self, source: &mut Source) -> Result<()> {
        let mut is_synced = false;
        while !is_synced {
            let update =
                source.next().await.context("the source of objects ended before everything was read")?;
            is_synced = update.is_synced;
            self.take_in(update);
        }
        while let Some(update) = source.next_now() {
            self.take_in(update);
        }
        let began = Instant::now();
        self.write_node_addresses();
        let Self { index, reconciler, witness, refused, .. } = self;
        witness.queued(index.frontend_keys());
        // One after the other: all of them together would weigh more than everything else.
        let wanted =
            index.frontends().inspect(|frontend| look_at(witness, refused, frontend.key, Some(frontend)));
        let pass = reconciler.apply_all(wanted);
        info!(
            frontends = self.frontends(),
            programming_ms = began.elapsed().as_secs_f64() * 1e3,
            "programmed"
        );
        self.finish(pass, true);
        Ok(())
    }

    pub async fn follow(&mut self, source: &mut Source, stop: &mut Stop, mut attachment: Attachment) {
        let mut verification = interval(VERIFICATION);
        loop {
            tokio::select! {
                () = stop.requested() => return,
                Some(update) = source.next() => self.absorb(update, source),
                Some(epoch) = self.graces.over.recv() => self.reclaim(epoch),
                Ok(()) = self.addresses.changed() => self.write_node_addresses(),
                repairs = attachment.devices_changed() => self.note_repairs(repairs),
                _ = verification.tick() => self.note_repairs(attachment.verify()),
                () = sleep(RETRY), if !self.unwritten.is_empty() || self.serving.is_none() => self.retry(),
            }
        }
    }

    fn note_repairs(&mut self, repairs: usize) {
        self.repairs += repairs;
        self.witness.repaired(repairs);
    }

    /// One pass for everything that has arrived.
    fn absorb(&mut self, first: Update, source: &mut Source) {
        let mut touched = std::mem::take(&mut self.unwritten);
        let mut next = Some(first);
        while let Some(update) = next {
            touched.extend(self.take_in(update));
            next = source.next_now();
        }
        self.write_node_addresses();
        self.write(touched);
    }

    /// Puts an update into the index; the frontends that may look different now.
    fn take_in(&mut self, update: Update) -> BTreeSet<FrontendKey> {
        self.witness.skipped(update.skipped.len());
        for skipped in &update.skipped {
            warn!(object = skipped.object, reason = skipped.reason, "object skipped");
        }
        if let Some(names) = &mut self.names {
            names.take_in(update.names);
        }
        let mut touched = BTreeSet::new();
        for change in update.changes {
            self.witness.came(&change, &self.index);
            touched.extend(self.index.apply(change));
        }
        touched
    }

    fn write(&mut self, touched: BTreeSet<FrontendKey>) {
        let changes: Vec<_> = touched.into_iter().map(|key| (key, self.index.frontend(&key))).collect();
        self.witness.queued(changes.iter().map(|(key, _)| key));
        for (key, wanted) in &changes {
            look_at(&mut self.witness, &mut self.refused, *key, wanted.as_ref());
        }
        let pass = self.reconciler.apply(changes);
        self.finish(pass, false);
    }

    fn finish(&mut self, pass: Pass, is_full: bool) {
        debug!(changed = pass.changed, failed = pass.failed.len(), "pass");
        for (key, error) in pass.failed.iter().filter(|(key, _)| !self.complained.contains(key)) {
            warn!(frontend = %key, error = %chain(&**error), "frontend not written, will retry");
        }
        self.is_full = pass.failed.iter().any(|(_, error)| matches!(**error, MapError::Full { .. }));
        self.complained = pass.failed.into_iter().map(|(key, _)| key).collect();
        self.unwritten.extend(pass.retry);
        self.witness.passed(After {
            is_full,
            index: &self.index,
            unwritten: &self.unwritten,
            local_addresses: &self.addresses.borrow(),
            frontends: self.reconciler.len(),
            fill: self.reconciler.fill(),
        });
        // Not before: a name must not lead to an address that nothing serves yet.
        if let Some(names) = &mut self.names {
            names.publish();
        }
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
}

fn look_at(
    witness: &mut Witness,
    refused: &mut HashSet<FrontendKey>,
    key: FrontendKey,
    wanted: Option<&Frontend>,
) {
    witness.looked_at(key, wanted);
    let Some((frontend, why)) = wanted.and_then(|frontend| Some((frontend, refusal(frontend)?))) else {
        refused.remove(&key);
        return;
    };
    if refused.insert(key) {
        warn!(frontend = %key, service = %frontend.service, why, "frontend refused at the socket");
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
