//! Nodes on a common fabric, pods on the nodes, external clients.
//!
//! ```text
//! pod ─ bridge `pods` ─ node-1 ─┐
//! pod ─ bridge `pods` ─ node-2 ─┴─ fabric (a bridge, and the router to all other networks) ─ external client
//! ```
//!
//! Nodes and the router have routes to all pods, unless a story selects another `PodNetwork`. There are no routes
//! to Services: the router rejects untranslated packets at once, as a story would otherwise wait for a timeout.

use std::{
    collections::BTreeMap,
    env,
    future::{Future, IntoFuture},
    net::IpAddr,
    os::fd::OwnedFd,
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};
use ipnetwork::IpNetwork;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::lab::{
    addresses::{Addresses, Subnet},
    agent::{AgentSetting, Source},
    dump,
    kernel::{
        cgroup::Cgroup,
        leftovers,
        mounts::PinDir,
        netns::{Netlink, Netns},
        nic_offloads,
    },
    node::{Node, NodeParts},
    objects::{self, Manifests},
    pod::Pod,
    pod_network::{PodNetwork, add_default_routes},
};

const FABRIC: &str = "fabric";
const OUTSIDE: &str = "outside";
/// Host numbers of the router and the nodes on the fabric.
const ROUTER: u16 = 1;
const FIRST_NODE: u16 = 11;
/// Limits the clusters of one test program that exist at a time, independently of its number of threads.
static CLUSTERS: Semaphore = Semaphore::const_new(4);

/// The networks of every cluster; clusters are isolated from each other.
pub fn node_network() -> Subnet {
    Subnet::new([172, 18, 0, 0], 24, [0xfd00, 0x172, 0x18, 0, 0, 0, 0, 0], 64)
}

/// The pods of the node with this number, counted from 1 as in node names.
pub fn pod_network(node: u8) -> Subnet {
    Subnet::new([10, 244, node, 0], 24, [0xfd00, 0x10, 0x244, u16::from(node), 0, 0, 0, 0], 64)
}

pub fn service_network() -> Subnet {
    Subnet::new([10, 96, 0, 0], 16, [0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0], 112)
}

pub fn outside_network() -> Subnet {
    Subnet::new([198, 51, 100, 0], 24, [0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0], 64)
}

pub struct Cluster {
    // Pods before their nodes.
    pods: Mutex<BTreeMap<String, Arc<Pod>>>,
    nodes: Vec<Node>,
    fabric: Netns,
    outside: Cgroup,
    sandboxes: Cgroup,
    manifests: Manifests,
    next_vip: AtomicU16,
    next_client: AtomicU16,
    has_agents: bool,
    has_nics: bool,
    /// XDP programs at the router's devices, without which frames that XDP transmits at nodes are not received.
    listening: Vec<OwnedFd>,
    // After all of its children.
    cgroup: Cgroup,
    directory: TempDir,
    _permit: SemaphorePermit<'static>,
}

/// Options of a cluster: `Cluster::start("name").nodes(2).await`.
pub struct Builder {
    name: String,
    nodes: u8,
    agents: bool,
    network: PodNetwork,
    cards: bool,
    flags: Vec<String>,
}

/// The location of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// On the node with this index, in a network namespace of its own.
    Node(usize),
    /// On the node with this index, in the node's network namespace.
    Host(usize),
    /// On the node with this index, in a cgroup whose sockets no program of that node sees, as for a pod in a
    /// virtual machine or with a network stack of its own.
    Sandbox(usize),
    /// Behind the router.
    Outside,
}

impl Cluster {
    pub fn start(name: &str) -> Builder {
        Builder {
            name: name.to_owned(),
            nodes: 1,
            agents: true,
            network: PodNetwork::default(),
            cards: false,
            flags: Vec::new(),
        }
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node with this index, counted from 0.
    pub fn node(&self, index: usize) -> &Node {
        self.nodes.get(index).unwrap_or_else(|| panic!("there is no node with index {index}"))
    }

    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The directory of manifests and logs.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn has_agents(&self) -> bool {
        self.has_agents
    }

    pub fn all_pods(&self) -> Vec<Arc<Pod>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// A ClusterIP of each family that no other Service of this cluster has.
    pub fn next_vip(&self) -> Addresses {
        service_network().host(self.next_vip.fetch_add(1, Ordering::Relaxed))
    }

    /// The pod of this name. Starts it if it does not exist, with these addresses if they are given.
    pub async fn ensure_pod(
        &self,
        name: &str,
        placement: Placement,
        addresses: Option<Addresses>,
    ) -> Result<Arc<Pod>> {
        if let Some(pod) = self.existing(name) {
            return Ok(pod);
        }
        let pod = match placement {
            Placement::Node(index) => {
                let cgroup = self.node_at(index)?.cgroup().child(name)?;
                self.start_pod(name, index, addresses, cgroup).await
            }
            Placement::Sandbox(index) => {
                let cgroup = self.sandboxes.child(name)?;
                self.start_pod(name, index, addresses, cgroup).await
            }
            Placement::Host(index) => self.start_host_pod(name, index),
            Placement::Outside => self.start_client(name).await,
        };
        let pod = Arc::new(pod.with_context(|| format!("cannot start {name}"))?);
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Arc::clone(&pod));
        Ok(pod)
    }

