//! Changes of the frontends' backends, with the time of each.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::{
        atomic::{Ordering, fence},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use proxy::{
    datapath::{self, KernelMaps},
    model::{
        address::Protocol,
        backend::{Backend, BackendState},
        frontend::{Frontend, FrontendAddress, FrontendKey, FrontendKind, Masquerade, View, WhenEmpty},
        service::{ServiceKey, ServicePortKey, TrafficPolicy},
    },
    reconcile::{Epoch, Reconciler},
};

use super::fixture::{self, AtomicityFixture, BACKEND_PORT, GENERATIONS};
use crate::bench::clock::now;

/// Upper limit of ready backends.
const MOST: u64 = 4;

/// A time span in which an event may have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub from: u64,
    pub until: u64,
}

/// Lifetimes of backends, and the switches between them.
#[derive(Debug, Default)]
pub struct History {
    /// When each generation may have been reached: from just before the switch to it until just after the switch
    /// away.
    pub lifetimes: Vec<Span>,
    /// In order of time.
    pub switches: Vec<Span>,
}

pub struct Changer {
    reconciler: Reconciler<KernelMaps>,
    service: ServicePortKey,
    affinity: Option<NonZeroU32>,
    random: Random,
    /// The generations that serve now.
    ready: Vec<u32>,
    history: History,
    grace_periods: GracePeriods,
}

/// A grace period takes longer than a change, so they run on a thread of their own: one for all waiting epochs.
struct GracePeriods {
    begin: mpsc::Sender<Epoch>,
    over: mpsc::Receiver<Result<Epoch, std::io::Error>>,
}

impl Changer {
    pub fn new(fixture: &AtomicityFixture, affinity: Option<NonZeroU32>, seed: u64) -> Result<Self> {
        let service = ServicePortKey {
            service: ServiceKey::new("default", "web"),
            port_name: "http".into(),
            protocol: Protocol::Tcp,
        };
        Ok(Self {
            reconciler: fixture.reconciler()?,
            service,
            affinity,
            random: Random(seed | 1),
            ready: Vec::new(),
            history: History::default(),
            grace_periods: GracePeriods::start(),
        })
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    /// Changes at a steady rate. A late change does not skip the following ones.
    pub fn change_until(&mut self, pace: Duration, is_over: impl Fn() -> bool) -> Result<()> {
        let mut next = Instant::now();
        while !is_over() {
            self.change()?;
            next += pace;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }

    /// One switch of both families: some backends stay, some are removed, some are added.
    pub fn change(&mut self) -> Result<()> {
        self.reclaim()?;
        let (gone, come) = self.choose();
        ensure!(self.history.lifetimes.len() < GENERATIONS as usize, "no addresses are left");
        let changes = self.frontends();
        let switch = self.apply(changes)?;
        for generation in gone {
            self.history.lifetimes[generation as usize].until = switch.until;
        }
        self.history.lifetimes.extend((0..come).map(|_| Span { from: switch.from, until: u64::MAX }));
        self.history.switches.push(switch);
        Ok(())
    }

    /// Chooses the backends from now on. Returns the removed generations and the number of added ones.
    fn choose(&mut self) -> (Vec<u32>, u32) {
        let before = self.ready.len() as u64;
        let staying = self.random.below(before.min(MOST - 1) + 1);
        let room = MOST - staying;
        let changes_nothing = staying == before;
        let coming = if staying == 0 || changes_nothing {
            1 + self.random.below(room)
        } else {
            self.random.below(room + 1)
        };
        let mut gone = Vec::new();
        while self.ready.len() as u64 > staying {
            let at = self.random.below(self.ready.len() as u64);
            gone.push(self.ready.swap_remove(at as usize));
        }
        let (first, coming) = (self.history.lifetimes.len() as u32, coming as u32);
        self.ready.extend(first..first + coming);
        (gone, coming)
    }

    fn apply(&mut self, changes: [(FrontendKey, Option<Frontend>); 2]) -> Result<Span> {
        let from = now();
        let pass = self.reconciler.apply(changes);
        // The switch is a store. After the fence it has left this CPU, whichever clock instruction is used.
        fence(Ordering::SeqCst);
        let until = now();
        if let Some((key, error)) = pass.failed.into_iter().next() {
            return Err(error).with_context(|| format!("cannot change {key}"));
        }
        if let Some(epoch) = pass.grace {
            self.grace_periods.begin.send(epoch).context("the thread of grace periods has ended")?;
        }
        Ok(Span { from, until })
    }

    fn reclaim(&mut self) -> Result<()> {
        while let Ok(over) = self.grace_periods.over.try_recv() {
            self.reconciler.reclaim(over.context("no grace period")?);
        }
        Ok(())
    }

    fn frontends(&self) -> [(FrontendKey, Option<Frontend>); 2] {
        let addresses = self.ready.iter().map(|generation| fixture::backends(*generation));
        let (v4, v6): (Vec<_>, Vec<_>) = addresses.map(|[v4, v6]| (v4, v6)).unzip();
        let [vip4, vip6] = fixture::vips();
        [self.frontend(vip4, &v4), self.frontend(vip6, &v6)]
    }

    fn frontend(&self, vip: SocketAddr, backends: &[IpAddr]) -> (FrontendKey, Option<Frontend>) {
        let key =
            FrontendKey { address: FrontendAddress::Ip(vip.ip()), port: vip.port(), protocol: Protocol::Tcp };
        let backends: Vec<_> =
            backends.iter().map(|ip| backend(SocketAddr::new(*ip, BACKEND_PORT))).collect();
        let view = View::new(backends.clone(), WhenEmpty::Reject);
        let frontend = Frontend {
            key,
            kind: FrontendKind::ClusterIp,
            service: self.service.clone(),
            policy: TrafficPolicy::Cluster,
            internal: view.clone(),
            external: view,
            served_here: None,
            serving: backends,
            masquerade: Masquerade::Never,
            affinity: self.affinity,
            source_ranges: Vec::new(),
            extra_sources: Vec::new(),
        };
        (key, Some(frontend))
    }
}

fn backend(address: SocketAddr) -> Backend {
    Backend { address, is_local: true, state: BackendState::Ready }
}

impl GracePeriods {
    fn start() -> Self {
        let (begin, epochs) = mpsc::channel::<Epoch>();
        let (end, over) = mpsc::channel();
        // Ends with the changer, which holds both other ends.
        thread::spawn(move || {
            while let Ok(epoch) = epochs.recv() {
                let latest = epochs.try_iter().last().unwrap_or(epoch);
                if end.send(datapath::grace_period().map(|()| latest)).is_err() {
                    return;
                }
            }
        });
        Self { begin, over }
    }
}

/// A xorshift generator: a seed repeats a run's choices.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
