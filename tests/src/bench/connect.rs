//! The cost of a connect to a ClusterIP compared with a connect to the pod.
//!
//! One client process connects alternately to one server, directly and through the ClusterIP, with many other
//! Services loaded. The machine's noise affects both alike, so their ratio is more reliable than absolute times.
//! For comparison it also connects from a cgroup without the programs.

mod client;
mod report;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
    process::ChildStdout,
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use proxy_ebpf::abi::SOCK_OPS;
use serde::{Deserialize, Serialize};

use super::{process, sockets};
use crate::lab::{
    cluster::{Cluster, Placement, pod_network, service_network},
    kernel::cgroup::Cgroup,
    objects::{Condition, EndpointObject, Port, ServiceObjects},
    pod::Pod,
    traffic::Protocol,
};

pub use client::Task;
pub use report::{Comparison, Report};

/// Parameters of the measurement.
#[derive(Debug, Clone, Copy)]
pub struct Parameters {
    /// Loaded besides the dialled one.
    pub services: u16,
    pub rounds: u32,
    /// Connects per path and round.
    pub connects: u32,
    /// Measures again without the program that counts the connections of sockets.
    pub is_counting_compared: bool,
}

/// The ports of the Service. Its pod serves other ports, so that an untranslated connection fails.
const PORTS: [(Protocol, u16); 2] = [(Protocol::Tcp, 80), (Protocol::Udp, 53)];
/// The other Services are numbered from here, above the ClusterIPs that the cluster allocates.
const FIRST_SERVICE: u16 = 2000;
const ENDPOINTS: u16 = 10;

pub async fn run(parameters: &Parameters) -> Result<Report> {
    let cluster = Cluster::start("connect").without_agents().build().await?;
    let server = cluster.ensure_pod("server", Placement::Node(0), None).await?;
    let client = cluster.ensure_pod("client", Placement::Node(0), None).await?;
    let bare = cluster.cgroup().child("bare")?;
    load_services(&cluster, parameters.services)?;
    let vip = dialled_service(&cluster, &server)?;
    cluster.node(0).start_agent().await?;

    let ports = PORTS.map(|(protocol, port)| Port::new(protocol, port));
    let serving = ServerTask { tcp: ports[0].target, udp: ports[1].target };
    let (_serving, _output) = started(process::start(&serving, server.netns(), server.cgroup())?)?;
    let setting = Setting { ports, server, client, vip, bare };
    let mut report = Report { comparisons: setting.compare(parameters).await?, uncounted: Vec::new() };
    if parameters.is_counting_compared {
        // Without an agent nobody attaches it again.
        cluster.node(0).terminate_agent().await?;
        detach_counting(cluster.node(0).bpffs())?;
        report.uncounted = setting.compare(parameters).await?;
    }
    Ok(report)
}

/// Removes the pin of the program that counts connections, and with it the link.
fn detach_counting(bpffs: &Path) -> Result<()> {
    let pin = bpffs.join("links").join(SOCK_OPS);
    fs::remove_file(&pin).with_context(|| format!("cannot remove {}", pin.display()))
}

/// The two ends, and the Service between them.
struct Setting {
    ports: [Port; 2],
    server: Arc<Pod>,
    client: Arc<Pod>,
    vip: ServiceObjects,
    /// Without the programs.
    bare: Cgroup,
}

impl Setting {
    async fn compare(&self, parameters: &Parameters) -> Result<Vec<Comparison>> {
        let mut comparisons = Vec::new();
        for port in self.ports {
            for (direct, vip) in self.server.addresses.both().into_iter().zip(self.vip.cluster_ips.iter()) {
                let task = Task {
                    protocol: port.protocol,
                    direct: SocketAddr::new(direct, port.target),
                    vip: SocketAddr::new(*vip, port.port),
                    rounds: parameters.rounds,
                    connects: parameters.connects,
                    bare: self.bare.path().to_owned(),
                    covered: self.client.cgroup().path().to_owned(),
                };
                comparisons.push(compare(task, &self.client).await?);
            }
        }
        Ok(comparisons)
    }
}

