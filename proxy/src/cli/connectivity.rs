//! `connectivity`: TCP connections from this node to every backend, and through every frontend; which fail, and why.
//!
//! ```text
//! {"connections": [{"service": "shop/web", "port_name": "http", "target": "backend|frontend", "address": "10.244.1.4:8080",
//!                   "protocol": "TCP", "result": "connected|refused|silent|unreachable|failed|not_tried
//!                              |unanswered|unannounced|large_packets_lost",
//!                   "milliseconds": 0.31, "message": ""}],
//!  "failed": 0}
//! ```
//!
//! The last three are connected, too, and told as warnings: see `cause`. The maps say where a connection would go, and only the backend whether it is accepted: this command asks. Connections
//! are closed at once, without data. UDP has no handshake, and a datagram would reach the application: not tried.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use futures_util::{StreamExt as _, stream};
use proxy_ebpf::abi::{BackendConnections, BackendFlags, BackendRef, Unclaimed};
use serde::{Serialize, Serializer};
use tokio::{net::TcpStream, task::spawn_blocking, time::timeout};

use super::{
    agents::{self, FindArgs},
    get::{
        labels::{Labels, ServicePort},
        selection::Selection,
    },
    output::{self, Format, OutputArgs, Tone},
};
use crate::{
    datapath::{self, InspectError, KernelMaps},
    model::{
        address::{IpFamily, Protocol},
        frontend::FrontendAddress,
    },
    reconcile::LbMaps as _,
};

mod cause;

/// Connections that are open at a time.
const AT_ONCE: usize = 64;
/// Machines that get large packets; each that answers takes some round trips, each that loses them some timeouts.
const MAX_PATHS: usize = 1024;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this Service
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    service: Option<String>,
    /// Seconds until a connection without an answer counts as silent
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=60))]
    timeout: u16,
    #[command(flatten)]
    find: FindArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct Report {
    connections: Vec<Connection>,
    failed: usize,
}

#[derive(Clone, Debug, Serialize)]
struct Connection {
    #[serde(flatten)]
    service: ServicePort,
    target: Target,
    address: SocketAddr,
    protocol: String,
    result: Outcome,
    #[serde(rename = "milliseconds", serialize_with = "milliseconds")]
    took: Duration,
    message: String,
    /// A frontend without one refuses every connection.
    #[serde(skip)]
    has_backends: bool,
    /// Of a backend.
    #[serde(skip)]
    counts: BackendConnections,
    /// No ClusterIP, and no NodePort.
    #[serde(skip)]
    is_external: bool,
}

/// Backends come first: a frontend fails if one of its backends does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Target {
    Backend,
    Frontend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Connected,
    Refused,
    Silent,
    Unreachable,
    Failed,
    NotTried,
    /// A backend that accepts connections and answers none.
    Unanswered,
    /// An external address that no machine of its network has.
    Unannounced,
    LargePacketsLost,
}

pub fn run(args: Args) -> Result<()> {
    let Args { service, timeout, find, output: OutputArgs { output } } = args;
    let bpffs = find.find()?.bpffs;
    let maps = match datapath::inspect(&bpffs) {
        Err(error @ InspectError::NoDataPlane(_)) => bail!("{error}{}", agents::hint(&bpffs, None)),
        opened => opened?,
    };
    let labels = Labels::read(&maps)?;
    let selection = service.as_deref().map(Selection::of).unwrap_or_default();
    if let Some(name) = selection.unknown(&labels) {
        bail!("no Service {name} in the data plane at {}", bpffs.display());
    }
    let targets = targets(&maps, &labels, &selection)?;
    let limit = Duration::from_secs(timeout.into());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let connections = runtime.context("cannot start a runtime")?.block_on(async {
        let connections = try_all(targets, limit).await;
        look_behind(connections, limit).await
    });
    let failed = connections.iter().filter(|connection| connection.result.is_failure()).count();
    let report = Report { connections, failed };
    match output {
        Format::Json => output::print_json(&report)?,
        Format::Table => output::print(&table(&report))?,
    }
    let tried = report.tried();
    if failed > 0 { bail!("{failed} of {tried} connections failed, see above") } else { Ok(()) }
}

