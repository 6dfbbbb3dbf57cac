//! A running example: pods that send requests to each other by name, the slices that list them, and rollouts as
//! in Kubernetes.
//!
//! The EndpointSlice controller, the kubelet and the workload controllers are reproduced in their order: a slice
//! lists a pod in its present state; a terminating pod is marked before it ends, and removed from the slice
//! afterwards.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointConditions, EndpointSlice},
};
use tokio::time::timeout;

use crate::lab::{
    addresses::Addresses,
    cluster::{Cluster, Placement},
    eventually::{scaled, within},
    examples::{self, Example, ExamplePod, pod_name},
    objects::NAMESPACE,
    pod::{Dialling, Pod},
    traffic::{Dial, How, Protocol, Report, now_us},
};

const TIMEOUT: Duration = Duration::from_secs(20);
/// A pod is idle after several times the pause between two requests of all its clients.
const IDLE: Duration = Duration::from_millis(300);
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Requests that a pod sends continuously.
#[derive(Debug, Clone, Copy)]
pub struct ClientRequest {
    /// Prefix of the pods' names.
    pub by: &'static str,
    /// With ports. A client with several names uses the next one if the first does not answer.
    pub names: &'static [&'static str],
    /// A second name that is dialled next; `{}` is replaced by the name of the server that answered the first.
    pub referred: Option<&'static str>,
    /// Zero: a single try.
    pub timeout: Duration,
    /// Time after which the connection is used a second time.
    pub linger: Duration,
}

/// The way in which a workload replaces a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// A Deployment's: the new pod is ready before the old one is terminated.
    RollingUpdate,
    /// A Deployment's that permits only one pod at a time.
    Recreate,
    /// One after the other, under the same name.
    StatefulSet,
}

/// A period in which some names may fail. Instants are those of `now_us`.
#[derive(Debug)]
pub struct AllowedOutage {
    pub names: &'static [&'static str],
    pub from_us: u64,
    pub to_us: u64,
}

pub struct RunningExample<'a> {
    cluster: &'a Cluster,
    namespace: String,
    /// The address of the name server.
    names: IpAddr,
    services: Vec<Service>,
    /// As they are written.
    slices: Mutex<Vec<EndpointSlice>>,
    requests: &'static [ClientRequest],
    /// Continuous requests, by pod.
    running_requests: Mutex<Vec<(String, ClientRequest, Dialling)>>,
    /// Reports of requests that were stopped.
    reports: Mutex<Vec<(ClientRequest, Report)>>,
}

/// The role of a pod for its Services: everything but its name and its addresses.
struct Role {
    node: usize,
    ports: BTreeSet<u16>,
    /// By index of their slices.
    endpoints: Vec<(usize, Endpoint)>,
}

impl<'a> RunningExample<'a> {
    /// Starts the pods of an example and writes its objects for the agents.
    pub async fn start(
        cluster: &'a Cluster,
        example: &str,
        names: IpAddr,
        requests: &'static [ClientRequest],
    ) -> Result<Self> {
        let example = Example::load(&examples::directory().join(example))?;
        let pods = example.pods()?;
        let Example { services, slices, .. } = example;
        let namespace = services.iter().find_map(|service| service.metadata.namespace.clone());
        let namespace = namespace.unwrap_or_else(|| NAMESPACE.to_owned());
        let running = Self {
            cluster,
            namespace,
            names,
            services,
            slices: Mutex::new(slices),
            requests,
            running_requests: Mutex::default(),
            reports: Mutex::default(),
        };
        for (name, pod) in &pods {
            running.start_listed(name, pod).await?;
        }
        for node in 0..cluster.nodes().len() {
            running.ensure_pod(&visitor(node), Placement::Node(node), None).await?;
        }
        for (number, service) in running.services.iter().enumerate() {
            cluster.manifests().write(&format!("example-service-{number}.yaml"), service)?;
        }
        running.write()?;
        Ok(running)
    }

    /// The pods in the slices.
    pub fn pods(&self) -> BTreeSet<String> {
        let slices = lock(&self.slices);
        let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        endpoints.filter_map(pod_name).map(str::to_owned).collect()
    }

    /// Starts the requests of all pods, once all names resolve to serving pods.
    pub async fn start_requests(&self) -> Result<()> {
        let names: BTreeSet<_> = self.requests.iter().flat_map(|request| request.names).copied().collect();
        let names: Vec<_> = names.into_iter().collect();
        self.wait_answered(&names, "a server answers", |report| report.failures.is_empty()).await?;
        for pod in self.cluster.all_pods() {
            self.start_requests_of(pod).await?;
        }
        Ok(())
    }