    /// Removes a pod. Its process and its devices are removed with the last reference.
    pub fn remove_pod(&self, name: &str) {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    fn existing(&self, name: &str) -> Option<Arc<Pod>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    async fn start_pod(
        &self,
        name: &str,
        index: usize,
        addresses: Option<Addresses>,
        cgroup: Cgroup,
    ) -> Result<Pod> {
        let node = self.node_at(index)?;
        let addresses = addresses.unwrap_or_else(|| node.next_pod());
        let netns = Netns::create().await?;
        node.network.plug(&netns, node.netns(), &node.pods, addresses).await?;
        self.fill_checksums([(&netns, "eth0")])?;
        Pod::start(name, Some(node.name.clone()), addresses, Arc::new(netns), cgroup)
    }

    fn fill_checksums<const N: usize>(&self, devices: [(&Netns, &str); N]) -> Result<()> {
        if !self.has_nics {
            return Ok(());
        }
        devices.into_iter().try_for_each(|(netns, device)| nic_offloads::fill_checksums(netns, device))
    }

    fn node_at(&self, index: usize) -> Result<&Node> {
        self.nodes.get(index).with_context(|| format!("there is no node with index {index}"))
    }

    fn start_host_pod(&self, name: &str, index: usize) -> Result<Pod> {
        let node = self.node_at(index)?;
        let (netns, cgroup) = (Arc::clone(node.netns()), node.cgroup().child(name)?);
        Pod::start(name, Some(node.name.clone()), node.addresses, netns, cgroup)
    }

    async fn start_client(&self, name: &str) -> Result<Pod> {
        let network = outside_network();
        let number = self.next_client.fetch_add(1, Ordering::Relaxed);
        let (addresses, netns) = (network.host(number), Netns::create().await?);
        let links = (netns.netlink()?, self.fabric.netlink()?);
        let port = format!("client{number}");
        plug((&links.0, &links.1), "eth0", &port, OUTSIDE).await?;
        self.fill_checksums([(&netns, "eth0"), (&self.fabric, &port)])?;
        configure_eth0(&links.0, &network, addresses, network.host(ROUTER)).await?;
        links.1.wait_for_neighbour_discovery(OUTSIDE).await?;
        drop(links);
        Pod::start(name, None, addresses, Arc::new(netns), self.outside.child(name)?)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", dump::text(&self.all_pods(), &self.nodes, &self.manifests));
        }
        // A story's own references to pods are dropped already: they were created after the cluster.
        self.pods.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Builder {
    pub fn nodes(self, count: u8) -> Self {
        Self { nodes: count, ..self }
    }

    /// Nodes without an agent, until a story starts one.
    pub fn without_agents(self) -> Self {
        Self { agents: false, ..self }
    }

    pub fn pod_network(self, network: PodNetwork) -> Self {
        Self { network, ..self }
    }

    /// All devices behave as NICs do, which XDP programs rely on: complete checksums on received frames.
    pub fn nics(self) -> Self {
        Self { cards: true, ..self }
    }

    /// An additional argument for every agent.
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// Every agent serves DNS, without external names.
    pub fn names(self) -> Self {
        self.flag(concat!("--corefile=", env!("CARGO_MANIFEST_DIR"), "/testdata/Corefile"))
    }

    pub async fn build(self) -> Result<Cluster> {
        let permit = CLUSTERS.acquire().await.context("the semaphore of clusters is closed")?;
        let name = leftovers::unique_name(&self.name);
        leftovers::sweep(&env::temp_dir(), leftovers::remove_directory);
        let directory = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir();
        let directory = directory.context("cannot create a temporary directory")?;
        let manifests = Manifests::create(directory.path())?;
        let cgroup = Cgroup::at_the_root(&name)?;
        let mut cluster = Cluster {
            pods: Mutex::default(),
            nodes: Vec::new(),
            fabric: start_fabric().await.context("cannot set up the fabric")?,
            outside: cgroup.child(OUTSIDE)?,
            sandboxes: cgroup.child("sandboxes")?,
            manifests,
            next_vip: AtomicU16::new(1000),
            next_client: AtomicU16::new(10),
            has_agents: self.agents,
            has_nics: self.cards,
            listening: Vec::new(),
            cgroup,
            directory,
            _permit: permit,
        };
        for number in 1..=self.nodes {
            let node = cluster.start_node(number, &format!("{name}-{number}"), &self).await;
            cluster.nodes.push(node.with_context(|| format!("cannot start node-{number}"))?);
            if self.cards {
                cluster.listening.push(nic_offloads::listen(&cluster.fabric, &format!("node-{number}"))?);
            }
        }
        cluster.connect_nodes().await.context("cannot connect the nodes")?;
        if self.agents {
            cluster.start_agents().await?;
        }
        Ok(cluster)
    }
}

impl IntoFuture for Builder {
    type Output = Cluster;
    type IntoFuture = Pin<Box<dyn Future<Output = Cluster>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async { self.build().await.unwrap_or_else(|error| panic!("{error:#}")) })
    }
}

