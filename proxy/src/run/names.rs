//! Names that are answered: what objects mean to DNS, joined, and published when the data plane is as far.
//!
//! The server has threads of its own, so that the agent's loop and the queries do not wait for each other. Until the first
//! snapshot is published it answers SERVFAIL for the cluster's names: what is not known yet may well exist.

use std::{
    iter,
    os::fd::RawFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use dns::{
    cluster::{
        snapshot::{Index, Published},
        zone::{Change, ServiceKey, ServiceKind},
    },
    observe::heartbeat::Heartbeat,
    serve::{
        socket_observer::SocketObserver,
        supervisor::{Setup, Supervisor},
    },
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
    time::{sleep, timeout},
};
use tracing::{debug, error, info};

use super::{ready::notify_ready, source::Source, stop::Stop};
use crate::{
    config::{DnsConfig, Objects},
    datapath::{DnsRedirect, Heartbeats, NameServerError},
    error::chain,
    k8s::reader::Reader,
    observe::query_source::QuerySource,
};

/// How long an agent that was enabled to end answers on for one that takes over.
const HANDOVER: Duration = Duration::from_secs(20);
/// How long what clients are led here by is waited for before it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is looked whether that one has.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

pub struct Names {
    index: Index,
    published: Arc<Published>,
    /// Of what was published last.
    serial: u32,
    /// Something was taken in since.
    is_behind: bool,
    /// Whose endpoints changed since, and when that triggered, where their slices say so.
    triggered: Vec<(ServiceKey, SystemTime)>,
    started: SystemTime,
    config: DnsConfig,
    /// The server and its threads, once it serves.
    serving: Option<(Supervisor, Threads)>,
    /// What tells the programs that it does; none where there are no programs.
    heartbeats: Option<Heartbeats>,
    redirect: Arc<Redirect>,
}

/// What stands for the server of the moment. A changed Corefile makes another one, whose sockets are held from then on.
#[derive(Default)]
struct Redirect(Mutex<RedirectState>);

#[derive(Default)]
struct RedirectState {
    /// Of the server.
    sockets: Vec<RawFd>,
    /// Where the programs look, while they may lead clients here.
    maps: Option<PathBuf>,
    registration: Option<DnsRedirect>,
}

impl Redirect {
    fn set_sockets(&self, sockets: &[RawFd]) -> Result<(), NameServerError> {
        let mut state = self.state();
        state.sockets = sockets.to_vec();
        state.renew()
    }

    /// Clients go elsewhere until this has handed_over. Goes on until it has, or nobody has use for it any more.
    async fn retry(redirect: Weak<Self>) {
        loop {
            sleep(RETRY).await;
            let Some(redirect) = redirect.upgrade() else { return };
            let mut state = redirect.state();
            if state.registration.is_some() || state.maps.is_none() {
                return;
            }
            match state.renew() {
                Ok(()) => return info!("clients are led to the names that are answered here again"),
                Err(error) => debug!(error = %chain(&error), "clients are not led here yet"),
            }
        }
    }

    fn enable(&self, maps: &Path) -> Result<(), NameServerError> {
        let mut state = self.state();
        state.maps = Some(maps.to_owned());
        state.renew()
    }

    fn disable(&self) {
        *self.state() = RedirectState::default();
    }

    fn state(&self) -> MutexGuard<'_, RedirectState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RedirectState {
    /// The old one goes once the new one is there, and in any case: it holds sockets that are about to be closed.
    fn renew(&mut self) -> Result<(), NameServerError> {
        let Some(maps) = &self.maps else { return Ok(()) };
        let new = DnsRedirect::enable(maps, &self.sockets);
        self.registration = None;
        self.registration = Some(new?);
        Ok(())
    }
}

/// What answers runs on. A runtime that is merely dropped waits for its threads, which inside of another one is a panic:
/// whoever fails to start, or is enabled to end before it has, would end by that.
struct Threads(Option<Runtime>);

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Names {
    pub fn new(config: DnsConfig) -> Self {
        Self {
            index: Index::new(&config.read_options()),
            published: Arc::default(),
            serial: 0,
            is_behind: true,
            triggered: Vec::new(),
            started: SystemTime::now(),
            config,
            serving: None,
            heartbeats: None,
            redirect: Arc::default(),
        }
    }

    /// From when on the programs are enabled, too.
    pub fn set_heartbeats(&mut self, heartbeats: Heartbeats) {
        self.heartbeats = Some(heartbeats);
    }

    /// Lets the programs lead clients here. What is answered must be published by now.
    pub fn redirect_clients(&mut self, maps: &Path) -> Result<QuerySource> {
        let metrics = Arc::clone(self.serve()?.metrics());
        self.redirect.enable(maps)?;
        Ok(QuerySource { metrics, published: Arc::clone(&self.published) })
    }

    /// Begins to answer, if it has not begun yet.
    pub fn serve(&mut self) -> Result<&Supervisor> {
        let serving = match self.serving.take() {
            Some(serving) => serving,
            None => self.start()?,
        };
        let (supervisor, _) = self.serving.insert(serving);
        Ok(supervisor)
    }

    fn start(&self) -> Result<(Supervisor, Threads)> {
        let runtime = Builder::new_multi_thread().thread_name("dns").enable_all().build()?;
        let inside = runtime.handle().clone();
        let threads = Threads(Some(runtime));
        let supervisor = {
            let _inside = inside.enter();
            let DnsConfig(setup) = self.config.clone();
            let heartbeat = self
                .heartbeats
                .clone()
                .map(|heartbeats| Heartbeat::new(move |age| heartbeats.record_serving(age)));
            let redirect = Arc::downgrade(&self.redirect);
            let socket_observer = SocketObserver::new(move |sockets| {
                let enabled = redirect.upgrade().map_or(Ok(()), |redirect| redirect.set_sockets(sockets));
                if let Err(error) = enabled {
                    error!(error = %chain(&error), "clients are not led to the names that are answered here");
                    tokio::spawn(Redirect::retry(Weak::clone(&redirect)));
                }
            });
            let setup = Setup { heartbeat: heartbeat.unwrap_or_default(), socket_observer, ..setup };
            Supervisor::start(setup, self.published.clone())?
        };
        Ok((supervisor, threads))
    }

    pub fn apply(&mut self, changes: Vec<Change>) {
        self.is_behind |= !changes.is_empty();
        for change in changes {
            self.note(&change);
            self.index.apply(change);
        }
    }

    /// What was so before we began is not late.
    fn note(&mut self, change: &Change) {
        let Change::Slice(_, Some(slice)) = change else { return };
        let triggered = slice.triggered.filter(|triggered| *triggered > self.started);
        self.triggered.extend(triggered.map(|triggered| (slice.service.clone(), triggered)));
    }

    /// From now on answers are made of everything that was taken in.
    pub fn publish(&mut self) {
        if !std::mem::take(&mut self.is_behind) {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // The time, so that it grows from one agent to the next; two changes in a second still differ.
        self.serial = self.serial.saturating_add(1).max(u32::try_from(now).unwrap_or(u32::MAX));
        self.published.publish(self.index.snapshot(self.serial));
        debug!(serial = self.serial, "names published");
        self.observe();
    }

    /// How long it took until answers show what triggered.
    fn observe(&mut self) {
        let now = SystemTime::now();
        for (service, triggered) in self.triggered.drain(..) {
            let kind = match self.index.service(&service).map(|service| (&service.kind, service.has_selector))
            {
                Some((ServiceKind::ClusterIp { .. }, _)) => "cluster_ip",
                Some((ServiceKind::Headless, true)) => "headless_with_selector",
                Some(_) | None => continue,
            };
            if let Some((live, _)) = &self.serving {
                live.metrics().programmed(kind, now.duration_since(triggered).unwrap_or_default());
            }
        }
    }

    /// Says so first, then answers what was asked, and no more. Goes on while an agent is about to take over.
    pub async fn stop(self) {
        if let Some(heartbeats) = &self.heartbeats {
            let _ = timeout(HANDOVER, handed_over(heartbeats)).await;
        }
        // Clients go elsewhere from here on; those that are here already are answered.
        self.redirect.disable();
        if let Some((live, threads)) = self.serving {
            live.stop().await;
            drop(threads);
        }
    }
}

/// Until nobody waits any more: then somebody else answers, or nobody will.
async fn handed_over(heartbeats: &Heartbeats) {
    while heartbeats.has_successor() {
        sleep(POLL_INTERVAL).await;
    }
}

/// Only the DNS server, until SIGTERM or SIGINT.
pub async fn run(objects: Objects, config: DnsConfig) -> Result<()> {
    // Nothing beside the server answers for it, so nothing of that can fail.
    let (_sender, fatal) = mpsc::unbounded_channel();
    let mut stop = Stop::new(None, fatal)?;
    let reader = Reader { node_name: String::new(), dns: Some(config.read_options()) };
    let mut names = Names::new(config);
    names.serve()?;
    let followed = tokio::select! {
        followed = follow(&mut names, objects, reader) => followed,
        () = stop.requested() => Ok(()),
    };
    names.stop().await;
    followed?;
    stop.result()
}

async fn follow(names: &mut Names, objects: Objects, reader: Reader) -> Result<()> {
    let mut source = Source::new(objects, reader).await?;
    let mut is_synced = false;
    loop {
        let first = source.next().await.context("the source of objects ended")?;
        let was_synced = is_synced;
        // What comes while these are taken in waits for the next snapshot, however much it is.
        let waiting = source.waiting();
        for update in iter::once(first).chain((0..waiting).map_while(|_| source.next_now())) {
            is_synced |= update.is_synced;
            update.log_skipped();
            names.apply(update.names);
        }
        if is_synced {
            names.publish();
        }
        if is_synced && !was_synced {
            info!("ready");
            notify_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

    use dns::{cluster::name, observe::health::HttpEndpoints, plugins::Config};

    use super::*;

    fn at(address: SocketAddr) -> Names {
        let config = Config::shipped(&name::domain("cluster.local").unwrap());
        let (corefile, listen) = (None, vec![address]);
        let (endpoints, heartbeat, socket_observer) =
            (HttpEndpoints::default(), Heartbeat::default(), SocketObserver::default());
        Names::new(DnsConfig(Setup { config, corefile, listen, endpoints, heartbeat, socket_observer }))
    }

    #[tokio::test]
    async fn an_end_before_all_is_known_is_no_panic() {
        let mut names = at((Ipv4Addr::LOCALHOST, 0).into());
        names.serve().unwrap();
        drop(names);
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_an_error_and_no_panic() {
        let others = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let error = at(others.local_addr().unwrap()).serve().unwrap_err();
        assert!(error.to_string().contains("listen"), "{error:#}");
    }
}
