//! A Service of a story: its objects are written for the agents, its endpoints are pods that serve.

use std::{
    future::{Future, IntoFuture},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ServiceSpec;

use crate::lab::{
    addresses::Addresses,
    cluster::{Cluster, Placement},
    eventually::within,
    frontends::{Frontends, PORT},
    node::Node,
    objects::{Condition, EndpointObject, Port, ServiceChange, ServiceObjects},
    pod::Pod,
    traffic::{Dial, How, Protocol},
};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Options of a Service: `cluster.service("web").tcp(80).backends(["a", "b"]).await`.
pub struct ServiceBuilder<'a> {
    cluster: &'a Cluster,
    vip: Addresses,
    objects: ServiceObjects,
    backends: Vec<String>,
    /// Wait until every agent has programmed it.
    awaited: bool,
}

pub struct Service<'a> {
    cluster: &'a Cluster,
    vip: Addresses,
    objects: Mutex<ServiceObjects>,
}

impl Cluster {
    pub fn service<'a>(&'a self, name: &str) -> ServiceBuilder<'a> {
        ServiceBuilder::new(self, name)
    }
}

impl<'a> ServiceBuilder<'a> {
    fn new(cluster: &'a Cluster, name: &str) -> Self {
        let vip = cluster.next_vip();
        let objects = ServiceObjects {
            name: name.to_owned(),
            cluster_ips: vip.both().into(),
            ports: Vec::new(),
            affinity: None,
            endpoints: Vec::new(),
            unlisted: Vec::new(),
            change: Vec::new(),
            load_balancer_ips: Vec::new(),
        };
        Self { cluster, vip, objects, backends: Vec::new(), awaited: cluster.has_agents() }
    }

    pub fn tcp(mut self, port: u16) -> Self {
        self.objects.ports.push(Port::new(Protocol::Tcp, port));
        self
    }

    pub fn udp(mut self, port: u16) -> Self {
        self.objects.ports.push(Port::new(Protocol::Udp, port));
        self
    }

    /// The NodePort of the last port.
    pub fn node_port(mut self, number: u16) -> Self {
        let port = self.objects.ports.last_mut().expect("a NodePort belongs to the port named before it");
        port.node_port = Some(number);
        self.change(|spec| spec.type_ = Some("NodePort".to_owned()))
    }

    /// `externalIPs`.
    pub fn external_ips<const N: usize>(self, ips: [&'static str; N]) -> Self {
        self.change(move |spec| spec.external_ips = Some(ips.map(str::to_owned).into()))
    }

    /// TCP and UDP at one port and one NodePort, and at external addresses of every kind.
    pub fn external_frontends(mut self, frontends: Frontends) -> Self {
        let Frontends { node_port, load_balancer, external } = frontends;
        let external: Vec<_> = external.both().iter().map(IpAddr::to_string).collect();
        self = self.tcp(PORT).node_port(node_port).udp(PORT).node_port(node_port);
        self.change(move |spec| spec.external_ips = Some(external.clone()))
            .load_balancer_ips(load_balancer.both())
    }

    /// `loadBalancerSourceRanges`.
    pub fn source_ranges<const N: usize>(self, ranges: [&'static str; N]) -> Self {
        self.change(move |spec| spec.load_balancer_source_ranges = Some(ranges.map(str::to_owned).into()))
    }

    /// Addresses of an external load balancer.
    pub fn load_balancer_ips<const N: usize>(mut self, ips: [IpAddr; N]) -> Self {
        self.objects.load_balancer_ips = ips.into();
        self.change(|spec| spec.type_ = Some("LoadBalancer".to_owned()))
    }

    /// `internalTrafficPolicy: Local`.
    pub fn internal_traffic_is_local(self) -> Self {
        self.change(|spec| spec.internal_traffic_policy = Some("Local".to_owned()))
    }

    /// `externalTrafficPolicy: Local`.
    pub fn external_traffic_is_local(self) -> Self {
        self.change(|spec| spec.external_traffic_policy = Some("Local".to_owned()))
    }

    pub fn affinity(mut self, timeout: Duration) -> Self {
        self.objects.affinity = Some(timeout);
        self
    }

    /// Any other change of the Service's spec.
    pub fn change(mut self, change: impl Fn(&mut ServiceSpec) + Send + Sync + 'static) -> Self {
        self.objects.change.push(ServiceChange(Box::new(change)));
        self
    }

    /// Without ClusterIPs: it has no frontends, only names of its pods.
    pub fn headless(mut self) -> Self {
        self.awaited = false;
        self.change(|spec| {
            spec.cluster_ip = Some("None".to_owned());
            spec.cluster_ips = Some(vec!["None".to_owned()]);
        })
    }

    /// Only IPv4 or only IPv6.
    pub fn only(mut self, is_wanted: fn(&IpAddr) -> bool) -> Self {
        self.objects.cluster_ips.retain(is_wanted);
        self
    }

    /// Pods that serve it; missing ones are started on all nodes in turn.
    pub fn backends<'n>(mut self, names: impl IntoIterator<Item = &'n str>) -> Self {
        self.backends = names.into_iter().map(str::to_owned).collect();
        self
    }

    /// Does not wait until the agents have programmed it.
    pub fn unawaited(mut self) -> Self {
        self.awaited = false;
        self
    }

    pub async fn create(self) -> Result<Service<'a>> {
        let Self { cluster, vip, objects, backends, awaited } = self;
        let service = Service { cluster, vip, objects: Mutex::new(objects) };
        for (index, name) in backends.iter().enumerate() {
            service.endpoint(name, index, Condition::Ready).await?;
        }
        service.objects().write(cluster.manifests())?;
        if awaited {
            service.wait_programmed().await?;
        }
        Ok(service)
    }
}

