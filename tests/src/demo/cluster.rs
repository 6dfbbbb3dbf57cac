//! The cluster of the demo: the pods of the example's EndpointSlices, and clients.

use std::{collections::BTreeMap, fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, time::Instant};

use crate::lab::{
    addresses::Addresses,
    cluster::{Cluster, Placement},
    examples::{self, Example, ExamplePod, pod_name},
    pod::Dialling,
    traffic::{Dial, How, Protocol, Report},
};
use anyhow::{Context as _, Result};

use crate::demo::screen::{Screen, grouped};

const EXAMPLE: &str = "voting";
/// Dialled by the clients; has more than one backend.
const PAGE: &str = "vote";
const CLIENTS: [&str; 2] = ["browser-1", "browser-2"];
/// Pause of a client between two connections of a family.
const PAUSE_US: u64 = 3_000;

pub struct DemoCluster {
    traffic: Vec<Client>,
    example: Example,
    /// Pods of the page, by name.
    pub backends: BTreeMap<String, ExamplePod>,
    pub page: [SocketAddr; 2],
    pub queue: [SocketAddr; 2],
    // Last: all fields above use its pods.
    cluster: Cluster,
}

/// One family dialled by one client.
struct Client {
    is_v4: bool,
    dialling: Dialling,
}

/// The connections so far.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub by_pod: BTreeMap<String, u64>,
    pub v4: u64,
    pub v6: u64,
    pub failed: u64,
    /// Median of a whole exchange.
    pub p50_us: u32,
}

impl DemoCluster {
    pub async fn build(screen: &Screen) -> Result<Self> {
        let started = Instant::now();
        let directory = examples::directory().join(EXAMPLE);
        let example = Example::load(&directory)?;
        let pods = example.pods()?;
        let cluster = Cluster::start("demo").nodes(2).without_agents().build().await?;
        for (name, listed) in &pods {
            start(&cluster, name, listed).await?;
        }
        for (index, name) in CLIENTS.iter().enumerate() {
            cluster.ensure_pod(name, Placement::Node(index), None).await?;
        }
        let people = CLIENTS.len();
        let took = started.elapsed();
        screen.done(&format!("started 2 nodes, {} pods and {people} clients in {took:.1?}", pods.len()));

        cluster
            .manifests()
            .write_text("services.yaml", &fs::read_to_string(directory.join("services.yaml"))?)?;
        let cluster = Self::with(cluster, example, pods)?;
        cluster.publish(|_| true)?;
        cluster.start_agents(screen).await?;
        cluster.start_traffic().await
    }

    /// Writes the EndpointSlices, restricted to these pods.
    pub fn publish(&self, is_there: impl Fn(&str) -> bool) -> Result<()> {
        let mut documents = Vec::new();
        for slice in &self.example.slices {
            let mut slice = slice.clone();
            let endpoints = slice.endpoints.get_or_insert_default();
            endpoints.retain(|endpoint| pod_name(endpoint).is_none_or(&is_there));
            documents.push(serde_json::to_string_pretty(&slice)?);
        }
        self.cluster.manifests().write_text("endpointslices.yaml", &documents.join("\n---\n"))
    }

    pub async fn counts(&self) -> Result<Counts> {
        let mut counts = Counts::default();
        for client in &self.traffic {
            let report = client.dialling.progress().await?;
            let answered = report.answered();
            *(if client.is_v4 { &mut counts.v4 } else { &mut counts.v6 }) += answered;
            counts.failed += report.failed();
            counts.p50_us = counts.p50_us.max(report.latency.p50_us);
            for (name, answers) in report.answers {
                *counts.by_pod.entry(name).or_default() += answers.count;
            }
        }
        Ok(counts)
    }

    pub async fn kill_agent(&self) -> Result<()> {
        self.cluster.node(0).kill_agent().await
    }

    pub async fn restart_agent(&self) -> Result<()> {
        self.cluster.node(0).start_agent().await
    }

    /// The pod of the queue dials the queue's Service: a hairpin.
    pub async fn dial_itself(&self, times: u64) -> Result<(String, Report)> {
        let redis = self
            .example
            .slices
            .iter()
            .find(|slice| slice.metadata.name.as_ref().is_some_and(|name| name.starts_with("redis-")));
        let endpoint = redis.and_then(|slice| slice.endpoints.iter().flatten().next());
        let name = endpoint.and_then(pod_name).context("the queue has no pod")?;
        let pod = self.cluster.ensure_pod(name, Placement::Node(0), None).await?;
        let dial = Dial { to: self.queue.into(), times: Some(times), ..Dial::default() };
        Ok((name.to_owned(), pod.dial(dial).await?))
    }

    /// Stops the clients and sums up their reports.
    pub async fn end(self) -> Result<Report> {
        let mut all = Report::default();
        for client in self.traffic {
            let report = client.dialling.stop().await?;
            all.attempts += report.attempts;
            for (failure, count) in report.failures {
                *all.failures.entry(failure).or_default() += count;
            }
        }
        Ok(all)
    }