async fn compare(task: Task, client: &Pod) -> Result<Comparison> {
    let (protocol, is_v4) = (task.protocol, task.vip.is_ipv4());
    let (process, mut output) = process::start(&task, client.netns(), client.cgroup())?;
    let mut text = String::new();
    output.read_to_string(&mut text).context("cannot read the results of the client")?;
    process::finish(process).await?;
    let rounds = serde_json::from_str(&text).context("cannot parse the results of the client")?;
    Ok(Comparison::new(protocol, is_v4, rounds))
}

/// The Service whose only backend is the server.
fn dialled_service(cluster: &Cluster, server: &Pod) -> Result<ServiceObjects> {
    let endpoint = EndpointObject {
        pod: server.name.clone(),
        addresses: server.addresses,
        node: server.node.clone(),
        condition: Condition::Ready,
    };
    let objects = ServiceObjects {
        name: "dialled".to_owned(),
        cluster_ips: cluster.next_vip().both().into(),
        ports: PORTS.map(|(protocol, port)| Port::new(protocol, port)).into(),
        affinity: None,
        load_balancer_ips: Vec::new(),
        unlisted: Vec::new(),
        endpoints: vec![endpoint],
        change: Vec::new(),
    };
    objects.write(cluster.manifests())?;
    Ok(objects)
}

/// Services without clients, in one file.
fn load_services(cluster: &Cluster, count: u16) -> Result<()> {
    ensure!(count < u16::MAX - FIRST_SERVICE, "the Service network is too small for {count} Services");
    let mut text = String::new();
    let mut add = |object: serde_json::Result<String>| -> Result<()> {
        text.push_str(&object.context("cannot write an object")?);
        text.push_str("\n---\n");
        Ok(())
    };
    for number in 0..count {
        let objects = other_service(number);
        add(serde_json::to_string(&objects.service()))?;
        objects.slices().iter().try_for_each(|(_, slice)| add(serde_json::to_string(slice)))?;
    }
    cluster.manifests().write_text("others.yaml", &text)
}

fn other_service(number: u16) -> ServiceObjects {
    let endpoint = |at: u16| EndpointObject {
        pod: format!("other-{number}-{at}"),
        addresses: pod_network(2 + (number % 200) as u8).host(1 + at),
        node: Some("elsewhere".to_owned()),
        condition: Condition::Ready,
    };
    let vips: [IpAddr; 2] = service_network().host(FIRST_SERVICE + number).both();
    ServiceObjects {
        name: format!("other-{number}"),
        cluster_ips: vips.into(),
        ports: vec![Port::new(Protocol::Tcp, 80)],
        affinity: None,
        load_balancer_ips: Vec::new(),
        unlisted: Vec::new(),
        endpoints: (0..ENDPOINTS).map(endpoint).collect(),
        change: Vec::new(),
    }
}

/// The ports that the server serves.
#[derive(Debug, Serialize, Deserialize)]
pub struct ServerTask {
    tcp: u16,
    udp: u16,
}

const READY: &str = "ready";

fn started<P>((process, output): (P, ChildStdout)) -> Result<(P, BufReader<ChildStdout>)> {
    let mut output = BufReader::new(output);
    let mut line = String::new();
    output.read_line(&mut line).context("cannot read from the server")?;
    ensure!(line.trim_end() == READY, "the server does not serve");
    Ok((process, output))
}

impl process::Task for ServerTask {
    const NAME: &'static str = "serve";

    fn run(&self) -> Result<()> {
        serve(self)
    }
}

/// Serves until the process is killed.
fn serve(serving: &ServerTask) -> Result<()> {
    let mut threads = Vec::new();
    for listener in sockets::listeners(serving.tcp)? {
        threads.push(thread::spawn(move || accept(&listener)));
    }
    for socket in sockets::datagram_sockets(serving.udp)? {
        threads.push(thread::spawn(move || echo(&socket)));
    }
    writeln!(std::io::stdout(), "{READY}").context("the parent does not read")?;
    threads.into_iter().try_for_each(|thread| thread.join()).ok().context("a server panicked")
}

/// The client resets its connections, so that no TIME_WAIT remains on either side.
fn accept(listener: &TcpListener) {
    loop {
        drop(listener.accept().map(|(mut stream, _)| stream.read(&mut [0])));
    }
}

fn echo(socket: &UdpSocket) {
    let mut buffer = [0; 64];
    loop {
        // An ICMP error about an earlier answer is reported here; the next datagram is still answered.
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let _ = socket.send_to(&buffer[..length], from);
    }
}