impl Cluster {
    /// Starts an agent on every node, in parallel.
    pub async fn start_agents(&self) -> Result<()> {
        for node in &self.nodes {
            node.spawn_agent().await?;
        }
        for node in &self.nodes {
            node.agent_is_ready().await?;
        }
        Ok(())
    }

    async fn start_node(&self, number: u8, pins: &str, builder: &Builder) -> Result<Node> {
        let name = format!("node-{number}");
        let network = node_network();
        let (addresses, pods) = (network.host(FIRST_NODE - 1 + u16::from(number)), pod_network(number));
        let netns = Netns::create().await?;
        let links = (netns.netlink()?, self.fabric.netlink()?);
        plug((&links.0, &links.1), "eth0", &name, FABRIC).await?;
        self.fill_checksums([(&netns, "eth0"), (&self.fabric, &name)])?;
        configure_eth0(&links.0, &network, addresses, network.host(ROUTER)).await?;
        links.1.wait_for_neighbour_discovery(FABRIC).await?;
        drop(links);
        self.manifests.write(&format!("{name}.yaml"), &objects::node(&name, addresses, &pods))?;
        let (pins, cgroup) = (PinDir::create(pins)?, self.cgroup.child(&name)?);
        let directory = self.directory.path();
        let setting = AgentSetting {
            source: Source::Manifests(self.manifests.directory().to_owned()),
            cgroup: cgroup.path().to_owned(),
            bpffs: pins.path().to_owned(),
            log: directory.join(format!("{name}.log")),
            notify: directory.join(format!("{name}.notify")),
            more: builder.flags.clone(),
            binary: None,
            node: name,
        };
        Node::start(NodeParts { addresses, pods, network: builder.network, setting, netns, pins, cgroup })
            .await
    }

    /// Adds routes to the pods of the other nodes on every node, and on the router if the pod network has them.
    async fn connect_nodes(&self) -> Result<()> {
        for node in &self.nodes {
            node.network.announce(&self.fabric, &node.addressing()).await?;
            for other in self.nodes.iter().filter(|other| other.name != node.name) {
                node.network.connect(node.netns(), &other.addressing()).await?;
            }
        }
        Ok(())
    }

    /// Limits the MTU towards external clients: the router rejects larger packets.
    pub async fn limit_outside_mtu(&self, bytes: u32) -> Result<()> {
        self.fabric.netlink()?.mtu(OUTSIDE, bytes).await
    }

    /// Cuts the link of a node, as if it had lost power.
    pub async fn cut(&self, index: usize) -> Result<()> {
        self.fabric.netlink()?.down(&self.node_at(index)?.name).await
    }

    /// Restores the link of a node.
    pub async fn restore(&self, index: usize) -> Result<()> {
        self.fabric.netlink()?.up(&self.node_at(index)?.name).await
    }

    /// Adds routes to a node on the router for these addresses, as load balancers do.
    pub async fn route_to_node(
        &self,
        addresses: impl IntoIterator<Item = IpAddr>,
        index: usize,
    ) -> Result<()> {
        let (node, router) = (self.node_at(index)?, self.fabric.netlink()?);
        for address in addresses {
            let (bits, via): (u8, IpAddr) = if address.is_ipv4() {
                (32, node.addresses.v4.into())
            } else {
                (128, node.addresses.v6.into())
            };
            router.route(IpNetwork::new(address, bits).context("a prefix out of range")?, via).await?;
        }
        Ok(())
    }
}

async fn start_fabric() -> Result<Netns> {
    let fabric = Netns::create().await?;
    fabric.forward()?;
    let netlink = fabric.netlink()?;
    for (bridge, network) in [(FABRIC, node_network()), (OUTSIDE, outside_network())] {
        netlink.bridge(bridge).await?;
        for address in network.interface(network.host(ROUTER))? {
            netlink.address(bridge, address).await?;
        }
    }
    for network in service_network().networks() {
        netlink.unreachable(network).await?;
    }
    drop(netlink);
    Ok(fabric)
}

/// Connects two namespaces: `device` here, `port` as a port of `bridge` there.
async fn plug(links: (&Netlink<'_>, &Netlink<'_>), device: &str, port: &str, bridge: &str) -> Result<()> {
    let (local, remote) = links;
    local.veth(device, port, remote).await?;
    remote.attach(port, bridge).await
}

/// Configures the addresses and default routes of `eth0`, and waits until others find it.
async fn configure_eth0(
    netlink: &Netlink<'_>,
    network: &Subnet,
    own: Addresses,
    gateway: Addresses,
) -> Result<()> {
    for address in network.interface(own)? {
        netlink.address("eth0", address).await?;
    }
    add_default_routes(netlink, gateway).await?;
    netlink.wait_for_neighbour_discovery("eth0").await
}
