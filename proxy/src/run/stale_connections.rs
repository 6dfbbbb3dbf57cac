//! Ends connections of sockets to pods that are gone for good, which would otherwise hang until the kernel gives them up.
//!
//! ```text
//! departure -> grace -> list -> in no slice ───> dial -> silent ──> reset
//!                         │                        └───> answers -> probe
//!                         └───> another pod's now ────────────────> probe
//! ```
//!
//! Invariant: a connection is reset only if its endpoint is in no slice and nothing answers at its address. A pod that lost its
//! label, or whose Service was deleted, keeps its connections. A probe leaves the decision to the one that has the address.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio::{
    net::TcpStream,
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, info};

use crate::{
    config::Switch,
    datapath::{EndOfConnection, Listed, Network, OpenSockets, Programs, Towards, device_towards},
    index::{Departure, Index},
    model::backend::PodIdentity,
};

/// From the departure of an endpoint to the decision. Outlives its move to another slice, and a Service that is made anew.
const GRACE: Duration = Duration::from_secs(2);
/// The time for an answer. A SYN that was lost is sent again after a second.
const ANSWER: Duration = Duration::from_millis(1500);
/// Endpoints that are dialled at a time.
const WIDTH: usize = 256;
/// Endpoints that are decided in one pass; the next one follows at once.
const ENDPOINTS: usize = 1024;
/// Segments of one pass, so that no CPU is busy with them for long.
const SEGMENTS: usize = 10_000;
/// The time in which the node has delivered the segments.
const DELIVERY: Duration = Duration::from_millis(100);
/// Between passes that end connections or find new departures; what stays is looked at ever later.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

pub struct StaleConnections {
    /// `None`: the kernel has no such iterator, or connections are to be left alone.
    sockets: Option<Arc<OpenSockets>>,
    network: watch::Receiver<Network>,
    /// Until their grace ends.
    departures: BTreeMap<IpAddr, Departed>,
    /// The time of the next pass without a departure.
    next: Option<Instant>,
    pause: Duration,
    not_before: Instant,
    task: Option<JoinHandle<io::Result<Progress>>>,
}

#[derive(Clone, Copy, Debug)]
struct Departed {
    pod: PodIdentity,
    due: Instant,
}

/// What the loop is told; it has the index.
#[derive(Debug)]
pub enum Progress {
    Due,
    /// Backends with connections: removed ones, and those whose address was handed over.
    Listed {
        stale: BTreeMap<SocketAddr, usize>,
        handed_over: BTreeSet<SocketAddr>,
    },
    /// Which of the backends that are in no slice answer.
    Dialled {
        answers: BTreeMap<SocketAddr, bool>,
        handed_over: BTreeSet<SocketAddr>,
    },
    Ended(Outcome),
    Failed,
}

/// The result of a pass.
#[derive(Debug)]
pub struct Outcome {
    /// Connections that were reset, and those that should have been.
    reset: usize,
    left: usize,
    /// Of endpoints that are in no slice and answer.
    answered: usize,
}

impl StaleConnections {
    pub fn new(programs: &mut Programs, resets: Switch, network: watch::Receiver<Network>) -> Self {
        let now = Instant::now();
        let sockets = programs.take_open_sockets().filter(|_| resets == Switch::On);
        Self {
            sockets: sockets.map(Arc::new),
            network,
            departures: BTreeMap::new(),
            // Pods may have gone while there was no agent.
            next: Some(now + GRACE),
            pause: PAUSE,
            not_before: now,
            task: None,
        }
    }

    /// Endpoints have left their slices.
    pub fn departed(&mut self, departures: Vec<Departure>) {
        if self.sockets.is_none() {
            return;
        }
        let due = Instant::now() + GRACE;
        for Departure { address, pod } in departures {
            self.departures.insert(address, Departed { pod, due });
        }
    }

    /// The next step. Pending while there is nothing to do.
    pub async fn progress(&mut self) -> Progress {
        let Some(task) = &mut self.task else {
            let departure = self.departures.values().map(|departed| departed.due).min();
            match (departure.into_iter().chain(self.next).min(), &self.sockets) {
                (Some(due), Some(_)) => sleep_until(due.max(self.not_before)).await,
                _ => std::future::pending().await,
            }
            return Progress::Due;
        };
        let progress = task.await;
        self.task = None;
        match progress {
            Ok(Ok(progress)) => progress,
            Ok(Err(error)) => {
                debug!(%error, "sockets of stale connections were not all read");
                Progress::Failed
            }
            Err(error) => {
                debug!(%error, "the search for stale connections was ended");
                Progress::Failed
            }
        }
    }