/// Every backend, and every address of a frontend that this node can dial: of NodePorts the first of each family.
fn targets(maps: &KernelMaps, labels: &Labels, selection: &Selection) -> Result<Vec<Connection>> {
    let mut found = Vec::new();
    for family in IpFamily::BOTH {
        for index in 0..maps.capacity().backends {
            let entry = maps.backend(family, index)?;
            let service = labels.get(entry.service);
            if entry.flags.contains(BackendFlags::ALIVE) && selection.takes(service) {
                let protocol = Protocol::from_number(entry.protocol);
                let reference = BackendRef { index, generation: entry.generation };
                let counts = maps.backend_connections(family, reference)?;
                let connection = Connection::new(service.into(), Target::Backend, entry.address, protocol);
                found.push(Connection { counts, ..connection });
            }
        }
    }
    let mut node_ports: BTreeMap<IpFamily, IpAddr> = BTreeMap::new();
    for address in maps.node_port_addresses()?.into_iter().filter(|address| !address.is_loopback()) {
        node_ports.entry(IpFamily::of(address)).or_insert(address);
    }
    let cluster_ips: BTreeSet<IpAddr> = maps
        .service_networks()?
        .into_iter()
        .filter(|(_, unclaimed)| *unclaimed == Unclaimed::UndefinedPort)
        .map(|(network, _)| network.ip())
        .collect();
    let frontends: BTreeSet<_> = maps.frontends()?.into_iter().collect();
    for (key, index) in frontends {
        let descriptor = maps.descriptor(maps.published(index)?)?;
        let service = labels.get(descriptor.service);
        let address = match key.address {
            FrontendAddress::Ip(address) => Some(address),
            FrontendAddress::NodePort(family) => node_ports.get(&family).copied(),
        };
        let Some(address) = address.filter(|_| selection.takes(service)) else { continue };
        let address = SocketAddr::new(address, key.port);
        let connection = Connection::new(service.into(), Target::Frontend, address, Some(key.protocol));
        let is_external =
            matches!(key.address, FrontendAddress::Ip(address) if !cluster_ips.contains(&address));
        found.push(Connection { has_backends: descriptor.internal.count > 0, is_external, ..connection });
    }
    found.sort_by(|a, b| (&a.service, a.target, a.address).cmp(&(&b.service, b.target, b.address)));
    Ok(found)
}

async fn try_all(targets: Vec<Connection>, limit: Duration) -> Vec<Connection> {
    // In the order of the targets.
    stream::iter(targets).map(|target| target.tried(limit)).buffered(AT_ONCE).collect().await
}

/// Looks for causes behind the results: of each machine and address once.
async fn look_behind(mut connections: Vec<Connection>, limit: Duration) -> Vec<Connection> {
    let of = |wanted: &dyn Fn(&Connection) -> bool| -> BTreeSet<IpAddr> {
        connections.iter().filter(|one| wanted(one)).map(|one| one.address.ip()).collect()
    };
    let silent = of(&|one| matches!(one.result, Outcome::Silent | Outcome::Unreachable));
    let external = of(&|one| one.is_external && one.result != Outcome::NotTried);
    let sound = of(&|one| one.target == Target::Backend && one.result == Outcome::Connected);
    let silence = causes(silent, cause::of_silence).await;
    let external = causes(external, |address| cause::of_external_address(address, limit)).await;
    let paths = causes(sound.into_iter().take(MAX_PATHS).collect(), |address| async move {
        spawn_blocking(move || cause::of_path(address, limit)).await.ok().flatten()
    });
    let paths = paths.await;
    for one in &mut connections {
        one.explain(&silence, &external, &paths);
    }
    connections
}

/// Those of the addresses that have one.
async fn causes<F: Future<Output = Option<String>>>(
    addresses: BTreeSet<IpAddr>,
    cause: impl Fn(IpAddr) -> F,
) -> BTreeMap<IpAddr, String> {
    let all = stream::iter(addresses).map(|address| {
        let cause = cause(address);
        async move { Some((address, cause.await?)) }
    });
    all.buffer_unordered(AT_ONCE).filter_map(async |found| found).collect().await
}

impl Connection {
    fn explain(
        &mut self,
        silence: &BTreeMap<IpAddr, String>,
        external: &BTreeMap<IpAddr, String>,
        paths: &BTreeMap<IpAddr, String>,
    ) {
        let address = self.address.ip();
        let is_backend = self.target == Target::Backend;
        let announced_nowhere = external.get(&address).filter(|_| self.is_external);
        let found = match self.result {
            Outcome::Silent | Outcome::Unreachable => {
                silence.get(&address).or(announced_nowhere).map(|cause| (self.result, cause.clone()))
            }
            Outcome::Connected if is_backend => cause::of_counts(&self.counts)
                .map(|cause| (Outcome::Unanswered, cause))
                .or_else(|| Some((Outcome::LargePacketsLost, paths.get(&address)?.clone()))),
            Outcome::Connected => announced_nowhere.map(|cause| (Outcome::Unannounced, cause.clone())),
            Outcome::Refused
            | Outcome::Failed
            | Outcome::NotTried
            | Outcome::Unanswered
            | Outcome::Unannounced
            | Outcome::LargePacketsLost => None,
        };
        if let Some((result, message)) = found {
            (self.result, self.message) = (result, message);
        }
    }