    /// Stops all requests. Returns their reports.
    pub async fn end(self) -> Result<Vec<(ClientRequest, Report)>> {
        self.stop_requests(|_| true).await?;
        Ok(self.reports.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces a pod while requests continue. Returns when visitors on all nodes reach the new one by each of
    /// its names.
    pub async fn roll(
        &self,
        old: &str,
        strategy: Strategy,
        names: &'static [&'static str],
    ) -> Result<AllowedOutage> {
        let from_us = now_us();
        let role = self.role(old)?;
        let new = match strategy {
            Strategy::StatefulSet => old.to_owned(),
            Strategy::RollingUpdate | Strategy::Recreate => format!("{old}-next"),
        };
        if strategy == Strategy::RollingUpdate {
            self.start_pod(&new, &role).await?;
            self.terminate_pod(old, &role).await?;
        } else {
            self.terminate_pod(old, &role).await?;
            self.start_pod(&new, &role).await?;
        }
        self.wait_reached(&new, names).await?;
        // A serving pod was always available.
        let names = if strategy == Strategy::RollingUpdate { &[] } else { names };
        Ok(AllowedOutage { names, from_us, to_us: now_us() })
    }
}

/// The part of Kubernetes.
impl RunningExample<'_> {
    async fn start_listed(&self, name: &str, listed: &ExamplePod) -> Result<()> {
        let v4 = listed.v4.context("an IPv4 address")?;
        let v6 = listed.v6.context("an IPv6 address")?;
        let placement = Placement::Node(self.node(&listed.node)?);
        let pod = self.ensure_pod(name, placement, Some(Addresses { v4, v6 })).await?;
        for port in &listed.ports {
            pod.serve(Protocol::Tcp, *port).await?;
        }
        Ok(())
    }

    /// Starts a pod in this role: first it is listed in Services that publish unready addresses, then it is
    /// ready.
    async fn start_pod(&self, name: &str, role: &Role) -> Result<()> {
        let pod = self.ensure_pod(name, Placement::Node(role.node), None).await?;
        self.list(&pod, role, publishes_unready)?;
        for port in &role.ports {
            pod.serve(Protocol::Tcp, *port).await?;
        }
        self.list(&pod, role, |_| true)?;
        self.start_requests_of(pod).await
    }

    /// Terminates a pod. A port that has other backends is served until it is idle, which is what `preStop` of
    /// the examples waits for. Other ports close at once.
    async fn terminate_pod(&self, name: &str, role: &Role) -> Result<()> {
        self.stop_requests(|pod| pod == name).await?;
        let pod = self.cluster.ensure_pod(name, Placement::Node(role.node), None).await?;
        let (draining, closing): (Vec<u16>, Vec<u16>) =
            role.ports.iter().partition(|port| self.has_others(name, **port));
        self.mark_terminating(name)?;
        for port in closing {
            pod.stop(Protocol::Tcp, port).await?;
        }
        for port in draining {
            let drained = timeout(scaled(TIMEOUT), pod.drain(Protocol::Tcp, port, IDLE)).await;
            drained.with_context(|| format!("{name} still has connections at port {port}"))??;
        }
        self.unlist(name)?;
        self.cluster.remove_pod(name);
        Ok(())
    }

    async fn ensure_pod(
        &self,
        name: &str,
        placement: Placement,
        addresses: Option<Addresses>,
    ) -> Result<Arc<Pod>> {
        let pod = self.cluster.ensure_pod(name, placement, addresses).await?;
        pod.resolve_by(&self.namespace, self.names, self.cluster.directory()).await?;
        Ok(pod)
    }

    fn role(&self, name: &str) -> Result<Role> {
        let slices = lock(&self.slices);
        let mut role = Role { node: 0, ports: BTreeSet::new(), endpoints: Vec::new() };
        for (index, slice) in slices.iter().enumerate() {
            for endpoint in slice.endpoints.iter().flatten().filter(|one| pod_name(one) == Some(name)) {
                role.ports.extend(ports(slice));
                role.node = self.node(endpoint.node_name.as_deref().context("an endpoint without node")?)?;
                role.endpoints.push((index, endpoint.clone()));
            }
        }
        ensure!(!role.endpoints.is_empty(), "no slice lists {name}");
        Ok(role)
    }

    fn node(&self, name: &str) -> Result<usize> {
        let index = self.cluster.nodes().iter().position(|node| node.name == name);
        index.with_context(|| format!("there is no node {name}"))
    }

    /// Adds a pod to the slices of its role whose Services match.
    fn list(&self, pod: &Pod, role: &Role, is_wanted: impl Fn(&Service) -> bool) -> Result<()> {
        let mut slices = lock(&self.slices);
        for (index, template) in &role.endpoints {
            let Some(slice) = slices.get_mut(*index) else { continue };
            if !self.service(slice).is_some_and(&is_wanted) {
                continue;
            }
            let is_v4 = slice.address_type == "IPv4";
            let endpoints = slice.endpoints.get_or_insert_default();
            endpoints.retain(|endpoint| pod_name(endpoint) != Some(&pod.name));
            endpoints.push(endpoint(template, pod, is_v4));
        }
        drop(slices);
        self.write()
    }

    fn mark_terminating(&self, name: &str) -> Result<()> {
        for slice in lock(&self.slices).iter_mut() {
            let ready = self.service(slice).is_some_and(publishes_unready);
            let endpoints = slice.endpoints.iter_mut().flatten();
            for endpoint in endpoints.filter(|endpoint| pod_name(endpoint) == Some(name)) {
                endpoint.conditions = Some(conditions(ready, true));
            }
        }
        self.write()
    }

