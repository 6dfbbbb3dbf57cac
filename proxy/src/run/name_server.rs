//! The agent's DNS server: DNS data of the objects, joined, and published when the data plane includes them.
//!
//! The server has threads of its own, so that the agent's loop and the queries do not wait for each other.
//! Before the first snapshot it answers SERVFAIL for the cluster's zones: a name that is not known yet may
//! exist.

use std::{
    iter,
    net::{IpAddr, SocketAddr},
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
        node_addresses::NodeAddresses,
        socket_observer::SocketObserver,
        supervisor::{Setup, Supervisor},
    },
};
use ipnetwork::IpNetwork;
use tokio::{
    runtime::{Builder, Runtime},
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tracing::{debug, error, info};

use super::{local_networks::LocalNetworks, ready::notify_ready, source::Source, stop::Stop};
use crate::{
    config::{DnsConfig, Objects},
    datapath::{DnsRedirect, Heartbeats, NameServerError},
    error::chain,
    k8s::reader::Reader,
    model::{node::NodeInfo, policy::Policy},
    observe::query_source::QuerySource,
    source_state::SourceState,
};

/// How long an agent that was told to end keeps answering for a successor.
const HANDOVER: Duration = Duration::from_secs(20);
/// The delay before a failed redirect is retried.
const RETRY: Duration = Duration::from_secs(1);
/// Polls of tasks before busy threads look for replies of upstreams, other sockets and timers: a poll handles up to a
/// hundred requests, and by default there are 61.
const EVENT_INTERVAL: u32 = 4;
/// How often the successor's heartbeat is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

pub struct NameServer {
    index: Index,
    published: Arc<Published>,
    /// The serial of the last snapshot.
    serial: u32,
    /// Changes are not published yet.
    is_behind: bool,
    /// Services with changed endpoints, and the trigger time of their slices.
    triggered: Vec<(ServiceKey, SystemTime)>,
    started: SystemTime,
    config: DnsConfig,
    /// The running server and its threads.
    serving: Option<(Supervisor, Threads)>,
    /// The heartbeat that programs read; `None` without programs.
    heartbeats: Option<Heartbeats>,
    redirect: Arc<Redirect>,
    /// The addresses of the sockets; `None`: no server has started yet.
    bound: watch::Sender<Option<Vec<SocketAddr>>>,
    bound_changes: watch::Receiver<Option<Vec<SocketAddr>>>,
    /// `None` without an agent.
    node: Option<NodeState>,
}

/// What the server of an agent depends on.
struct NodeState {
    local: LocalNetworks,
    /// The addresses at which the server listens by default.
    primary: watch::Sender<Vec<IpAddr>>,
}

/// The redirect to the present server. A changed Corefile creates another server, whose sockets it then
/// holds.
#[derive(Default)]
struct Redirect(Mutex<RedirectState>);

#[derive(Default)]
struct RedirectState {
    /// The server's sockets.
    sockets: Vec<RawFd>,
    /// The map directory, while clients may be redirected here.
    maps: Option<PathBuf>,
    registration: Option<DnsRedirect>,
}

impl Redirect {
    fn set_sockets(&self, sockets: &[RawFd]) -> Result<(), NameServerError> {
        let mut state = self.state();
        state.sockets = sockets.to_vec();
        state.renew()
    }

    /// Retries until the redirect works or is not needed. Clients use other servers until then.
    async fn retry(redirect: Weak<Self>) {
        loop {
            sleep(RETRY).await;
            let Some(redirect) = redirect.upgrade() else { return };
            let mut state = redirect.state();
            if state.registration.is_some() || state.maps.is_none() {
                return;
            }
            match state.renew() {
                Ok(()) => return info!("clients are redirected to this name server again"),
                Err(error) => {
                    debug!(error = %chain(&error), "clients are not redirected to this name server yet")
                }
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
    /// Replaces the registration. The old one is dropped after the new one was tried, and also after a
    /// failure: it holds sockets that are about to be closed.
    fn renew(&mut self) -> Result<(), NameServerError> {
        let Some(maps) = &self.maps else { return Ok(()) };
        if self.sockets.is_empty() {
            // No address could be bound: clients use other servers until one can.
            self.registration = None;
            return Ok(());
        }
        let new = DnsRedirect::enable(maps, &self.sockets);
        self.registration = None;
        self.registration = Some(new?);
        Ok(())
    }
}

/// The server's runtime. Dropping a runtime waits for its threads, which panics inside another runtime, as
/// when the start fails or is aborted.
struct Threads(Option<Runtime>);

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl NameServer {
    /// The server of an agent.
    pub fn of_agent(mut config: DnsConfig, policy: &Policy, local: LocalNetworks) -> Self {
        let (primary, addresses) = watch::channel(local.primary_addresses(&policy.node_addresses));
        config.setup.node_addresses = NodeAddresses::new(addresses);
        config.setup.admitted.set(local.clients(policy, None));
        Self { node: Some(NodeState { local, primary }), ..Self::new(config) }
    }

    pub fn new(config: DnsConfig) -> Self {
        let (bound, bound_changes) = watch::channel(None);
        Self {
            bound,
            bound_changes,
            node: None,
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

    /// Sets the heartbeat that programs read.
    pub fn set_heartbeats(&mut self, heartbeats: Heartbeats) {
        self.heartbeats = Some(heartbeats);
    }

    /// Waits for a change of the node's networks, or of the addresses of the server.
    pub async fn changed(&mut self) {
        let Some(NodeState { local, .. }) = &mut self.node else { return std::future::pending().await };
        tokio::select! {
            () = local.changed() => {}
            // The sender is `bound`.
            _ = self.bound_changes.changed() => {}
        }
    }

    /// Follows the networks of the node and its object: the clients that are answered, and the addresses to listen at.
    /// Returns the addresses that are bound and local: only these may be redirected to. `named` are the addresses of the
    /// flags or the Node object.
    pub fn follow_node(
        &mut self,
        policy: &Policy,
        node: Option<&NodeInfo>,
        named: &[IpAddr],
    ) -> Vec<SocketAddr> {
        let Some(NodeState { local, primary }) = &self.node else { return Vec::new() };
        self.config.setup.admitted.set(local.clients(policy, node));
        let addresses = local.primary_addresses(named);
        primary.send_if_modified(|known| {
            let is_new = *known != addresses;
            known.clone_from(&addresses);
            is_new
        });
        let bound = self.bound_changes.borrow().clone();
        // Before the takeover the other agent's server has the addresses that this one will have.
        let mut listens = bound.unwrap_or_else(|| self.config.addresses(&addresses));
        listens.retain(|address| local.has(address.ip()));
        listens
    }

    /// Redirects clients to this server. A snapshot must be published before.
    pub fn redirect_clients(&mut self, maps: &Path) -> Result<QuerySource> {
        let metrics = Arc::clone(self.serve()?.metrics());
        self.redirect.enable(maps)?;
        Ok(QuerySource { metrics, published: Arc::clone(&self.published) })
    }

    /// Starts the server, if it does not run yet.
    pub fn serve(&mut self) -> Result<&Supervisor> {
        let serving = match self.serving.take() {
            Some(serving) => serving,
            None => self.start()?,
        };
        let (supervisor, _) = self.serving.insert(serving);
        Ok(supervisor)
    }

    fn start(&self) -> Result<(Supervisor, Threads)> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.thread_name("dns").event_interval(EVENT_INTERVAL).enable_all().build()?;
        let inside = runtime.handle().clone();
        let threads = Threads(Some(runtime));
        let supervisor = {
            let _inside = inside.enter();
            let DnsConfig { setup, allow: _ } = self.config.clone();
            let heartbeat = self
                .heartbeats
                .clone()
                .map(|heartbeats| Heartbeat::new(move |age| heartbeats.record_serving(age)));
            let (redirect, bound) = (Arc::downgrade(&self.redirect), self.bound.clone());
            let socket_observer = SocketObserver::new(move |sockets, addresses| {
                bound.send_replace(Some(addresses.to_vec()));
                let enabled = redirect.upgrade().map_or(Ok(()), |redirect| redirect.set_sockets(sockets));
                if let Err(error) = enabled {
                    error!(error = %chain(&error), "cannot redirect clients to this name server");
                    tokio::spawn(Redirect::retry(Weak::clone(&redirect)));
                }
            });
            let setup = Setup { heartbeat: heartbeat.unwrap_or_default(), socket_observer, ..setup };
            Supervisor::start(setup, self.published.clone())?
        };
        Ok((supervisor, threads))
    }

    /// Sets the networks of this node's pods, whose replies are not limited.
    pub fn set_local_networks(&self, networks: &[IpNetwork]) {
        self.config.setup.local_networks.set(networks.to_vec());
    }

    pub fn apply(&mut self, changes: Vec<Change>) {
        self.is_behind |= !changes.is_empty();
        for change in changes {
            self.note(&change);
            self.index.apply(change);
        }
    }

    /// Remembers trigger times, but none from before the start.
    fn note(&mut self, change: &Change) {
        let Change::Slice(_, Some(slice)) = change else { return };
        let triggered = slice.triggered.filter(|triggered| *triggered > self.started);
        self.triggered.extend(triggered.map(|triggered| (slice.service.clone(), triggered)));
    }

    /// Publishes all applied changes.
    pub fn publish(&mut self) {
        if !std::mem::take(&mut self.is_behind) {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // Based on the time, so that it grows from one agent to the next; two changes within a second still
        // differ.
        self.serial = self.serial.saturating_add(1).max(u32::try_from(now).unwrap_or(u32::MAX));
        self.published.publish(self.index.snapshot(self.serial));
        debug!(serial = self.serial, "DNS snapshot published");
        self.observe();
    }

    /// Records the delay from the triggers to the published answers.
    fn observe(&mut self) {
        let now = SystemTime::now();
        for (service, triggered) in self.triggered.drain(..) {
            let kind = match self.index.service(&service).map(|service| (&service.kind, service.has_selector))
            {
                Some((ServiceKind::ClusterIp { .. }, _)) => "cluster_ip",
                Some((ServiceKind::Headless, true)) => "headless_with_selector",
                Some(_) | None => continue,
            };
            if let Some((supervisor, _)) = &self.serving {
                supervisor.metrics().programmed(kind, now.duration_since(triggered).unwrap_or_default());
            }
        }
    }

    /// Ends the redirect, then answers pending queries and stops. Waits first while a successor is about to
    /// take over.
    pub async fn stop(self) {
        if let Some(heartbeats) = &self.heartbeats {
            let _ = timeout(HANDOVER, handed_over(heartbeats)).await;
        }
        // New clients use other servers from here on; pending queries are answered.
        self.redirect.disable();
        if let Some((supervisor, threads)) = self.serving {
            supervisor.stop().await;
            drop(threads);
        }
    }
}

/// Waits until no successor waits: it has taken over, or it is gone.
async fn handed_over(heartbeats: &Heartbeats) {
    while heartbeats.has_successor() {
        sleep(POLL_INTERVAL).await;
    }
}

/// Runs only the DNS server, until SIGTERM or SIGINT.
pub async fn run(objects: Objects, config: DnsConfig) -> Result<()> {
    // There are no other servers that could fail.
    let (_sender, fatal) = mpsc::unbounded_channel();
    let mut stop = Stop::new(None, fatal)?;
    let reader = Reader { node_name: String::new(), dns: Some(config.read_options()) };
    let mut name_server = NameServer::new(config);
    name_server.serve()?;
    let followed = tokio::select! {
        followed = follow(&mut name_server, objects, reader) => followed,
        () = stop.requested() => Ok(()),
    };
    name_server.stop().await;
    followed?;
    stop.result()
}

async fn follow(name_server: &mut NameServer, objects: Objects, reader: Reader) -> Result<()> {
    let mut source = Source::new(objects, reader, SourceState::default()).await?;
    let mut is_synced = false;
    loop {
        let first = source.next().await.context("the source of objects ended")?;
        let was_synced = is_synced;
        // Changes that arrive meanwhile wait for the next snapshot, so that this one is published.
        let waiting = source.waiting();
        for update in iter::once(first).chain((0..waiting).map_while(|_| source.next_now())) {
            is_synced |= update.is_synced;
            update.log_skipped();
            name_server.apply(update.names);
        }
        if is_synced {
            name_server.publish();
        }
        if is_synced && !was_synced {
            info!("ready");
            notify_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use dns::{
        admitted::Admitted,
        cluster::name,
        config::LastKnownGood,
        interfaces::LocalNetworks,
        observe::{faults::Faults, health::HttpEndpoints},
        plugins::Config,
    };

    use super::*;

    fn at(address: SocketAddr) -> NameServer {
        let config = Config::shipped(&name::domain("cluster.local").unwrap());
        let (corefile, listen) = (None, vec![address]);
        let (endpoints, heartbeat, socket_observer) =
            (HttpEndpoints::default(), Heartbeat::default(), SocketObserver::default());
        let setup = Setup {
            config,
            corefile,
            listen,
            node_addresses: NodeAddresses::default(),
            admitted: Admitted::default(),
            last_known_good: LastKnownGood::default(),
            rate_limit: None,
            local_networks: LocalNetworks::default(),
            endpoints,
            heartbeat,
            socket_observer,
            faults: Faults::default(),
            may_start_later: false,
        };
        NameServer::new(DnsConfig { setup, allow: Vec::new() })
    }

    #[tokio::test]
    async fn a_stop_before_the_initial_sync_does_not_panic() {
        let mut name_server = at((Ipv4Addr::LOCALHOST, 0).into());
        name_server.serve().unwrap();
        drop(name_server);
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error_and_no_panic() {
        let others = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let error = at(others.local_addr().unwrap()).serve().unwrap_err();
        assert!(error.to_string().contains("listen"), "{error:#}");
    }
}