    fn new(service: ServicePort, target: Target, address: SocketAddr, protocol: Option<Protocol>) -> Self {
        let message = "only TCP is tried".to_owned();
        let (result, message) = match protocol {
            Some(Protocol::Tcp) => (Outcome::Connected, String::new()),
            Some(Protocol::Udp | Protocol::Sctp) | None => (Outcome::NotTried, message),
        };
        let protocol = protocol.map_or_else(|| "?".to_owned(), |protocol| protocol.to_string());
        Self {
            service,
            target,
            address,
            protocol,
            result,
            took: Duration::ZERO,
            message,
            has_backends: true,
            counts: BackendConnections::default(),
            is_external: false,
        }
    }

    async fn tried(self, limit: Duration) -> Self {
        if self.result == Outcome::NotTried {
            return self;
        }
        let began = Instant::now();
        let connected = timeout(limit, TcpStream::connect(self.address)).await;
        let took = began.elapsed();
        let (result, message) = match connected {
            Ok(Ok(_)) => (Outcome::Connected, String::new()),
            Ok(Err(error)) => self.refusal(&error),
            Err(_) => {
                let reason = "a firewall or a NetworkPolicy drops it, the process does not accept, or no route leads back";
                (Outcome::Silent, format!("no answer within {} s: {reason}", limit.as_secs()))
            }
        };
        Self { result, took, message, ..self }
    }

    fn refusal(&self, error: &io::Error) -> (Outcome, String) {
        let is = |kind: io::ErrorKind| error.kind() == kind;
        if is(io::ErrorKind::ConnectionRefused) && !self.has_backends {
            (Outcome::Refused, "the Service has no usable endpoint here: see `portreeve explain`".to_owned())
        } else if is(io::ErrorKind::ConnectionRefused) {
            (Outcome::Refused, format!("nothing listens on port {}", self.address.port()))
        } else if is(io::ErrorKind::HostUnreachable) || is(io::ErrorKind::NetworkUnreachable) {
            (Outcome::Unreachable, format!("no route, or no neighbour answers: {error}"))
        } else {
            (Outcome::Failed, error.to_string())
        }
    }
}

impl Outcome {
    fn is_failure(self) -> bool {
        matches!(self, Self::Refused | Self::Silent | Self::Unreachable | Self::Failed)
    }

    /// It succeeded, and users may still have a reason to complain.
    fn is_warning(self) -> bool {
        matches!(self, Self::Unanswered | Self::Unannounced | Self::LargePacketsLost)
    }

    fn text(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Unreachable => "unreachable",
            Self::Failed => "failed",
            Self::NotTried => "not tried",
            Self::Unanswered => "unanswered",
            Self::Unannounced => "unannounced",
            Self::LargePacketsLost => "large packets lost",
        }
    }
}

impl Target {
    fn text(self) -> &'static str {
        match self {
            Self::Backend => "backend",
            Self::Frontend => "frontend",
        }
    }
}

impl Report {
    fn tried(&self) -> usize {
        self.connections.iter().filter(|connection| connection.result != Outcome::NotTried).count()
    }
}

/// The failures and warnings, and a line about the others.
fn table(report: &Report) -> String {
    let mut table = output::table();
    table.set_header(["SERVICE", "TARGET", "ADDRESS", "RESULT", "TIME", "MESSAGE"]);
    let is_shown = |one: &&Connection| one.result.is_failure() || one.result.is_warning();
    let mut warnings = 0;
    for connection in report.connections.iter().filter(is_shown) {
        warnings += usize::from(connection.result.is_warning());
        let plain = |text: &str| output::cell(text, Tone::Plain);
        table.add_row([
            plain(&connection.service.text()),
            plain(connection.target.text()),
            plain(&connection.address.to_string()),
            output::cell(connection.result.text(), Tone::Bad),
            plain(&format!("{}ms", connection.took.as_millis())),
            plain(&connection.message),
        ]);
    }
    let rows = if report.failed + warnings > 0 { output::text(table) + "\n" } else { String::new() };
    let (tried, all) = (report.tried(), report.connections.len());
    let not_tried = all - tried;
    let rest = if not_tried > 0 { format!(", {not_tried} not tried (only TCP is)") } else { String::new() };
    let but = if warnings > 0 { format!(", {warnings} of them with a warning") } else { String::new() };
    format!("{rows}{} of {tried} connections succeeded{but}{rest}\n", tried - report.failed)
}

