//! The supervisor of a server: reloads its Corefile, and serves the endpoints of [`Health`].

use std::{
    collections::BTreeSet, fmt, net::SocketAddr, num::NonZeroU32, path::PathBuf, pin::pin, sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    sync::oneshot,
    task::{JoinHandle, JoinSet},
    time::sleep,
};
use tracing::{info, warn};

use crate::{
    admitted::Admitted,
    cluster::snapshot::Published,
    config::LastKnownGood,
    corefile::{self, CorefileError},
    interfaces::LocalNetworks,
    observe::{
        clients,
        faults::{self, Faults, Part, with_causes},
        health::{Health, HttpEndpoints},
        heartbeat::Heartbeat,
        metrics::{MetricNames, Metrics},
    },
    plugins::{self, Config, IneffectiveOption, reload::Reload},
    resolve::forward::ServerContext,
    serve::{
        node_addresses::NodeAddresses,
        run::{self, ListenAt, MayFail, StartError, Started},
        server::{ListenError, Listener, Server},
        socket_observer::SocketObserver,
    },
};

/// The parameters of a server.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Without server blocks, the Corefile could not be read yet: `may_start_later` is set.
    pub config: Config,
    /// The source of the configuration, reloaded when it changes.
    pub corefile: Option<Corefile>,
    /// Replaces the addresses of the server blocks, unless empty.
    pub listen: Vec<SocketAddr>,
    /// The policy of the blocks with a cache but without `serve_stale`.
    pub last_known_good: LastKnownGood,
    /// Replaces wildcards among the addresses.
    pub node_addresses: NodeAddresses,
    pub admitted: Admitted,
    /// The limit of identical replies over UDP to one network, per second, except those of `local_networks` and this
    /// machine; `None`: unlimited.
    pub rate_limit: Option<NonZeroU32>,
    pub local_networks: LocalNetworks,
    pub endpoints: HttpEndpoints,
    /// Receives the heartbeats.
    pub heartbeat: Heartbeat,
    /// Receives the sockets of each server.
    pub socket_observer: SocketObserver,
    /// Receives what does not work and is retried.
    pub faults: Faults,
    /// Whether the supervisor starts even if the server cannot, and retries that.
    pub may_start_later: bool,
}

/// The name of the DNS servers among the addresses that cannot be bound.
const DNS: &str = "DNS";

#[derive(Clone)]
pub struct Corefile {
    pub path: PathBuf,
    /// Looks up `{$NAME}`.
    pub env: fn(&str) -> Option<String>,
}

impl Corefile {
    fn log_ineffective(&self) {
        for IneffectiveOption { location, option, reason } in
            plugins::ineffective_options(&self.path, &self.env)
        {
            info!(location, option, reason, "Corefile option has no effect");
        }
    }
}

