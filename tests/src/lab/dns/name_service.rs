//! The cluster's DNS Service of a story: every node serves it locally, and a server in a pod of the last node is
//! its endpoint. The address of one name identifies the server that answered.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::lab::{
    addresses::Addresses,
    agent::portreeve,
    cluster::{Builder, Cluster},
    frontends::Frontends,
    kernel::process::Process,
    objects::{Condition, EndpointObject, NAMESPACE, Port, ServiceChange, ServiceObjects},
    pod::Pod,
    traffic::{IDENTITY_NAME, Protocol},
};

const NAME: &str = "names";
const PORT: u16 = 53;
/// The answers of nodes and of the endpoint.
pub const NODE_ANSWER: &str = "192.0.2.1";
pub const ENDPOINT_ANSWER: &str = "192.0.2.2";
/// The answer of nodes after a change of their Corefile.
pub const CHANGED_ANSWER: &str = "192.0.2.3";

/// The DNS configuration of nodes, before there is a cluster.
pub struct NameService {
    directory: TempDir,
}

/// The running Service.
pub struct DnsService {
    pub vip: Addresses,
    pub endpoint: Arc<Pod>,
    /// The server behind the Service.
    _server: Process,
}

impl NameService {
    pub fn new() -> Result<Self> {
        let directory = tempfile::tempdir().context("cannot create a temporary directory")?;
        let service = Self { directory };
        service.write("nodes", NODE_ANSWER)?;
        service.write("endpoint", ENDPOINT_ANSWER)?;
        Ok(service)
    }

    /// Changes the answer of nodes.
    pub fn change(&self) -> Result<()> {
        self.write("nodes", CHANGED_ANSWER)
    }

    /// The nodes' Corefile again, after [`Self::set_corefile`].
    pub fn restore(&self) -> Result<()> {
        self.write("nodes", NODE_ANSWER)
    }

    /// Replaces the nodes' Corefile; `None` removes it.
    pub fn set_corefile(&self, text: Option<&str>) -> Result<()> {
        let path = self.corefile("nodes");
        let changed = match text {
            Some(text) => fs::write(&path, text),
            None => fs::remove_file(&path),
        };
        changed.with_context(|| format!("cannot change {}", path.display()))
    }

    /// Forwards external names to the endpoint, which does not exist yet.
    pub fn forward_to(&self, endpoint: IpAddr) -> Result<()> {
        let upstream = SocketAddr::new(endpoint, Port::new(Protocol::Udp, PORT).target);
        let text = format!(
            "cluster.local {{\n kubernetes cluster.local\n}}\n. {{\n forward . {upstream}\n cache 30\n}}\n"
        );
        fs::write(self.corefile("nodes"), text).context("cannot write a Corefile")
    }

    /// Configures every agent to serve DNS, also at the Service's address.
    pub fn configure(&self, cluster: Builder) -> Builder {
        let corefile = format!("--corefile={}", self.corefile("nodes").display());
        cluster.flag(&corefile).flag(&format!("--dns-service={NAMESPACE}/{NAME}"))
    }

    /// Starts the endpoint on the last node, and writes the Service.
    pub async fn start(&self, cluster: &Cluster) -> Result<DnsService> {
        let last = cluster.nodes().len().saturating_sub(1);
        let endpoint = cluster.pod("names-elsewhere").on(last).start().await;
        let server = self.serve(&endpoint, cluster.manifests().directory())?;
        let vip = cluster.next_vip();
        objects(vip, &endpoint).write(cluster.manifests())?;
        Ok(DnsService { vip, endpoint, _server: server })
    }

    /// Starts the endpoint as [`Self::start`], and writes the Service with frontends for clients outside of the cluster.
    pub async fn start_for_outside(&self, cluster: &Cluster, frontends: Frontends) -> Result<DnsService> {
        let service = self.start(cluster).await?;
        let mut objects = objects(service.vip, &service.endpoint);
        objects.load_balancer_ips = frontends.load_balancer.both().into();
        objects.ports.iter_mut().for_each(|port| port.node_port = Some(frontends.node_port));
        objects.change.push(ServiceChange(Box::new(|spec| spec.type_ = Some("LoadBalancer".to_owned()))));
        objects.write(cluster.manifests())?;
        Ok(service)
    }

    fn serve(&self, pod: &Pod, manifests: &Path) -> Result<Process> {
        let mut command = Command::new(portreeve()?);
        command.arg("dns").arg("--manifests").arg(manifests);
        command.arg("--corefile").arg(self.corefile("endpoint")).env("NO_COLOR", "1");
        for address in pod.addresses.both() {
            let listen = SocketAddr::new(address, Port::new(Protocol::Udp, PORT).target);
            command.arg(format!("--dns-listen={listen}"));
        }
        let log = fs::File::create(self.directory.path().join("endpoint.log")).context("cannot log")?;
        command.stdout(log.try_clone()?).stderr(log);
        Process::start("the name server in a pod", command, pod.netns(), Some(pod.cgroup()))
    }

    fn write(&self, server: &str, answer: &str) -> Result<()> {
        let (corefile, name) = (self.corefile(server), IDENTITY_NAME.trim_end_matches('.'));
        // An address of each family: a negative answer would need an SOA record with a TTL.
        let hosts = format!("hosts /nonexistent {{\n  {answer} {name}\n  2001:db8::1 {name}\n }}");
        let text =
            format!("cluster.local {{\n kubernetes cluster.local\n}}\n. {{\n reload 2s 1s\n {hosts}\n}}\n");
        fs::write(&corefile, text).with_context(|| format!("cannot write {}", corefile.display()))
    }

    fn corefile(&self, server: &str) -> PathBuf {
        self.directory.path().join(format!("Corefile.{server}"))
    }
}

impl DnsService {
    /// The Service's addresses.
    pub fn addresses(&self) -> [SocketAddr; 2] {
        self.vip.both().map(|ip| SocketAddr::new(ip, PORT))
    }

    /// The endpoint's addresses, in the same order.
    pub fn backends(&self) -> [SocketAddr; 2] {
        let port = Port::new(Protocol::Udp, PORT).target;
        self.endpoint.addresses.both().map(|ip| SocketAddr::new(ip, port))
    }

    /// The Service's IPv4 address.
    pub fn v4(&self) -> SocketAddr {
        SocketAddr::new(self.vip.v4.into(), PORT)
    }

    /// An address that only nodes serve.
    pub fn local(address: Ipv4Addr) -> SocketAddr {
        SocketAddr::new(address.into(), PORT)
    }
}

fn objects(vip: Addresses, endpoint: &Pod) -> ServiceObjects {
    let endpoint = EndpointObject {
        pod: endpoint.name.clone(),
        addresses: endpoint.addresses,
        node: endpoint.node.clone(),
        condition: Condition::Ready,
    };
    ServiceObjects {
        name: NAME.to_owned(),
        cluster_ips: vip.both().into(),
        ports: [Protocol::Udp, Protocol::Tcp].map(|protocol| Port::new(protocol, PORT)).into(),
        affinity: None,
        endpoints: vec![endpoint],
        unlisted: Vec::new(),
        change: Vec::new(),
        load_balancer_ips: Vec::new(),
    }
}