    fn unlist(&self, name: &str) -> Result<()> {
        for slice in lock(&self.slices).iter_mut() {
            let endpoints = slice.endpoints.get_or_insert_default();
            endpoints.retain(|endpoint| pod_name(endpoint) != Some(name));
        }
        self.write()
    }

    /// Whether all Services of that port have other ready backends.
    fn has_others(&self, name: &str, port: u16) -> bool {
        let slices = lock(&self.slices);
        let mut lists = slices.iter().filter(|slice| {
            ports(slice).any(|one| one == port)
                && slice.endpoints.iter().flatten().any(|one| pod_name(one) == Some(name))
        });
        lists.all(|slice| {
            let mut others = slice.endpoints.iter().flatten().filter(|one| pod_name(one) != Some(name));
            self.service(slice).is_some_and(has_cluster_ip) && others.any(is_ready)
        })
    }

    fn service(&self, slice: &EndpointSlice) -> Option<&Service> {
        let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
        self.services.iter().find(|service| service.metadata.name.as_ref() == Some(name))
    }

    fn write(&self) -> Result<()> {
        let slices = lock(&self.slices);
        let mut numbered = slices.iter().enumerate();
        numbered.try_for_each(|(number, slice)| {
            self.cluster.manifests().write(&format!("example-slice-{number}.yaml"), slice)
        })
    }
}

/// The part of programs.
impl RunningExample<'_> {
    async fn start_requests_of(&self, pod: Arc<Pod>) -> Result<()> {
        for request in self.requests.iter().filter(|request| pod.name.starts_with(request.by)) {
            let dialling = Arc::clone(&pod).dial_in_background(request.dial()).await?;
            lock(&self.running_requests).push((pod.name.clone(), *request, dialling));
        }
        Ok(())
    }

    /// Stops the requests of matching pods.
    async fn stop_requests(&self, is_selected: impl Fn(&str) -> bool) -> Result<()> {
        let running_requests = std::mem::take(&mut *lock(&self.running_requests));
        let (ending, going_on) =
            running_requests.into_iter().partition::<Vec<_>, _>(|(pod, ..)| is_selected(pod));
        *lock(&self.running_requests) = going_on;
        for (_, request, dialling) in ending {
            let report = dialling.stop().await?;
            lock(&self.reports).push((request, report));
        }
        Ok(())
    }

    /// Waits until this pod is reached by each of these names.
    async fn wait_reached(&self, pod: &str, names: &[&str]) -> Result<()> {
        self.wait_answered(names, &format!("{pod} answers"), |report| report.answered_by(pod) > 0).await
    }

    /// Waits until visitors on all nodes get an accepted report for each of these names.
    async fn wait_answered(
        &self,
        names: &[&str],
        what: &str,
        is_right: impl Fn(&Report) -> bool,
    ) -> Result<()> {
        for node in 0..self.cluster.nodes().len() {
            let visitor = self.cluster.ensure_pod(&visitor(node), Placement::Node(node), None).await?;
            for name in names {
                let dial = dial(&[name]);
                within(TIMEOUT, &format!("{what} as {name}"), async || {
                    let report = visitor.dial(Dial { times: Some(4), timeout_ms: 0, ..dial.clone() }).await?;
                    ensure!(is_right(&report), "{report:?}");
                    Ok(())
                })
                .await?;
            }
        }
        Ok(())
    }
}

impl ClientRequest {
    /// By pods that send no other requests; a single try each.
    pub const OF_VISITORS: Self =
        Self { by: "visitor", names: &[], referred: None, timeout: Duration::ZERO, linger: Duration::ZERO };

    fn dial(&self) -> Dial {
        Dial {
            referred: self.referred.map(str::to_owned),
            linger_ms: millis(self.linger),
            timeout_ms: millis(self.timeout),
            ..dial(self.names)
        }
    }
}

fn dial(names: &[&str]) -> Dial {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    Dial { names, how: How::ByName, pause_us: 10_000, ..Dial::default() }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn visitor(node: usize) -> String {
    format!("visitor-{node}")
}

fn endpoint(template: &Endpoint, pod: &Pod, is_v4: bool) -> Endpoint {
    let Addresses { v4, v6 } = pod.addresses;
    let mut endpoint = Endpoint {
        addresses: vec![if is_v4 { v4.to_string() } else { v6.to_string() }],
        conditions: Some(conditions(true, false)),
        ..template.clone()
    };
    if let Some(target) = &mut endpoint.target_ref {
        target.name = Some(pod.name.clone());
    }
    endpoint
}

fn conditions(ready: bool, terminating: bool) -> EndpointConditions {
    EndpointConditions { ready: Some(ready), serving: Some(true), terminating: Some(terminating) }
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
}

fn ports(slice: &EndpointSlice) -> impl Iterator<Item = u16> {
    slice.ports.iter().flatten().filter_map(|port| u16::try_from(port.port?).ok())
}

fn publishes_unready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

fn has_cluster_ip(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).is_some_and(|ip| ip != "None")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