impl<'a> IntoFuture for ServiceBuilder<'a> {
    type Output = Service<'a>;
    type IntoFuture = Pin<Box<dyn Future<Output = Service<'a>> + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async { self.create().await.unwrap_or_else(|error| panic!("{error:#}")) })
    }
}

impl Service<'_> {
    /// The IPv4 ClusterIP and the first port.
    pub fn vip(&self) -> SocketAddr {
        SocketAddr::new(self.vip.v4.into(), self.port(0).port)
    }

    /// The IPv6 ClusterIP and the first port.
    pub fn vip6(&self) -> SocketAddr {
        SocketAddr::new(self.vip.v6.into(), self.port(0).port)
    }

    /// The first port on both families.
    pub fn vips(&self) -> [SocketAddr; 2] {
        [self.vip(), self.vip6()]
    }

    pub fn port(&self, index: usize) -> Port {
        *self.objects().ports.get(index).expect("the Service has no such port")
    }

    /// Adds a ready endpoint; starts its pod if it does not exist.
    pub async fn add(&self, name: &str) {
        let index = self.objects().endpoints.len();
        self.endpoint(name, index, Condition::Ready).await.unwrap_or_else(|error| panic!("{error:#}"));
        self.publish();
    }

    /// Lists exactly the matching endpoints of all that were added, in one write of each slice.
    pub fn list_only(&self, is_listed: impl Fn(&str) -> bool) {
        let mut objects = self.objects();
        let mut known = std::mem::take(&mut objects.endpoints);
        known.append(&mut objects.unlisted);
        (objects.endpoints, objects.unlisted) =
            known.into_iter().partition(|endpoint| is_listed(&endpoint.pod));
        drop(objects);
        self.publish();
    }

    /// Removes the endpoint; its pod continues to serve.
    pub fn remove(&self, name: &str) {
        self.objects().endpoints.retain(|endpoint| endpoint.pod != name);
        self.publish();
    }

    /// Lists another pod, which serves already, in place of an endpoint, in one write of each slice.
    pub fn replace(&self, name: &str, new: EndpointObject) {
        let mut objects = self.objects();
        objects.endpoints.retain(|endpoint| endpoint.pod != name);
        objects.endpoints.push(new);
        drop(objects);
        self.publish();
    }

    pub fn set(&self, name: &str, condition: Condition) {
        self.objects()
            .endpoints
            .iter_mut()
            .filter(|endpoint| endpoint.pod == name)
            .for_each(|endpoint| endpoint.condition = condition);
        self.publish();
    }

    pub fn scale_to_zero(&self) {
        self.objects().endpoints.clear();
        self.publish();
    }

    /// Deletes the Service object; its slices remain, as they do briefly in a cluster.
    pub fn delete(&self) {
        let removed = self.objects().remove_service(self.cluster.manifests());
        removed.unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Writes the Service and its slices again.
    pub fn write(&self) {
        let written = self.objects().write(self.cluster.manifests());
        written.unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Waits until every node serves it: a backend answers, or the connection is refused if there is none.
    ///
    /// The probe is a process on the host, so that the story's own pods have no flows yet.
    pub async fn wait_programmed(&self) -> Result<()> {
        let expected = self.ready_pods();
        for index in 0..self.cluster.nodes().len() {
            let probe = self
                .cluster
                .ensure_pod(&format!("probe-{}", index + 1), Placement::Host(index), None)
                .await?;
            let node = self.cluster.node(index);
            within(TIMEOUT, &format!("{} has the frontends", node.name), async || self.is_in_maps_of(node))
                .await?;
            for dial in self.probes() {
                let what = format!("{} serves {:?}", self.cluster.node(index).name, dial.to);
                within(TIMEOUT, &what, async || answers(&probe, dial.clone(), &expected).await).await?;
            }
        }
        Ok(())
    }

    /// `pod` as a ready endpoint.
    pub fn endpoint_object(&self, pod: &Pod) -> EndpointObject {
        EndpointObject {
            pod: pod.name.clone(),
            addresses: pod.addresses,
            node: pod.node.clone(),
            condition: Condition::Ready,
        }
    }

    /// A probe that begins before would be decided by the packet plane, if its frontend appears between connect and SYN; the client's
    /// affinity would be that of its address.
    fn is_in_maps_of(&self, node: &Node) -> Result<()> {
        // An agent of another ABI has other maps.
        let Ok(state) = node.state() else { return Ok(()) };
        let objects = self.objects();
        for ip in &objects.cluster_ips {
            for port in &objects.ports {
                let frontend = format!("FE {}/{} ", SocketAddr::new(*ip, port.port), port.kind());
                ensure!(state.contains(&frontend), "no {frontend}in\n{state}");
            }
        }
        Ok(())
    }

    fn probes(&self) -> Vec<Dial> {
        let objects = self.objects();
        let addresses = objects.cluster_ips.iter();
        addresses
            .flat_map(|ip| objects.ports.iter().map(|port| (SocketAddr::new(*ip, port.port), port.protocol)))
            .map(|(to, protocol)| Dial {
                to: vec![to],
                times: Some(1),
                how: if protocol == Protocol::Tcp { How::Tcp } else { How::ConnectedUdp },
                timeout_ms: 500,
                ..Dial::default()
            })
            .collect()
    }

    fn ready_pods(&self) -> Vec<String> {
        let objects = self.objects();
        let ready = objects.endpoints.iter().filter(|endpoint| endpoint.condition == Condition::Ready);
        ready.map(|endpoint| endpoint.pod.clone()).collect()
    }

    /// Creates an endpoint for a pod that serves every port.
    async fn endpoint(&self, name: &str, index: usize, condition: Condition) -> Result<()> {
        let nodes = self.cluster.nodes().len();
        let placement = Placement::Node(index.checked_rem(nodes).context("a Service needs a node")?);
        let pod: Arc<Pod> = self.cluster.ensure_pod(name, placement, None).await?;
        let ports = self.objects().ports.clone();
        for port in ports {
            pod.serve(port.protocol, port.target).await?;
        }
        let endpoint = EndpointObject { condition, ..self.endpoint_object(&pod) };
        let mut objects = self.objects();
        objects.endpoints.retain(|endpoint| endpoint.pod != name);
        objects.endpoints.push(endpoint);
        Ok(())
    }

    fn publish(&self) {
        let written = self.objects().write_endpoints(self.cluster.manifests());
        written.unwrap_or_else(|error| panic!("{error:#}"));
    }

    fn objects(&self) -> MutexGuard<'_, ServiceObjects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answers(probe: &Pod, dial: Dial, expected: &[String]) -> Result<()> {
    let report = probe.dial(dial).await?;
    let refused = report.failures.keys().any(|failure| failure.ends_with("ECONNREFUSED"));
    let answered = report.answers.keys().any(|name| expected.contains(name));
    ensure!(if expected.is_empty() { refused } else { answered }, "{report:?}");
    Ok(())
}
