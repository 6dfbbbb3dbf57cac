//! Kubernetes objects, and the directory from which the agents read them.
//!
//! Files are created and replaced by rename, so that an agent never reads a partial one; every node reads the
//! same directory.

use std::{
    collections::BTreeMap,
    fmt, fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use k8s_openapi::{
    api::{
        core::v1::{
            ClientIPConfig, LoadBalancerIngress, LoadBalancerStatus, Node, NodeAddress, NodeSpec, NodeStatus,
            ObjectReference, Service, ServicePort, ServiceSpec, ServiceStatus, SessionAffinityConfig,
        },
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use serde::Serialize;

use crate::lab::{
    addresses::{Addresses, Subnet},
    traffic::Protocol,
};

pub const NAMESPACE: &str = "default";

/// The directory of manifests, and a staging directory beside it.
#[derive(Debug)]
pub struct Manifests {
    directory: PathBuf,
    staging: PathBuf,
}

impl Manifests {
    pub fn create(within: &Path) -> Result<Self> {
        let (directory, staging) = (within.join("manifests"), within.join("staging"));
        for path in [&directory, &staging] {
            fs::create_dir(path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        Ok(Self { directory, staging })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn write(&self, file: &str, object: &impl Serialize) -> Result<()> {
        // JSON is YAML.
        let text = serde_json::to_string_pretty(object).with_context(|| format!("cannot write {file}"))?;
        self.write_text(file, &text)
    }

    pub fn write_text(&self, file: &str, text: &str) -> Result<()> {
        let (staged, path) = (self.staging.join(file), self.directory.join(file));
        fs::write(&staged, text).with_context(|| format!("cannot write {}", staged.display()))?;
        fs::rename(&staged, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    pub fn remove(&self, file: &str) -> Result<()> {
        let path = self.directory.join(file);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

/// A Service and its endpoints.
#[derive(Debug)]
pub struct ServiceObjects {
    pub name: String,
    pub cluster_ips: Vec<IpAddr>,
    pub ports: Vec<Port>,
    pub affinity: Option<Duration>,
    pub endpoints: Vec<EndpointObject>,
    /// Endpoints that are in no slice at present.
    pub unlisted: Vec<EndpointObject>,
    /// Changes to the Service beyond the fields above.
    pub change: Vec<ServiceChange>,
    /// Addresses of an external load balancer.
    pub load_balancer_ips: Vec<IpAddr>,
}

pub struct ServiceChange(pub Box<dyn Fn(&mut ServiceSpec) + Send + Sync>);

impl fmt::Debug for ServiceChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServiceChange")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    pub protocol: Protocol,
    pub port: u16,
    /// The port of the pods; differs from `port`, so that an untranslated connection fails.
    pub target: u16,
    pub node_port: Option<u16>,
}

impl Port {
    pub fn new(protocol: Protocol, port: u16) -> Self {
        Self { protocol, port, target: port + 8000, node_port: None }
    }

    fn name(self) -> String {
        format!("{}-{}", self.kind().to_lowercase(), self.port)
    }

    /// `TCP` or `UDP`.
    pub fn kind(self) -> &'static str {
        match self.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        }
    }
}

#[derive(Debug, Clone)]
pub struct EndpointObject {
    pub pod: String,
    pub addresses: Addresses,
    pub node: Option<String>,
    pub condition: Condition,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Ready,
    /// Neither ready nor terminating.
    Unready,
    /// Terminating, still serving.
    Terminating,
    /// Terminating, no longer serving.
    Gone,
}

impl ServiceObjects {
    /// Writes the Service and a slice for each family.
    pub fn write(&self, manifests: &Manifests) -> Result<()> {
        manifests.write(&self.service_file(), &self.service())?;
        self.write_endpoints(manifests)
    }

    pub fn write_endpoints(&self, manifests: &Manifests) -> Result<()> {
        for (family, slice) in self.slices() {
            manifests.write(&self.slice_file(family), &slice)?;
        }
        Ok(())
    }

    pub fn remove_service(&self, manifests: &Manifests) -> Result<()> {
        manifests.remove(&self.service_file())
    }

    pub fn remove(&self, manifests: &Manifests) -> Result<()> {
        self.remove_service(manifests)?;
        self.slices().iter().try_for_each(|(family, _)| manifests.remove(&self.slice_file(family)))
    }

    fn service_file(&self) -> String {
        format!("{}.service.yaml", self.name)
    }

    fn slice_file(&self, family: &str) -> String {
        format!("{}.slice-{}.yaml", self.name, family.to_lowercase())
    }

    pub fn service(&self) -> Service {
        let mut spec = ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: self.cluster_ips.first().map(IpAddr::to_string),
            cluster_ips: Some(self.cluster_ips.iter().map(IpAddr::to_string).collect()),
            ip_families: Some(self.cluster_ips.iter().map(|ip| family(*ip).to_owned()).collect()),
            ip_family_policy: Some(ip_family_policy(&self.cluster_ips).to_owned()),
            ports: Some(self.ports.iter().map(service_port).collect()),
            selector: Some(BTreeMap::from([("app".to_owned(), self.name.clone())])),
            session_affinity: self.affinity.map(|_| "ClientIP".to_owned()),
            session_affinity_config: self.affinity.map(affinity_config),
            ..ServiceSpec::default()
        };
        for ServiceChange(change) in &self.change {
            change(&mut spec);
        }
        let metadata = metadata(&self.name, BTreeMap::new());
        Service { metadata, spec: Some(spec), status: Some(self.status()) }
    }

    fn status(&self) -> ServiceStatus {
        let ingress = self.load_balancer_ips.iter().map(|ip| LoadBalancerIngress {
            ip: Some(ip.to_string()),
            ip_mode: Some("VIP".to_owned()),
            ..LoadBalancerIngress::default()
        });
        let ingress = Some(ingress.collect()).filter(|ingress: &Vec<_>| !ingress.is_empty());
        ServiceStatus { load_balancer: Some(LoadBalancerStatus { ingress }), ..ServiceStatus::default() }
    }

    pub fn slices(&self) -> Vec<(&'static str, EndpointSlice)> {
        self.cluster_ips.iter().map(|ip| (family(*ip), self.slice(ip.is_ipv4()))).collect()
    }

    fn slice(&self, v4: bool) -> EndpointSlice {
        let address_type = if v4 { "IPv4" } else { "IPv6" };
        let labels = BTreeMap::from([
            ("kubernetes.io/service-name".to_owned(), self.name.clone()),
            (
                "endpointslice.kubernetes.io/managed-by".to_owned(),
                "endpointslice-controller.k8s.io".to_owned(),
            ),
        ]);
        EndpointSlice {
            metadata: metadata(&format!("{}-{}", self.name, address_type.to_lowercase()), labels),
            address_type: address_type.to_owned(),
            endpoints: Some(self.endpoints.iter().map(|endpoint| endpoint.object(v4)).collect()),
            ports: Some(self.ports.iter().map(endpoint_port).collect()),
        }
    }
}

impl EndpointObject {
    fn object(&self, v4: bool) -> Endpoint {
        let address = if v4 { self.addresses.v4.to_string() } else { self.addresses.v6.to_string() };
        let (ready, serving, terminating) = match self.condition {
            Condition::Ready => (true, true, false),
            Condition::Unready => (false, false, false),
            Condition::Terminating => (false, true, true),
            Condition::Gone => (false, false, true),
        };
        Endpoint {
            addresses: vec![address],
            conditions: Some(EndpointConditions {
                ready: Some(ready),
                serving: Some(serving),
                terminating: Some(terminating),
            }),
            hostname: Some(self.pod.clone()),
            node_name: self.node.clone(),
            target_ref: Some(ObjectReference {
                kind: Some("Pod".to_owned()),
                name: Some(self.pod.clone()),
                namespace: Some(NAMESPACE.to_owned()),
                ..ObjectReference::default()
            }),
            ..Endpoint::default()
        }
    }
}

/// The object of a node, with its addresses and pod ranges.
pub fn node(name: &str, addresses: Addresses, pods: &Subnet) -> Node {
    let address =
        |address: IpAddr| NodeAddress { address: address.to_string(), type_: "InternalIP".to_owned() };
    let ranges = pods.networks().map(|network| network.to_string());
    Node {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: Some(NodeSpec {
            pod_cidr: ranges.first().cloned(),
            pod_cidrs: Some(ranges.into()),
            ..NodeSpec::default()
        }),
        status: Some(NodeStatus {
            addresses: Some(addresses.both().map(address).into()),
            ..NodeStatus::default()
        }),
    }
}

fn metadata(name: &str, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(NAMESPACE.to_owned()),
        labels: Some(labels).filter(|labels| !labels.is_empty()),
        ..ObjectMeta::default()
    }
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn ip_family_policy(cluster_ips: &[IpAddr]) -> &'static str {
    if cluster_ips.len() > 1 { "RequireDualStack" } else { "SingleStack" }
}

fn service_port(port: &Port) -> ServicePort {
    ServicePort {
        name: Some(port.name()),
        protocol: Some(port.kind().to_owned()),
        port: port.port.into(),
        target_port: Some(IntOrString::Int(port.target.into())),
        node_port: port.node_port.map(i32::from),
        app_protocol: None,
    }
}

fn endpoint_port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name()),
        protocol: Some(port.kind().to_owned()),
        port: Some(port.target.into()),
        app_protocol: None,
    }
}

fn affinity_config(timeout: Duration) -> SessionAffinityConfig {
    let seconds = i32::try_from(timeout.as_secs()).unwrap_or(i32::MAX);
    SessionAffinityConfig { client_ip: Some(ClientIPConfig { timeout_seconds: Some(seconds) }) }
}
