//! The supervisor of a server: reloads its Corefile, and serves the endpoints of [`Health`].

use std::{fmt, net::SocketAddr, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use ipnetwork::IpNetwork;
use thiserror::Error;
use tokio::{
    sync::oneshot,
    task::{JoinHandle, JoinSet},
    time::sleep,
};
use tracing::{info, warn};

use crate::{
    cluster::snapshot::Published,
    config::LastKnownGood,
    corefile::CorefileError,
    observe::{
        clients,
        health::{Health, HttpEndpoints},
        heartbeat::Heartbeat,
        metrics::Metrics,
        unbound::{self, Unbound, with_causes},
    },
    plugins::{self, Config, IneffectiveOption, reload::Reload},
    resolve::forward::ServerContext,
    serve::{
        run::{self, MayFail, StartError, Started},
        server::{ListenError, Listener, Server},
        socket_observer::SocketObserver,
    },
};

/// The parameters of a server.
#[derive(Clone, Debug)]
pub struct Setup {
    pub config: Config,
    /// The source of the configuration, reloaded when it changes.
    pub corefile: Option<Corefile>,
    /// Replaces the addresses of the server blocks, unless empty.
    pub listen: Vec<SocketAddr>,
    /// The networks of the clients that are admitted; `None` admits every client.
    pub allow: Option<Arc<[IpNetwork]>>,
    /// The policy of the blocks with a cache but without `serve_stale`.
    pub last_known_good: LastKnownGood,
    pub endpoints: HttpEndpoints,
    /// Receives the heartbeats.
    pub heartbeat: Heartbeat,
    /// Receives the sockets of each server.
    pub socket_observer: SocketObserver,
    /// Receives the addresses that cannot be bound; they are retried.
    pub unbound: Unbound,
    /// Whether to start even if no address can be bound.
    pub starts_unbound: bool,
}

/// The name of the DNS servers among the unbound addresses.
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
    health: Health,
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
            allow: setup.allow.clone(),
            last_known_good: setup.last_known_good,
            ..ServerContext::default()
        };
        setup.corefile.iter().for_each(Corefile::log_ineffective);
        let may_fail = if setup.starts_unbound { MayFail::All } else { MayFail::AllButOne };
        let Started { server, unbound } =
            run::start_partially(&setup.config, &setup.listen, &published, &context, may_fail)?;
        record_unbound(&setup.unbound, &unbound);
        let answers_for_a_cluster = setup.config.kubernetes().next().is_some();
        let synced = answers_for_a_cluster.then(|| Arc::clone(&published));
        let health =
            Health::start(&setup.endpoints, Arc::clone(&context.metrics), synced, setup.unbound.clone());
        let metrics = Arc::clone(&context.metrics);
        tokio::spawn(clients::rotate(Arc::downgrade(metrics.clients())));
        let addresses = server.addresses().to_vec();
        setup.socket_observer.notify(server.sockets());
        let (stop, stopped) = oneshot::channel();
        let reloader =
            Reloader { setup, published, context, server, stopping: JoinSet::new(), rejected: String::new() };
        let task = tokio::spawn(reloader.run(stopped));
        Ok(Self { health, metrics, addresses, stop, task })
    }

    /// The listening addresses, with the ports that were chosen.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Reports not ready, continues to serve for the configured lameduck time, then stops. Returns when all
    /// requests are answered.
    pub async fn stop(self) {
        self.health.set_stopping();
        // The task ends by itself only in a panic, which is reported already.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// Replaces the unbound addresses of the DNS server.
fn record_unbound(known: &Unbound, now: &[(SocketAddr, ListenError)]) {
    for address in known.addresses(DNS) {
        if now.iter().all(|(unbound, _)| *unbound != address) {
            known.remove(DNS, address);
        }
    }
    for (address, error) in now {
        known.insert(DNS, *address, error);
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

/// The task that runs the current server and replaces it when the configuration changes.
struct Reloader {
    setup: Setup,
    published: Arc<Published>,
    context: ServerContext,
    server: Server,
    /// Earlier servers with pending requests.
    stopping: JoinSet<()>,
    /// The error of the current file, logged once.
    rejected: String,
}

impl Reloader {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut reload = pin!(sleep(self.interval()));
        let mut delay = unbound::FIRST_RETRY;
        let mut retry = pin!(sleep(delay));
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                () = &mut reload => {
                    self.reload();
                    reload.set(sleep(self.interval()));
                }
                () = &mut retry => {
                    delay = if self.retry() { unbound::FIRST_RETRY } else { unbound::next_retry(delay) };
                    retry.set(sleep(delay));
                }
            }
            while self.stopping.try_join_next().is_some() {}
        }
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
            Ok(config) if config == self.setup.config => self.rejected.clear(),
            Ok(config) if config.read_options() != self.setup.config.read_options() => {
                self.reject(&ReloadError::Objects)
            }
            Ok(config) => match self.start(&config) {
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
        self.setup.corefile.iter().for_each(Corefile::log_ineffective);
        self.replace(server);
    }

    /// Starts a server for a configuration, without the addresses that cannot be bound already.
    fn start(&self, config: &Config) -> Result<Started, StartError> {
        let unbound = self.setup.unbound.addresses(DNS);
        let may_fail = MayFail::Only(&unbound);
        run::start_partially(config, &self.setup.listen, &self.published, &self.context, may_fail)
    }

    /// The new server listens before the old one stops, so no query is lost.
    fn replace(&mut self, Started { server, unbound }: Started) {
        record_unbound(&self.setup.unbound, &unbound);
        self.setup.socket_observer.notify(server.sockets());
        let old = std::mem::replace(&mut self.server, server);
        self.stopping.spawn(old.stop());
    }

    /// Tries the unbound addresses again. If one can be bound, replaces the server by one that listens there, too.
    /// Returns whether all is bound or something has changed.
    fn retry(&mut self) -> bool {
        let unbound = self.setup.unbound.addresses(DNS);
        let can_bind = |address: &SocketAddr| Listener::bind(*address, 1).is_ok();
        if !unbound.is_empty() && !unbound.iter().any(can_bind) {
            return false;
        }
        if unbound.is_empty() {
            return true;
        }
        match self.start(&self.setup.config) {
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

    fn reject(&mut self, error: &ReloadError) {
        let rejected = with_causes(error);
        if rejected != self.rejected {
            self.context.metrics.reload_failed();
            warn!(error = rejected, "changed configuration not used, the previous one stays");
            self.rejected = rejected;
        }
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
        "the set of watched objects changes only with a restart: `pods verified`, `endpoint_pod_names`, `zonal`, `labels` \
         and `namespace_labels`"
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
mod tests {
    use std::{fs, net::Ipv4Addr, path::Path};

    use hickory_server::proto::{
        op::{Message, MessageType, OpCode, Query},
        rr::{Name, RecordType},
    };
    use tokio::net::UdpSocket;

    use super::*;

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
            allow: None,
            last_known_good: LastKnownGood::default(),
            endpoints: HttpEndpoints { ready: [ready].into(), ..HttpEndpoints::default() },
            heartbeat: Heartbeat::default(),
            socket_observer: SocketObserver::default(),
            unbound: Unbound::default(),
            starts_unbound: false,
        };
        let unbound = setup.unbound.clone();
        let supervisor = Supervisor::start(setup.clone(), Arc::default()).unwrap();
        assert_eq!(answer(free).await, "10.0.0.1");
        let errors = unbound.errors();
        assert_eq!(errors.len(), 2, "{errors:?}");
        for address in [taken, ready] {
            assert!(errors.iter().any(|error| error.contains(&address.to_string())), "{errors:?}");
        }
        drop((other, http));
        while !unbound.errors().is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!((answer(taken).await, answer(free).await), ("10.0.0.1".to_owned(), "10.0.0.1".to_owned()));
        tokio::net::TcpStream::connect(ready).await.unwrap();
        supervisor.stop().await;

        let _other = UdpSocket::bind(taken).await.unwrap();
        let (endpoints, unbound) = (HttpEndpoints::default(), Unbound::default());
        let alone = Setup { listen: vec![taken], endpoints, unbound, ..setup };
        let error = Supervisor::start(alone.clone(), Arc::default()).unwrap_err().to_string();
        assert!(error.contains("cannot listen at"), "{error}");
        let agent = Setup { starts_unbound: true, ..alone };
        Supervisor::start(agent.clone(), Arc::default()).unwrap().stop().await;
        assert_eq!(agent.unbound.errors().len(), 1);
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
            allow: None,
            last_known_good: LastKnownGood::default(),
            endpoints: HttpEndpoints::default(),
            heartbeat: Heartbeat::default(),
            socket_observer: SocketObserver::default(),
            unbound: Unbound::default(),
            starts_unbound: false,
        };
        let supervisor = Supervisor::start(setup, Arc::default()).unwrap();
        assert_eq!(answer(port).await, "10.0.0.1");
        fs::write(&path, ". {\n bogus\n}").unwrap();
        while !supervisor.metrics().text().contains("coredns_reload_failed_total 1") {
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(answer(port).await, "10.0.0.1", "the previous configuration stays");
        write(&path, "10.0.0.2");
        while answer(port).await != "10.0.0.2" {
            sleep(Duration::from_millis(10)).await;
        }
        supervisor.stop().await;
    }
}
