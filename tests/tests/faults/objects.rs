//! Faults of objects, on one node that lives through all of them: written as users write them, found by `explain`, `plan`
//! and `status`.

use anyhow::{Result, ensure};
use tests::{Cluster, eventually, node::Node};

use super::asked::{command, is_absent, is_named, text};

const PODS: &str = "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48";
const FILE: &str = "shop.yaml";
const CIDR: &str = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: kubernetes}\nspec: {cidrs: [10.96.0.0/16]}\n";
const READY: &str = "{addresses: [10.244.1.4], nodeName: node-2, conditions: {ready: true}}";
const UNREADY: &str = "{addresses: [10.244.1.4], nodeName: node-2, conditions: {ready: false}}";
const NODE_PORT: &str =
    "type: NodePort, clusterIP: 10.96.0.10, ports: [{name: http, port: 80, nodePort: 30080}]";
const LOCAL: &str = "type: NodePort, externalTrafficPolicy: Local, clusterIP: 10.96.0.10, \
    ports: [{name: http, port: 80, nodePort: 30080}]";
/// The node's address, and one that it gets later.
const NODE: &str = "172.18.0.11:30080";
const SECOND: &str = "198.51.100.7:30080";

/// A node with tables in which little has room, and the directory of its objects.
struct Lab {
    cluster: Cluster,
    directory: String,
    /// A pod of this node, and a client outside.
    pod: String,
    outside: &'static str,
}

impl Lab {
    async fn new() -> Self {
        let cluster = Cluster::start("fault-objects")
            .flag(PODS)
            .flag("--nodeport-addresses=172.18.0.0/24")
            .flag("--max-service-ports=1024")
            .await;
        let pod = cluster.pod("client").start().await.addresses.v4.to_string();
        let directory = cluster.manifests().directory().display().to_string();
        Self { cluster, directory, pod, outside: "203.0.113.9" }
    }

    fn node(&self) -> &Node {
        self.cluster.node(0)
    }

    fn write(&self, objects: &str) -> Result<()> {
        self.cluster.manifests().write_text(FILE, objects)
    }

    /// A flow is explained otherwise with the first objects, and by the fault with the second ones.
    async fn flow(&self, name: &str, (from, to): (&str, &str), sound: &str, faulty: &str) -> Result<()> {
        let arguments = ["--from", from, "--to", to];
        self.write(sound)?;
        is_absent(self.node(), name, &arguments).await;
        self.write(faulty)?;
        is_named(self.node(), name, &arguments).await;
        Ok(())
    }

    /// The same of `plan`.
    async fn plan(&self, name: &str, sound: &str, faulty: &str) -> Result<()> {
        let arguments = [
            "--manifests",
            &self.directory,
            "--node-name",
            "node-1",
            "--max-service-ports",
            "1024",
            "--max-source-ranges",
            "1024",
        ];
        self.write(sound)?;
        is_absent(self.node(), name, &arguments).await;
        self.write(faulty)?;
        is_named(self.node(), name, &arguments).await;
        Ok(())
    }

    /// The same of `status`.
    async fn status(&self, name: &str, sound: &str, faulty: &str) -> Result<()> {
        self.write(sound)?;
        is_absent(self.node(), name, &[]).await;
        self.write(faulty)?;
        is_named(self.node(), name, &[]).await;
        Ok(())
    }
}

/// Service shop/web of this specification, with a slice for a port of this name.
fn web(spec: &str, port: &str, endpoints: &str) -> String {
    named(("shop", "web"), spec, &format!("[{{name: {port}, port: 8080}}]"), endpoints)
}

