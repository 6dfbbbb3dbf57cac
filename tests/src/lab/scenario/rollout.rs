//! An example in motion: pods that ask each other by name, the slices that list them, and rollouts as Kubernetes makes them.
//!
//! What the EndpointSlice controller, the kubelet and the controllers of workloads do here is what they do in a cluster, in
//! their order: a pod is in a slice as it is now, one that ends is marked before it ends and taken out when it has.

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
    cluster::{Cluster, Place},
    eventually::{here, within},
    examples::{self, Example, PromisedPod, pod_name},
    objects::NAMESPACE,
    pod::{Dialling, Pod},
    traffic::{Dial, How, Protocol, Report, now_us},
};

const TIMEOUT: Duration = Duration::from_secs(20);
/// Nobody comes to a pod any more: as long as several of the rests between two requests of everybody who asks.
const QUIET: Duration = Duration::from_millis(300);
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Requests that pods make all their life.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// Pods whose names begin so.
    pub by: &'static str,
    /// With ports. Whoever knows several goes on to the next when one does not answer.
    pub names: &'static [&'static str],
    /// Dialled after whoever answered: `{}`.
    pub referred: Option<&'static str>,
    /// None: one try has to do.
    pub patience: Duration,
    /// The connection is used once more after so long.
    pub linger: Duration,
}

/// How a workload replaces a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// A Deployment's: the new one is ready before the old one is told to end.
    RollingUpdate,
    /// A Deployment's that bears only one at a time.
    Recreate,
    /// One after the other, too, and under the same name.
    StatefulSet,
}

/// Some names may lead nowhere in this time. Instants are those of `now_us`.
#[derive(Debug)]
pub struct Gap {
    pub names: &'static [&'static str],
    pub from_us: u64,
    pub to_us: u64,
}

pub struct Stage<'a> {
    cluster: &'a Cluster,
    namespace: String,
    /// Where names are asked.
    names: IpAddr,
    services: Vec<Service>,
    /// As they are written.
    slices: Mutex<Vec<EndpointSlice>>,
    asks: &'static [Ask],
    /// By pod, what goes on there.
    asking: Mutex<Vec<(String, Ask, Dialling)>>,
    /// What has come to its end.
    reports: Mutex<Vec<(Ask, Report)>>,
}

/// What a pod is to its Services, apart from its name and its addresses.
struct Part {
    node: usize,
    ports: BTreeSet<u16>,
    /// By their place among the slices.
    endpoints: Vec<(usize, Endpoint)>,
}

impl<'a> Stage<'a> {
    /// Starts the pods of an example and writes its objects for the agents.
    pub async fn set(
        cluster: &'a Cluster,
        example: &str,
        names: IpAddr,
        asks: &'static [Ask],
    ) -> Result<Self> {
        let example = Example::load(&examples::directory().join(example))?;
        let pods = example.pods()?;
        let Example { services, slices, .. } = example;
        let namespace = services.iter().find_map(|service| service.metadata.namespace.clone());
        let namespace = namespace.unwrap_or_else(|| NAMESPACE.to_owned());
        let stage = Self {
            cluster,
            namespace,
            names,
            services,
            slices: Mutex::new(slices),
            asks,
            asking: Mutex::default(),
            reports: Mutex::default(),
        };
        for (name, pod) in &pods {
            stage.start_promised(name, pod).await?;
        }
        for node in 0..cluster.nodes().len() {
            stage.place(&visitor(node), Place::Node(node), None).await?;
        }
        for (number, service) in stage.services.iter().enumerate() {
            cluster.manifests().write(&format!("example-service-{number}.yaml"), service)?;
        }
        stage.write()?;
        Ok(stage)
    }

    /// The pods that the slices name.
    pub fn pods(&self) -> BTreeSet<String> {
        let slices = lock(&self.slices);
        let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        endpoints.filter_map(pod_name).map(str::to_owned).collect()
    }

    /// Lets all pods that are there make their requests, once everybody can be reached.
    pub async fn begin(&self) -> Result<()> {
        let names: BTreeSet<_> = self.asks.iter().flat_map(|ask| ask.names).copied().collect();
        let names: Vec<_> = names.into_iter().collect();
        self.answer(&names, "somebody answers", |report| report.failures.is_empty()).await?;
        for pod in self.cluster.all_pods() {
            self.ask(pod).await?;
        }
        Ok(())
    }

    /// Every request comes to its end: what came of all of them.
    pub async fn end(self) -> Result<Vec<(Ask, Report)>> {
        self.hush(|_| true).await?;
        Ok(self.reports.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces a pod, while requests go on. Over when visitors on all nodes reach the new one by each of its names.
    pub async fn roll(&self, old: &str, strategy: Strategy, names: &'static [&'static str]) -> Result<Gap> {
        let from_us = now_us();
        let part = self.part(old)?;
        let new = match strategy {
            Strategy::StatefulSet => old.to_owned(),
            Strategy::RollingUpdate | Strategy::Recreate => format!("{old}-next"),
        };
        if strategy == Strategy::RollingUpdate {
            self.start(&new, &part).await?;
            self.finish(old, &part).await?;
        } else {
            self.finish(old, &part).await?;
            self.start(&new, &part).await?;
        }
        self.reached(&new, names).await?;
        // There was always somebody.
        let names = if strategy == Strategy::RollingUpdate { &[] } else { names };
        Ok(Gap { names, from_us, to_us: now_us() })
    }
}

/// What Kubernetes does.
impl Stage<'_> {
    async fn start_promised(&self, name: &str, promised: &PromisedPod) -> Result<()> {
        let v4 = promised.v4.context("an IPv4 address")?;
        let v6 = promised.v6.context("an IPv6 address")?;
        let place = Place::Node(self.node(&promised.node)?);
        let pod = self.place(name, place, Some(Addresses { v4, v6 })).await?;
        for port in &promised.ports {
            pod.serve(Protocol::Tcp, *port).await?;
        }
        Ok(())
    }