    /// Goes on. `is_current`: the index is as the source has it. Returns the connections that were reset.
    pub fn advance(&mut self, progress: Progress, index: &Index, is_current: bool) -> usize {
        let Some(sockets) = self.sockets.clone() else { return 0 };
        match progress {
            Progress::Due | Progress::Listed { .. } | Progress::Dialled { .. } if !is_current => {
                self.not_before = Instant::now() + PAUSE;
                self.later(PAUSE);
            }
            Progress::Due => self.list(sockets, index),
            Progress::Listed { stale, handed_over } => self.dial(stale, handed_over, index),
            Progress::Dialled { answers, handed_over } => self.end(sockets, answers, handed_over, index),
            Progress::Ended(outcome) => return self.ended(&outcome),
            Progress::Failed => self.later(self.longer_pause()),
        }
        0
    }

    /// Lists the stale connections, and those to addresses that were handed over to other pods.
    fn list(&mut self, sockets: Arc<OpenSockets>, index: &Index) {
        let now = Instant::now();
        let due: BTreeMap<_, _> = self.departures.extract_if(.., |_, departed| departed.due <= now).collect();
        if !due.is_empty() {
            self.pause = PAUSE;
        }
        self.next = None;
        self.not_before = now + PAUSE;
        let pods = index.pods_at(&due.keys().copied().collect());
        let is_others =
            |address: &IpAddr, old: &Departed| pods.get(address).is_some_and(|pods| !pods.contains(&old.pod));
        let taken: BTreeSet<IpAddr> = due
            .iter()
            .filter(|(address, old)| is_others(address, old))
            .map(|(address, _)| *address)
            .collect();
        self.task = Some(spawn_blocking(move || {
            let stale = sockets.count(Listed::Stale)?;
            let mut handed_over = BTreeSet::new();
            if !taken.is_empty() {
                let all = sockets.count(Listed::All)?.into_keys();
                handed_over.extend(all.filter(|backend| taken.contains(&backend.ip())));
            }
            Ok(Progress::Listed { stale, handed_over })
        }));
    }

    /// Dials the backends that are in no slice.
    fn dial(&mut self, stale: BTreeMap<SocketAddr, usize>, handed_over: BTreeSet<SocketAddr>, index: &Index) {
        let mut gone = self.absent(stale.into_keys().collect(), index);
        if gone.len() > ENDPOINTS {
            gone.truncate(ENDPOINTS);
            self.later(PAUSE);
        }
        if gone.is_empty() && handed_over.is_empty() {
            return;
        }
        self.task = Some(tokio::spawn(async move {
            let dialled = stream::iter(gone).map(async |backend| (backend, answers(backend).await));
            let answers = dialled.buffer_unordered(WIDTH).collect().await;
            Ok(Progress::Dialled { answers, handed_over })
        }));
    }

    /// Of these, the backends that are in no slice and whose grace is over.
    fn absent(&self, backends: Vec<SocketAddr>, index: &Index) -> Vec<SocketAddr> {
        let pods = index.pods_at(&backends.iter().map(SocketAddr::ip).collect());
        let is_gone = |backend: &SocketAddr| {
            !pods.contains_key(&backend.ip()) && !self.departures.contains_key(&backend.ip())
        };
        backends.into_iter().filter(is_gone).collect()
    }

    /// Sends the segments, unless an endpoint came back meanwhile.
    fn end(
        &mut self,
        sockets: Arc<OpenSockets>,
        answers: BTreeMap<SocketAddr, bool>,
        handed_over: BTreeSet<SocketAddr>,
        index: &Index,
    ) {
        let gone = self.absent(answers.keys().copied().collect(), index);
        let end_of = |backend: SocketAddr| {
            let does_answer = answers.get(&backend) == Some(&true);
            (backend, if does_answer { EndOfConnection::Probe } else { EndOfConnection::Reset })
        };
        let stale = gone.into_iter().map(end_of).collect();
        let taken = handed_over.into_iter().map(|backend| (backend, EndOfConnection::Probe)).collect();
        let network = self.network.borrow().clone();
        self.task = Some(tokio::spawn(async move {
            let (stale, taken) = (towards(stale, &network).await, towards(taken, &network).await);
            let outcome = end(sockets, stale, taken).await?;
            Ok(Progress::Ended(outcome))
        }));
    }