/// A Service and its slice. The specification may close its braces and open those of a status.
fn named((namespace, name): (&str, &str), spec: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {{{spec}}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{namespace: {namespace}, name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: {ports}\nendpoints: [{endpoints}]\n---\n"
    )
}

/// A Service with this many ports, and no endpoints.
fn huge(namespace: &str, ports: usize) -> String {
    let ports: Vec<_> = (1..=ports).map(|n| format!("{{name: p{n}, port: {n}}}")).collect();
    let spec = format!("clusterIP: 10.96.0.20, ports: [{}]", ports.join(", "));
    named((namespace, "huge"), &spec, "[{name: p1, port: 80}]", "")
}

fn balanced(more: &str) -> String {
    let spec = format!(
        "type: LoadBalancer, clusterIP: 10.96.0.10, {more}, ports: [{{name: http, port: 80, nodePort: 30080}}]}}\n\
         status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.10}}]}}"
    );
    web(&spec, "http", READY)
}

#[tokio::test]
async fn what_is_wrong_with_the_objects_of_a_service_is_named() -> Result<()> {
    let lab = Lab::new().await;
    let sound = web(NODE_PORT, "http", READY);
    endpoints(&lab, &sound).await?;
    addresses(&lab, &sound).await?;
    claims(&lab, &sound).await?;
    room(&lab, &sound).await
}

async fn endpoints(lab: &Lab, sound: &str) -> Result<()> {
    let to_service = (&*lab.pod, "10.96.0.10:80");
    let from_outside = (lab.outside, NODE);
    lab.flow("no endpoints", to_service, sound, &web(NODE_PORT, "http", "")).await?;
    lab.flow("no endpoint is ready", to_service, sound, &web(NODE_PORT, "http", UNREADY)).await?;
    lab.plan("the slices name another port", sound, &web(NODE_PORT, "web", READY)).await?;
    let local = web(LOCAL, "http", READY);
    lab.flow("traffic policy Local, no pod here", from_outside, sound, &local).await?;
    let sctp = |target: u16| {
        let spec = "type: NodePort, clusterIP: 10.96.0.12, \
            ports: [{name: ngap, port: 38412, protocol: SCTP, nodePort: 31412}]";
        named(("shop", "amf"), spec, &format!("[{{name: ngap, port: {target}, protocol: SCTP}}]"), READY)
    };
    let to_sctp = (lab.outside, "172.18.0.11:31412/sctp");
    lab.flow("SCTP to endpoints with another port", to_sctp, &sctp(31412), &sctp(38412)).await
}

async fn addresses(lab: &Lab, sound: &str) -> Result<()> {
    let pod = &*lab.pod;
    let (to_service, none) = ((pod, "10.96.0.10:80"), "");
    lab.flow("a port that the Service does not define", (pod, "10.96.0.10:81"), none, sound).await?;
    lab.flow("another protocol than the Service's", (pod, "10.96.0.10:80/udp"), none, sound).await?;
    lab.flow("an address that no Service has", to_service, sound, none).await?;
    let allocated = format!("{sound}{CIDR}");
    lab.flow("an address of the ServiceCIDR that is not allocated", to_service, &allocated, CIDR).await?;

    lab.write(sound)?;
    let mixed = "client and Service of different families";
    is_absent(lab.node(), mixed, &["--from", pod, "--to", "10.96.0.10:80"]).await;
    is_named(lab.node(), mixed, &["--from", "fd00:10:244:1::9", "--to", "10.96.0.10:80"]).await;

    let not_served = "a NodePort at an address that does not serve it";
    let to_second = ["--from", lab.outside, "--to", SECOND];
    is_absent(lab.node(), not_served, &to_second).await;
    let address = "198.51.100.7/32".parse()?;
    lab.node().netns().netlink()?.address("eth0", address).await?;
    is_named(lab.node(), not_served, &to_second).await;
    // One that serves it is the node's, too, though its object does not list it.
    let served = "172.18.0.77/32".parse()?;
    lab.node().netns().netlink()?.address("eth0", served).await?;
    eventually("the programs and the model agree", async || {
        let output = command(lab.node(), &["explain", "--from", lab.outside, "--to", "172.18.0.77:30080"])?;
        let screen = text(&output.stdout);
        ensure!(output.status.success() && screen.contains("RESULT      dnat"), "{screen}");
        Ok(())
    })
    .await;

    let admitting = balanced("loadBalancerSourceRanges: [203.0.113.0/24]");
    let excluding = balanced("loadBalancerSourceRanges: [198.51.100.0/24]");
    let to_balancer = (lab.outside, "203.0.113.10:80");
    lab.flow("the source ranges exclude the client", to_balancer, &admitting, &excluding).await
}

async fn claims(lab: &Lab, sound: &str) -> Result<()> {
    let external = |name: &str, ip: &str, external: &str| {
        let spec = format!("clusterIP: {ip}, externalIPs: [{external}], ports: [{{name: http, port: 80}}]");
        named(("shop", name), &spec, "[{name: http, port: 8080}]", READY)
    };
    let first = external("aaa", "10.96.0.12", "203.0.113.10");
    let apart = first.clone() + &external("zzz", "10.96.0.11", "203.0.113.11");
    let same = first + &external("zzz", "10.96.0.11", "203.0.113.10");
    lab.plan("two Services claim one address", &apart, &same).await?;

    let checked = |port: u16| {
        let spec = format!(
            "type: LoadBalancer, clusterIP: 10.96.0.14, externalTrafficPolicy: Local, healthCheckNodePort: {port}, \
             ports: [{{name: http, port: 80, nodePort: 30998}}]"
        );
        sound.to_owned() + &named(("shop", "balanced"), &spec, "[{name: http, port: 8080}]", READY)
    };
    lab.plan("a health check port that is a NodePort", &checked(30_999), &checked(30_080)).await?;
    let misspelt = sound.replace("nodePort: 30080", "nodeport: 30080");
    lab.plan("a misspelt field", sound, &misspelt).await
}

/// A namespace may take half of a table, a Service a quarter; kube-system all.
async fn room(lab: &Lab, sound: &str) -> Result<()> {
    lab.plan("a Service exceeds its share of the tables", sound, &huge("shop", 300)).await?;
    let ranges: Vec<_> = (0..300).map(|n| format!("203.0.{}.{}/32", n / 200, n % 200)).collect();
    let ranged = |ranges: &[String]| balanced(&format!("loadBalancerSourceRanges: [{}]", ranges.join(", ")));
    let few = ranged(ranges.get(..10).unwrap_or_default());
    lab.plan("a Service exceeds its share of source ranges", &few, &ranged(&ranges)).await?;

    lab.status("a table is almost full", sound, &huge("kube-system", 950)).await?;
    lab.status("frontends find no room in the tables", sound, &huge("kube-system", 1100)).await?;
    // And it recovers.
    lab.write(sound)?;
    is_absent(lab.node(), "frontends find no room in the tables", &[]).await;
    let output = command(lab.node(), &["explain", "shop/web"])?;
    ensure!(output.status.success(), "programs and objects agree: {output:?}");
    Ok(())
}