    /// A new pod takes a part: first it has a name where names are for those that are not ready, too, then it is ready.
    async fn start(&self, name: &str, part: &Part) -> Result<()> {
        let pod = self.place(name, Place::Node(part.node), None).await?;
        self.list(&pod, part, publishes_unready)?;
        for port in &part.ports {
            pod.serve(Protocol::Tcp, *port).await?;
        }
        self.list(&pod, part, |_| true)?;
        self.ask(pod).await
    }

    /// A pod is told to end. A port that a Service has others for is served until nobody comes any more: that is what
    /// `preStop` of the examples waits for. Others close at once.
    async fn finish(&self, name: &str, part: &Part) -> Result<()> {
        self.hush(|pod| pod == name).await?;
        let pod = self.cluster.place(name, Place::Node(part.node), None).await?;
        let (retiring, closing): (Vec<u16>, Vec<u16>) =
            part.ports.iter().partition(|port| self.has_others(name, **port));
        self.mark_terminating(name)?;
        for port in closing {
            pod.stop(Protocol::Tcp, port).await?;
        }
        for port in retiring {
            let quiet = timeout(here(TIMEOUT), pod.retire(Protocol::Tcp, port, QUIET)).await;
            quiet.with_context(|| format!("{name} is dialled at {port} still"))??;
        }
        self.unlist(name)?;
        self.cluster.remove_pod(name);
        Ok(())
    }

    async fn place(&self, name: &str, place: Place, addresses: Option<Addresses>) -> Result<Arc<Pod>> {
        let pod = self.cluster.place(name, place, addresses).await?;
        pod.resolve_by(&self.namespace, self.names, self.cluster.directory()).await?;
        Ok(pod)
    }

    fn part(&self, name: &str) -> Result<Part> {
        let slices = lock(&self.slices);
        let mut part = Part { node: 0, ports: BTreeSet::new(), endpoints: Vec::new() };
        for (place, slice) in slices.iter().enumerate() {
            for endpoint in slice.endpoints.iter().flatten().filter(|one| pod_name(one) == Some(name)) {
                part.ports.extend(ports(slice));
                part.node = self.node(endpoint.node_name.as_deref().context("an endpoint without node")?)?;
                part.endpoints.push((place, endpoint.clone()));
            }
        }
        ensure!(!part.endpoints.is_empty(), "no slice lists {name}");
        Ok(part)
    }

    fn node(&self, name: &str) -> Result<usize> {
        let place = self.cluster.nodes().iter().position(|node| node.name == name);
        place.with_context(|| format!("there is no node {name}"))
    }

    /// Puts a pod into the slices of its part whose Services are such.
    fn list(&self, pod: &Pod, part: &Part, is_wanted: impl Fn(&Service) -> bool) -> Result<()> {
        let mut slices = lock(&self.slices);
        for (place, template) in &part.endpoints {
            let Some(slice) = slices.get_mut(*place) else { continue };
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

    /// Whether clients of every Service of that port are led to other pods when this one ends.
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

/// What programs do.
impl Stage<'_> {
    async fn ask(&self, pod: Arc<Pod>) -> Result<()> {
        for ask in self.asks.iter().filter(|ask| pod.name.starts_with(ask.by)) {
            let dialling = Arc::clone(&pod).dial_on(ask.dial()).await?;
            lock(&self.asking).push((pod.name.clone(), *ask, dialling));
        }
        Ok(())
    }

    /// Lets the requests of some pods come to their end.
    async fn hush(&self, is_meant: impl Fn(&str) -> bool) -> Result<()> {
        let asking = std::mem::take(&mut *lock(&self.asking));
        let (ending, going_on) = asking.into_iter().partition::<Vec<_>, _>(|(pod, ..)| is_meant(pod));
        *lock(&self.asking) = going_on;
        for (_, ask, dialling) in ending {
            let report = dialling.stop().await?;
            lock(&self.reports).push((ask, report));
        }
        Ok(())
    }

    /// Whether that pod is reached by each of these names.
    async fn reached(&self, pod: &str, names: &[&str]) -> Result<()> {
        self.answer(names, &format!("{pod} answers"), |report| report.answered_by(pod) > 0).await
    }

    /// Visitors on all nodes come to reach somebody by each of these names.
    async fn answer(&self, names: &[&str], what: &str, is_right: impl Fn(&Report) -> bool) -> Result<()> {
        for node in 0..self.cluster.nodes().len() {
            let visitor = self.cluster.place(&visitor(node), Place::Node(node), None).await?;
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

impl Ask {
    /// By those who do nothing else; one try each.
    pub const OF_VISITORS: Self =
        Self { by: "visitor", names: &[], referred: None, patience: Duration::ZERO, linger: Duration::ZERO };

    fn dial(&self) -> Dial {
        Dial {
            referred: self.referred.map(str::to_owned),
            linger_ms: millis(self.linger),
            timeout_ms: millis(self.patience),
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