#[derive(Debug, Error)]
pub enum SupervisorError {
    #[error(transparent)]
    Start(#[from] StartError),
}

#[derive(Debug)]
pub struct Supervisor {
    metrics: Arc<Metrics>,
    addresses: Vec<SocketAddr>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Supervisor {
    /// Must be called within a runtime; its threads are the workers.
    pub fn start(setup: Setup, published: Arc<Published>) -> Result<Self, SupervisorError> {
        let context = ServerContext {
            heartbeat: setup.heartbeat.clone(),
            last_known_good: setup.last_known_good,
            admitted: setup.admitted.clone(),
            rate_limit: setup.rate_limit,
            local_networks: setup.local_networks.clone(),
            ..ServerContext::default()
        };
        let metrics = Arc::clone(&context.metrics);
        tokio::spawn(clients::rotate(Arc::downgrade(metrics.clients())));
        let mut reloader = Reloader {
            server: Server::idle(),
            setup,
            published,
            context,
            is_started: false,
            health: Vec::new(),
            stopping: JoinSet::new(),
            rejected: String::new(),
        };
        reloader.begin()?;
        let addresses = reloader.server.addresses().to_vec();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(reloader.run(stopped));
        Ok(Self { metrics, addresses, stop, task })
    }

    /// The listening addresses at the start, with the ports that were chosen.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Reports not ready, continues to serve for the configured lameduck time, then stops. Returns when all
    /// requests are answered.
    pub async fn stop(self) {
        // The task ends by itself only in a panic, which is reported already.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// Replaces the addresses of the DNS server that cannot be bound.
fn record_unbound(faults: &Faults, now: &[(SocketAddr, ListenError)]) {
    for address in faults.addresses(DNS) {
        if now.iter().all(|(unbound, _)| *unbound != address) {
            faults.remove(Part::Address(DNS, address));
        }
    }
    for (address, error) in now {
        faults.insert(Part::Address(DNS, *address), error);
    }
}

/// The lameduck time. Zero without health and readiness endpoints: clients cannot learn of the stop from them.
fn lameduck(Setup { config, endpoints, .. }: &Setup) -> Duration {
    if endpoints.ready.is_empty() && endpoints.health.is_empty() {
        return Duration::ZERO;
    }
    let healths = config.servers.iter().filter_map(|block| block.health.as_ref());
    healths.map(|health| health.lameduck).max().unwrap_or_default()
}

/// The task that runs the current server and replaces it when the configuration or the node's addresses change.
struct Reloader {
    setup: Setup,
    published: Arc<Published>,
    context: ServerContext,
    server: Server,
    /// Whether `server` serves the configuration at the present addresses, as far as they can be bound.
    is_started: bool,
    /// The endpoints over HTTP.
    health: Vec<Health>,
    /// Earlier servers with pending requests.
    stopping: JoinSet<()>,
    /// The error of the current file, logged once.
    rejected: String,
}

impl Reloader {
    /// The first start. Fails only if nothing may start later.
    fn begin(&mut self) -> Result<(), StartError> {
        self.setup.corefile.iter().for_each(Corefile::log_ineffective);
        self.serve_http(&self.setup.endpoints.clone());
        if self.setup.may_start_later {
            self.start_now();
            return Ok(());
        }
        let started = self.start(&self.setup.config, MayFail::AllButOne)?;
        self.replace(started);
        Ok(())
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut reload = pin!(sleep(self.interval()));
        let mut delay = faults::FIRST_RETRY;
        let mut retry = pin!(sleep(delay));
        let mut node_addresses = self.setup.node_addresses.clone();
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                () = &mut reload => {
                    self.reload();
                    reload.set(sleep(self.interval()));
                }
                () = node_addresses.changed() => self.follow_addresses(),
                () = &mut retry => {
                    let was_started = self.is_started;
                    delay = if self.retry() { faults::FIRST_RETRY } else { faults::next_retry(delay) };
                    retry.set(sleep(delay));
                    if self.is_started != was_started {
                        reload.set(sleep(self.interval()));
                    }
                }
            }
            while self.stopping.try_join_next().is_some() {}
        }
        self.health.iter().for_each(Health::set_stopping);
        sleep(lameduck(&self.setup)).await;
        self.server.stop().await;
        while self.stopping.join_next().await.is_some() {}
    }

    /// The time until the next check of the file. Its jitter keeps nodes that got the file at the same time from
    /// reloading together.
    fn interval(&self) -> Duration {
        let reload = self.setup.config.servers.iter().find_map(|block| block.reload.as_ref());
        match (reload, &self.setup.corefile) {
            (Some(Reload { interval, jitter }), Some(_)) => {
                interval.saturating_sub(*jitter) + jitter.mul_f64(2.0 * rand::random::<f64>())
            }
            _ => Duration::MAX,
        }
    }

    /// Reloads the file. The new server listens before the old one stops, so no query is lost. An unusable file
    /// changes nothing.
    fn reload(&mut self) {
        let Some(file) = &self.setup.corefile else { return };
        match plugins::read(&file.path, &file.env) {
            Ok(config) if config == self.setup.config => {
                self.rejected.clear();
                self.note_version();
            }
            Ok(config) if config.read_options() != self.setup.config.read_options() => {
                self.reject(&ReloadError::Objects)
            }
            Ok(config) => match self.start(&config, MayFail::Only(&self.setup.faults.addresses(DNS))) {
                Ok(server) => self.switch(config, server),
                Err(error) => self.reject(&error.into()),
            },
            Err(error) => self.reject(&error.into()),
        }
    }

    fn switch(&mut self, config: Config, server: Started) {
        info!("configuration changed");
        self.rejected.clear();
        for setting in restart_settings(&self.setup.config, &config) {
            warn!(setting, "changed setting takes effect at the next start");
        }
        self.setup.config = config;
        self.note_version();
        self.setup.corefile.iter().for_each(Corefile::log_ineffective);
        self.replace(server);
    }

    /// With `reload`, as in CoreDNS. A file that changes meanwhile is noted at the next check.
    fn note_version(&self) {
        let reloads = self.setup.config.servers.iter().any(|block| block.reload.is_some());
        let file = self.setup.corefile.as_ref().filter(|_| reloads);
        if let Some(text) = file.and_then(|file| corefile::octets(&file.path)) {
            self.context.metrics.set_version(&text);
        }
    }

    fn start(&self, config: &Config, may_fail: MayFail<'_>) -> Result<Started, StartError> {
        let node = self.setup.node_addresses.current();
        let listen = ListenAt { listen: &self.setup.listen, node: node.as_deref() };
        run::start_partially(config, listen, &self.published, &self.context, may_fail)
    }

    /// The new server listens before the old one stops, so no query is lost.
    fn replace(&mut self, Started { server, unbound }: Started) {
        self.is_started = true;
        self.setup.faults.remove(Part::Server);
        record_unbound(&self.setup.faults, &unbound);
        self.setup.socket_observer.notify(server.sockets(), server.addresses());
        let old = std::mem::replace(&mut self.server, server);
        self.stopping.spawn(old.stop());
    }

    /// Starts a server at all addresses that can be bound. Returns whether it runs.
    fn start_now(&mut self) -> bool {
        if self.setup.config.servers.is_empty() && !self.read_first() {
            return false;
        }
        match self.start(&self.setup.config, MayFail::All) {
            Ok(started) => self.replace(started),
            Err(error) => {
                self.is_started = false;
                self.setup.faults.insert(Part::Server, &error);
            }
        }
        self.is_started
    }

    /// Reads a file that could not be read at the start. Returns whether there is a configuration now.
    fn read_first(&mut self) -> bool {
        let Some(file) = &self.setup.corefile else { return false };
        let read = match plugins::read(&file.path, &file.env) {
            Ok(config) if config.read_options() != self.setup.config.read_options() => {
                Err(ReloadError::Objects)
            }
            read => read.map_err(ReloadError::from),
        };
        match read {
            Ok(config) => {
                self.setup.faults.remove(Part::Corefile);
                file.log_ineffective();
                let endpoints = missing_endpoints(&self.setup.endpoints, config.http_endpoints());
                self.setup.config = config;
                self.serve_http(&endpoints);
                true
            }
            Err(error) => {
                self.setup.faults.insert(Part::Corefile, &error);
                false
            }
        }
    }

    fn serve_http(&mut self, endpoints: &HttpEndpoints) {
        let answers_for_a_cluster = self.setup.config.kubernetes().next().is_some();
        let synced = answers_for_a_cluster.then(|| Arc::clone(&self.published));
        let metrics = Arc::clone(&self.context.metrics);
        let asks_for_coredns = !self.setup.config.http_endpoints().metrics.is_empty();
        let of_file = if asks_for_coredns { MetricNames::CoreDns } else { MetricNames::Own };
        metrics.set_names(endpoints.metric_names.unwrap_or(of_file));
        self.note_version();
        self.health.push(Health::start(endpoints, metrics, synced, self.setup.faults.clone()));
    }

    /// Tries again what failed. If one address can be bound, replaces the server by one that listens there, too.
    /// Returns whether all is well or something has changed.
    fn retry(&mut self) -> bool {
        if !self.is_started {
            return self.start_now();
        }
        let unbound = self.setup.faults.addresses(DNS);
        let can_bind = |address: &SocketAddr| Listener::bind(*address, 1).is_ok();
        if unbound.is_empty() {
            return true;
        }
        if !unbound.iter().any(can_bind) {
            return false;
        }
        match self.start(&self.setup.config, MayFail::Only(&unbound)) {
            Ok(started) => {
                self.replace(started);
                true
            }
            Err(error) => {
                warn!(error = with_causes(&error), "cannot listen at further addresses yet");
                false
            }
        }
    }

    /// The node's addresses have changed. A server that listens elsewhere goes on.
    fn follow_addresses(&mut self) {
        let node = self.setup.node_addresses.current();
        let listen = ListenAt { listen: &self.setup.listen, node: node.as_deref() };
        let wanted = run::addresses(&self.setup.config, listen).unwrap_or_default();
        let mut present: BTreeSet<_> = self.server.addresses().iter().copied().collect();
        present.extend(self.setup.faults.addresses(DNS));
        if !self.is_started || wanted.into_iter().collect::<BTreeSet<_>>() != present {
            info!(addresses = ?node.unwrap_or_default(), "addresses of the node changed");
            self.start_now();
        }
    }

    fn reject(&mut self, error: &ReloadError) {
        let rejected = with_causes(error);
        if rejected != self.rejected {
            self.context.metrics.reload_failed();
            warn!(error = rejected, "changed configuration not used, the previous one stays");
            self.rejected = rejected;
        }
    }
}

/// The endpoints of a late configuration. Flags, which are set already, override it.
fn missing_endpoints(set: &HttpEndpoints, of_file: HttpEndpoints) -> HttpEndpoints {
    let missing = |set: &BTreeSet<_>, file: BTreeSet<_>| if set.is_empty() { file } else { BTreeSet::new() };
    HttpEndpoints {
        health: missing(&set.health, of_file.health),
        ready: missing(&set.ready, of_file.ready),
        metrics: missing(&set.metrics, of_file.metrics),
        are_shared: set.are_shared,
        metric_names: set.metric_names,
    }
}

/// The settings that differ between two configurations and take effect only at a start.
fn restart_settings(before: &Config, after: &Config) -> Vec<&'static str> {
    let api_server = |config: &Config| config.kubernetes().next().map(|options| options.api_server.clone());
    let differs = [
        ("addresses of health, readiness and metrics", before.http_endpoints() != after.http_endpoints()),
        ("API server", api_server(before) != api_server(after)),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(setting, _)| setting).collect()
}

#[derive(Debug, Error)]
enum ReloadError {
    #[error(
        "the set of watched objects changes only with a restart: `pods verified`, `endpoint_pod_names`, `zonal`, \
         `multicluster`, `labels` and `namespace_labels`"
    )]
    Objects,
    #[error(transparent)]
    Corefile(#[from] CorefileError),
    #[error(transparent)]
    Start(#[from] StartError),
}

impl fmt::Debug for Corefile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.path)
    }
}