    fn ended(&mut self, outcome: &Outcome) -> usize {
        let Outcome { reset, left, answered } = *outcome;
        if reset > 0 {
            info!(connections = reset, "reset connections to pods that are gone");
            self.pause = PAUSE;
        }
        if left > 0 || answered > 0 {
            debug!(left, answered, "stale connections are still open");
            self.later(self.pause);
            self.pause = self.longer_pause();
        } else if reset > 0 {
            // What an iterator has missed.
            self.later(PAUSE);
        }
        reset
    }

    fn longer_pause(&self) -> Duration {
        (2 * self.pause).min(LONGEST_PAUSE)
    }

    fn later(&mut self, pause: Duration) {
        let due = Instant::now() + pause;
        self.next = Some(self.next.map_or(due, |next| next.min(due)));
    }
}

/// Whether anything accepts or refuses a connection. Without an answer the address has no pod, or one that no packet reaches.
async fn answers(backend: SocketAddr) -> bool {
    match timeout(ANSWER, TcpStream::connect(backend)).await {
        Err(_) => false,
        // Any other error may be this node's own.
        Ok(connected) => connected.err().is_none_or(|error| {
            let kind = error.kind();
            ![io::ErrorKind::TimedOut, io::ErrorKind::HostUnreachable, io::ErrorKind::NetworkUnreachable]
                .contains(&kind)
        }),
    }
}

/// The devices towards backends: a packet from there that another device received would be dropped where rp_filter is strict.
async fn towards(
    ends: BTreeMap<SocketAddr, EndOfConnection>,
    network: &Network,
) -> BTreeMap<SocketAddr, Towards> {
    let mut devices: BTreeMap<IpAddr, Option<u32>> = BTreeMap::new();
    let mut towards = BTreeMap::new();
    for (backend, end) in ends {
        let device = if let Some(known) = devices.get(&backend.ip()) {
            *known
        } else {
            // A route to nowhere, as some network plugins have for the addresses of pods that are gone.
            let route = device_towards(backend.ip()).await.ok().flatten();
            let device = route.or_else(|| network.default_routes.first().copied());
            *devices.entry(backend.ip()).or_insert(device)
        };
        let link = device.and_then(|device| network.links.iter().find(|link| link.index == device));
        if let Some(link) = link {
            let address = link.address.unwrap_or_default();
            towards.insert(backend, Towards { end, device: link.index, address });
        }
    }
    towards
}

async fn end(
    sockets: Arc<OpenSockets>,
    stale: BTreeMap<SocketAddr, Towards>,
    taken: BTreeMap<SocketAddr, Towards>,
) -> io::Result<Outcome> {
    let count = move |sockets: &OpenSockets, stale: &BTreeMap<SocketAddr, Towards>, end| {
        let counts = sockets.count(Listed::Stale)?;
        let is_ours = |(backend, _): &(&SocketAddr, &usize)| {
            stale.get(backend).is_some_and(|towards| towards.end == end)
        };
        io::Result::Ok(counts.iter().filter(is_ours).map(|(_, count)| count).sum::<usize>())
    };
    let (sockets, stale, before) = blocking(move || {
        let before = count(&sockets, &stale, EndOfConnection::Reset)?;
        sockets.send(Listed::Stale, &stale, SEGMENTS)?;
        if !taken.is_empty() {
            sockets.send(Listed::All, &taken, SEGMENTS)?;
        }
        Ok((sockets, stale, before))
    })
    .await?;
    sleep(DELIVERY).await;
    blocking(move || {
        let left = count(&sockets, &stale, EndOfConnection::Reset)?;
        let answered = count(&sockets, &stale, EndOfConnection::Probe)?;
        Ok(Outcome { reset: before.saturating_sub(left), left, answered })
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}