    /// Writes the script that runs a command inside a pod, and prints its usage.
    pub fn print_next_steps(&self, screen: &Screen, continues: bool) -> Result<()> {
        screen.say("");
        screen.title(if continues { "Until Ctrl-C, from another terminal" } else { "Next steps" });
        screen.say("");
        if continues {
            let directory = self.cluster.directory().display();
            self.write_entrance()?;
            screen.say(&format!("   cd {directory}"));
            screen.say(&format!("   ./in {} curl http://{}", CLIENTS[0], self.page[0].ip()));
            screen.say(&format!("   ./in {} curl -g 'http://[{}]'", CLIENTS[1], self.page[1].ip()));
            screen.say("   $EDITOR manifests/endpointslices.yaml    takes effect when saved");
        } else {
            screen
                .say("   sudo cargo xtask demo      in a terminal: continues until Ctrl-C, for experiments");
            screen.say("   portreeve plan --manifests examples/voting --node-name node-1");
            screen.say("   cargo xtask test           all tests");
        }
        screen.say("");
        Ok(())
    }

    fn with(cluster: Cluster, example: Example, pods: BTreeMap<String, ExamplePod>) -> Result<Self> {
        let (page, queue) = (addresses(&example, PAGE)?, addresses(&example, "redis")?);
        let serving = pods_of(&example, PAGE);
        let backends = pods.into_iter().filter(|(name, _)| serving.contains(name)).collect();
        Ok(Self { traffic: Vec::new(), example, backends, page, queue, cluster })
    }

    async fn start_agents(&self, screen: &Screen) -> Result<()> {
        let started = Instant::now();
        self.cluster.start_agents().await?;
        let took = started.elapsed();
        screen.done(&format!("examples/{EXAMPLE} is programmed by an agent on each node in {took:.1?}"));
        let [v4, v6] = self.page.map(|page| page.ip());
        screen.say("");
        screen.say(&format!("   {}  http://{v4}  http://[{v6}]", screen.bold(PAGE)));
        screen.say("");
        Ok(())
    }

    async fn start_traffic(mut self) -> Result<Self> {
        for (index, name) in CLIENTS.iter().enumerate() {
            let pod = self.cluster.ensure_pod(name, Placement::Node(index), None).await?;
            for to in self.page {
                let dial = Dial { to: vec![to], how: How::Http, pause_us: PAUSE_US, ..Dial::default() };
                let dialling = pod.clone().dial_in_background(dial).await?;
                self.traffic.push(Client { is_v4: to.is_ipv4(), dialling });
            }
        }
        Ok(self)
    }

    fn write_entrance(&self) -> Result<()> {
        let mut script =
            String::from("#!/bin/sh\n# in POD COMMAND: runs a command as POD would\ncase $1 in\n");
        for pod in self.cluster.all_pods() {
            let group = pod.cgroup().path().display();
            script.push_str(&format!("  {}) process={} group={group} ;;\n", pod.name, pod.id()));
        }
        script.push_str("  *) echo \"there is no pod $1\" >&2; exit 2 ;;\nesac\nshift\n");
        script.push_str("echo $$ > \"$group/cgroup.procs\"\n");
        script.push_str("exec nsenter --net=\"/proc/$process/ns/net\" \"$@\"\n");
        let path = self.cluster.directory().join("in");
        fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("cannot make it executable")
    }
}

pub fn summary(report: &Report) -> String {
    format!("{} connections, {} failed.", grouped(report.attempts), grouped(report.failed()))
}

/// Starts a pod with the addresses and ports of the slices.
async fn start(cluster: &Cluster, name: &str, listed: &ExamplePod) -> Result<()> {
    let nodes = cluster.nodes();
    let index = nodes.iter().position(|node| node.name == listed.node);
    let index = index.with_context(|| format!("{name} is on {}, which is not a node", listed.node))?;
    let spare = nodes.get(index).context("there is no such node")?.next_pod();
    let addresses = Addresses { v4: listed.v4.unwrap_or(spare.v4), v6: listed.v6.unwrap_or(spare.v6) };
    let pod = cluster.ensure_pod(name, Placement::Node(index), Some(addresses)).await?;
    for port in &listed.ports {
        pod.serve(Protocol::Tcp, *port).await?;
    }
    Ok(())
}

/// The ClusterIPs and the first port of a Service.
fn addresses(example: &Example, name: &str) -> Result<[SocketAddr; 2]> {
    let service = example.services.iter().find(|service| service.metadata.name.as_deref() == Some(name));
    let spec = service.and_then(|service| service.spec.as_ref());
    let spec = spec.with_context(|| format!("the example has no Service {name}"))?;
    let port = spec.ports.iter().flatten().next().and_then(|port| u16::try_from(port.port).ok());
    let port = port.with_context(|| format!("Service {name} has no port"))?;
    match spec.cluster_ips.as_deref() {
        Some([v4, v6]) => Ok([SocketAddr::new(v4.parse()?, port), SocketAddr::new(v6.parse()?, port)]),
        Some(_) | None => anyhow::bail!("Service {name} does not have one ClusterIP of each family"),
    }
}

fn pods_of(example: &Example, service: &str) -> Vec<String> {
    let is_of = |labels: &BTreeMap<String, String>| {
        labels.get("kubernetes.io/service-name").is_some_and(|name| name == service)
    };
    let slices = example.slices.iter().filter(|slice| slice.metadata.labels.as_ref().is_some_and(is_of));
    let endpoints = slices.flat_map(|slice| slice.endpoints.iter().flatten());
    endpoints.filter_map(pod_name).map(str::to_owned).collect()
}