#[cfg(test)]
#[path = "../../tests/support/free_port.rs"]
mod free_port;

#[cfg(test)]
mod tests {
    use std::{fs, net::Ipv4Addr, path::Path};

    use hickory_server::proto::{
        op::{Message, MessageType, OpCode, Query},
        rr::{Name, RecordType},
    };
    use tokio::net::UdpSocket;

    use super::{free_port::free_port, *};

    fn write(path: &Path, address: &str) {
        let text = format!(". {{\n hosts /nonexistent {{\n  {address} a.example\n }}\n reload 2s 1s\n}}");
        fs::write(path, text).unwrap();
    }

    async fn answer(address: SocketAddr) -> String {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut question = Message::new(1, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(Name::from_ascii("a.example.").unwrap(), RecordType::A));
        socket.send_to(&question.to_vec().unwrap(), address).await.unwrap();
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).await.unwrap();
        Message::from_vec(&buffer[..length]).unwrap().answers[0].data.to_string()
    }

    #[test]
    fn settings_that_need_a_restart_are_listed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("Corefile");
        let parsed = |directives: &str| {
            fs::write(&path, format!(". {{\n{directives}\n}}")).unwrap();
            plugins::read(&path, &|_| None).unwrap()
        };
        let before = parsed("ready\nkubernetes cluster.local");
        for (directives, want) in [
            ("ready\nkubernetes cluster.local\nlog", 0),
            ("ready :8282\nkubernetes cluster.local", 1),
            ("ready\nkubernetes cluster.local {\n endpoint https://10.0.0.1\n}\nprometheus", 2),
        ] {
            assert_eq!(restart_settings(&before, &parsed(directives)).len(), want, "{directives}");
        }
    }

    #[tokio::test]
    async fn an_address_in_use_is_retried_and_the_others_are_served() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("Corefile");
        write(&path, "10.0.0.1");
        let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let taken = other.local_addr().unwrap();
        let free: SocketAddr = (Ipv4Addr::new(127, 0, 0, 2), taken.port()).into();
        let http = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let ready = http.local_addr().unwrap();
        let setup = Setup {
            config: plugins::read(&path, &|_| None).unwrap(),
            corefile: None,
            listen: vec![taken, free],
            last_known_good: LastKnownGood::default(),
            node_addresses: NodeAddresses::default(),
            admitted: Admitted::default(),
            rate_limit: None,
            local_networks: LocalNetworks::default(),
            endpoints: HttpEndpoints { ready: [ready].into(), ..HttpEndpoints::default() },
            heartbeat: Heartbeat::default(),
            socket_observer: SocketObserver::default(),
            faults: Faults::default(),
            may_start_later: false,
        };
        let faults = setup.faults.clone();
        let supervisor = Supervisor::start(setup.clone(), Arc::default()).unwrap();
        assert_eq!(answer(free).await, "10.0.0.1");
        let errors = faults.errors();
        assert_eq!(errors.len(), 2, "{errors:?}");
        for address in [taken, ready] {
            assert!(errors.iter().any(|error| error.contains(&address.to_string())), "{errors:?}");
        }
        drop((other, http));
        while !faults.errors().is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!((answer(taken).await, answer(free).await), ("10.0.0.1".to_owned(), "10.0.0.1".to_owned()));
        tokio::net::TcpStream::connect(ready).await.unwrap();
        supervisor.stop().await;

        let _other = UdpSocket::bind(taken).await.unwrap();
        let (endpoints, faults) = (HttpEndpoints::default(), Faults::default());
        let alone = Setup { listen: vec![taken], endpoints, faults, ..setup };
        let error = Supervisor::start(alone.clone(), Arc::default()).unwrap_err().to_string();
        assert!(error.contains("cannot listen at"), "{error}");
        let agent = Setup { may_start_later: true, ..alone };
        Supervisor::start(agent.clone(), Arc::default()).unwrap().stop().await;
        assert_eq!(agent.faults.errors().len(), 1);
    }

    #[tokio::test]
    async fn a_changed_file_is_reloaded_and_an_invalid_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("Corefile");
        write(&path, "10.0.0.1");
        let config = plugins::read(&path, &|_| None).unwrap();
        // A fixed port, as the next server must listen at the same one.
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
        let setup = Setup {
            config,
            corefile: Some(Corefile { path: path.clone(), env: |_| None }),
            listen: vec![port],
            last_known_good: LastKnownGood::default(),
            node_addresses: NodeAddresses::default(),
            admitted: Admitted::default(),
            rate_limit: None,
            local_networks: LocalNetworks::default(),
            endpoints: HttpEndpoints::default(),
            heartbeat: Heartbeat::default(),
            socket_observer: SocketObserver::default(),
            faults: Faults::default(),
            may_start_later: false,
        };
        let supervisor = Supervisor::start(setup, Arc::default()).unwrap();
        assert_eq!(answer(port).await, "10.0.0.1");
        fs::write(&path, ". {\n bogus\n}").unwrap();
        let version = || {
            let text = supervisor.metrics().text();
            text.lines()
                .find(|line| line.starts_with("portreeve_dns_reload_version_info{"))
                .map(str::to_owned)
        };
        let first = version().unwrap();
        while !supervisor.metrics().text().contains("portreeve_dns_reload_failed_total 1") {
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(answer(port).await, "10.0.0.1", "the previous configuration stays");
        assert_eq!(version().unwrap(), first, "the version in use");
        write(&path, "10.0.0.2");
        while answer(port).await != "10.0.0.2" {
            sleep(Duration::from_millis(10)).await;
        }
        assert_ne!(version().unwrap(), first);
        supervisor.stop().await;
    }

    fn later(path: &Path) -> Setup {
        Setup {
            config: Config::default(),
            corefile: Some(Corefile { path: path.to_owned(), env: |_| None }),
            listen: Vec::new(),
            node_addresses: NodeAddresses::default(),
            last_known_good: LastKnownGood::default(),
            rate_limit: None,
            local_networks: LocalNetworks::default(),
            admitted: Admitted::default(),
            endpoints: HttpEndpoints::default(),
            heartbeat: Heartbeat::default(),
            socket_observer: SocketObserver::default(),
            faults: Faults::default(),
            may_start_later: true,
        }
    }

    async fn works(faults: &Faults) {
        while !faults.errors().is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn an_unusable_corefile_is_named_and_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("Corefile");
        let at: SocketAddr = (Ipv4Addr::LOCALHOST, free_port()).into();
        let setup = Setup { listen: vec![at], ..later(&path) };
        let faults = setup.faults.clone();
        let supervisor = Supervisor::start(setup, Arc::default()).unwrap();
        assert!(faults.errors()[0].contains("Corefile"), "{:?}", faults.errors());
        fs::write(&path, ". {\n bogus\n}").unwrap();
        while !faults.errors()[0].contains("bogus") {
            sleep(Duration::from_millis(10)).await;
        }
        write(&path, "10.0.0.1");
        works(&faults).await;
        assert_eq!(answer(at).await, "10.0.0.1");
        write(&path, "10.0.0.2");
        while answer(at).await != "10.0.0.2" {
            sleep(Duration::from_millis(10)).await;
        }
        supervisor.stop().await;
    }

    #[tokio::test]
    async fn a_missing_certificate_is_named_and_awaited() {
        let directory = tempfile::tempdir().unwrap();
        let (path, authority) = (directory.path().join("Corefile"), directory.path().join("ca.pem"));
        let at: SocketAddr = (Ipv4Addr::LOCALHOST, free_port()).into();
        let authority_name = authority.display();
        let text = format!(
            ". {{\n hosts /nonexistent {{\n  10.0.0.1 a.example\n }}\n forward b.example tls://127.0.0.1 {{\n  tls \
             {authority_name}\n }}\n}}"
        );
        fs::write(&path, text).unwrap();
        let config = plugins::read(&path, &|_| None).unwrap();
        let setup = Setup { listen: vec![at], config, ..later(&path) };
        let faults = setup.faults.clone();
        let supervisor = Supervisor::start(setup, Arc::default()).unwrap();
        assert!(faults.errors()[0].contains("ca.pem"), "{:?}", faults.errors());
        fs::write(&authority, rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap().cert.pem())
            .unwrap();
        works(&faults).await;
        assert_eq!(answer(at).await, "10.0.0.1");
        supervisor.stop().await;
    }

    #[tokio::test]
    async fn wildcards_are_the_addresses_of_the_node_as_they_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("Corefile");
        let port = free_port();
        let text = format!(".:{port} {{\n hosts /nonexistent {{\n  10.0.0.1 a.example\n }}\n}}");
        fs::write(&path, text).unwrap();
        // The stub of another server has the port at loopback, which would keep a wildcard from being bound.
        let _stub = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 53), port)).await.unwrap();
        let (sender, addresses) = tokio::sync::watch::channel(Vec::new());
        let setup = Setup { node_addresses: NodeAddresses::new(addresses), ..later(&path) };
        let faults = setup.faults.clone();
        let supervisor = Supervisor::start(setup, Arc::default()).unwrap();
        assert!(faults.errors()[0].contains("no address"), "{:?}", faults.errors());
        let [first, second] = [2, 3].map(|n| Ipv4Addr::new(127, 0, 0, n));
        for ip in [first, second] {
            sender.send_replace(vec![ip.into()]);
            while faults.errors() != Vec::<String>::new() || UdpSocket::bind((ip, port)).await.is_ok() {
                sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(answer((ip, port).into()).await, "10.0.0.1");
        }
        while UdpSocket::bind((first, port)).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
        supervisor.stop().await;
    }
}