fn milliseconds<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((took.as_secs_f64() * 1e5).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use expect_test::expect;

    use super::*;

    fn connection(target: Target, address: SocketAddr, protocol: Protocol) -> Connection {
        Connection::new(None.into(), target, address, Some(protocol))
    }

    #[tokio::test]
    async fn each_connection_has_a_result() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let empty = Connection { has_backends: false, ..connection(Target::Frontend, closed, Protocol::Tcp) };
        let targets = vec![
            connection(Target::Backend, open, Protocol::Tcp),
            connection(Target::Backend, closed, Protocol::Tcp),
            connection(Target::Backend, closed, Protocol::Udp),
            empty,
        ];
        let results: Vec<_> = try_all(targets, Duration::from_secs(20)).await;
        let results: Vec<_> = results.iter().map(|one| (one.result.text(), one.message.as_str())).collect();
        assert_eq!(
            results,
            [
                ("connected", ""),
                ("refused", &*format!("nothing listens on port {}", closed.port())),
                ("not tried", "only TCP is tried"),
                ("refused", "the Service has no usable endpoint here: see `portreeve explain`"),
            ]
        );
    }

    #[test]
    fn causes_behind_results_are_told() {
        let address: SocketAddr = "10.244.1.4:8080".parse().unwrap();
        let cause = |text: &str| BTreeMap::from([(address.ip(), text.to_owned())]);
        let stuck = BackendConnections { closed: 9, sent: 900, ..BackendConnections::default() };
        let of = |target, result, is_external, counts| {
            let one = connection(target, address, Protocol::Tcp);
            let mut one = Connection { result, is_external, counts, ..one };
            one.explain(&cause("permanent"), &cause("announced nowhere"), &cause("small only"));
            (one.result.text(), one.message.split(',').next().unwrap_or_default().to_owned())
        };
        let none = BackendConnections::default();
        for (target, result, is_external, counts, want) in [
            (Target::Backend, Outcome::Silent, false, none, ("silent", "permanent")),
            (Target::Backend, Outcome::Connected, false, stuck, ("unanswered", "accepts")),
            (Target::Backend, Outcome::Connected, false, none, ("large packets lost", "small only")),
            (Target::Frontend, Outcome::Connected, true, none, ("unannounced", "announced nowhere")),
            (Target::Frontend, Outcome::Silent, true, none, ("silent", "permanent")),
            (Target::Frontend, Outcome::Connected, false, none, ("connected", "")),
            (Target::Frontend, Outcome::Refused, true, none, ("refused", "")),
        ] {
            let (result, message) = of(target, result, is_external, counts);
            assert_eq!((result, message.as_str()), want);
        }
    }

    #[test]
    fn the_fields_of_a_connection_are_those_of_the_reference() {
        let address = "10.244.1.4:8080".parse().unwrap();
        let took = Duration::from_micros(310);
        let connected = Connection { took, ..connection(Target::Backend, address, Protocol::Tcp) };
        let report = Report { connections: vec![connected], failed: 0 };
        let fields = serde_json::to_value(&report).unwrap();
        let one = &fields["connections"][0];
        for field in
            ["service", "port_name", "target", "address", "protocol", "result", "milliseconds", "message"]
        {
            assert!(one.get(field).is_some(), "{field} is missing: {one}");
        }
        assert_eq!((&one["milliseconds"], &one["result"]), (&0.31.into(), &"connected".into()));
    }

    #[test]
    fn the_screen_shows_failures() {
        let address = "10.244.1.4:8080".parse().unwrap();
        let good = connection(Target::Frontend, address, Protocol::Tcp);
        let bad = Connection {
            result: Outcome::Refused,
            took: Duration::from_millis(3),
            message: "nothing listens on port 8080".to_owned(),
            ..connection(Target::Backend, address, Protocol::Tcp)
        };
        let udp = connection(Target::Backend, address, Protocol::Udp);
        let text = |connections: &[&Connection]| {
            let connections: Vec<_> = connections.iter().copied().cloned().collect();
            let failed = connections.iter().filter(|one| one.result.is_failure()).count();
            table(&Report { connections, failed })
        };
        expect![[r#"
            SERVICE  TARGET   ADDRESS          RESULT   TIME  MESSAGE
            ?        backend  10.244.1.4:8080  refused  3ms   nothing listens on port 8080

            1 of 2 connections succeeded, 1 not tried (only TCP is)
        "#]]
        .assert_eq(&text(&[&good, &bad, &udp]));
        assert_eq!(text(&[&good]), "1 of 1 connections succeeded\n");
        let warned = Connection { result: Outcome::Unannounced, ..good.clone() };
        assert!(
            text(&[&good, &warned]).ends_with("\n\n2 of 2 connections succeeded, 1 of them with a warning\n")
        );
    }
}
