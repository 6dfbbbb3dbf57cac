//! Random Services and endpoints, and flows to them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proxy::{
    index::Change,
    k8s::object::Object,
    model::{
        address::{PerFamily, Protocol},
        flow::Flow,
        policy::{NodePortAddresses, Policy},
    },
};
use serde_json::{Value, json};

use crate::lab::rng::Rng;

pub const NODE_NAME: &str = "node-1";
const SERVICES: u64 = 6;
const PORTS: [(u16, Protocol); 4] =
    [(80, Protocol::Tcp), (80, Protocol::Udp), (81, Protocol::Sctp), (8080, Protocol::Sctp)];
pub const TARGET: u16 = 8080;

pub const NODE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(172, 18, 0, 11)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 0xb)),
];

/// Flows per set of maps: client addresses and ports do not repeat within them.
pub const FLOWS: u64 = 50_000;
/// Cases per set of objects.
pub const CASES: u64 = 500;

pub fn policy() -> Policy {
    Policy {
        node_name: NODE_NAME.to_owned(),
        node_addresses: NODE.to_vec(),
        nodeport_addresses: NodePortAddresses::Cidrs(Vec::new()),
        cluster_cidrs: PerFamily { v4: "10.1.0.0/16".parse().ok(), v6: "fd00:1::/48".parse().ok() },
        ..Policy::default()
    }
}

/// Objects of the API server.
#[derive(Debug, Default)]
pub struct RandomObjects {
    objects: Vec<Object>,
}

impl RandomObjects {
    pub fn random(rng: &mut Rng) -> Self {
        let mut objects = vec![Object::ServiceCidr(read(json!({"metadata": {"name": "kubernetes"},
            "spec": {"cidrs": ["10.96.0.0/16", "fd00:96::/112"]}})))];
        for n in 1..=SERVICES {
            objects.push(Object::Service(read(service(rng, n))));
            for v6 in [false, true] {
                objects.push(Object::EndpointSlice(read(slice(rng, n, v6))));
            }
        }
        Self { objects }
    }

    pub fn changes(&self) -> impl Iterator<Item = Change> {
        self.objects.iter().filter_map(|object| object.change(NODE_NAME).ok()?).map(|read| read.value)
    }

    /// Mostly to addresses of Services, sometimes to others beside them.
    pub fn flow(&self, rng: &mut Rng) -> Flow {
        let v6 = rng.coin();
        let (port, protocol) = PORTS[rng.below(4) as usize];
        let n = 1 + rng.below(SERVICES + 1);
        let (address, port) = match rng.below(6) {
            0 => (address(v6, [0, 0x99], n), port),
            1 => (NODE[usize::from(v6)], node_port(n, port, protocol)),
            kind => (address(v6, [[0, 0x96], [0, 0x2], [0, 0x113], [0, 0x96]][kind as usize - 2], n), port),
        };
        let port = if rng.below(12) == 0 { port + 1 } else { port };
        Flow { source: source(rng, v6), destination: SocketAddr::new(address, port), protocol }
    }
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Box<T> {
    Box::new(serde_json::from_value(value).expect("an object of its kind"))
}

/// `kind`: 0x96 is a ClusterIP, 0x2 an external IP, 0x113 a load balancer's address, 0x99 an unassigned one.
fn address(v6: bool, [_, kind]: [u16; 2], n: u64) -> IpAddr {
    let n = u8::try_from(n).expect("few Services");
    match (v6, kind) {
        (true, kind) => Ipv6Addr::new(0xfd00, kind, 0, 0, 0, 0, 0, n.into()).into(),
        (false, 0x96) => Ipv4Addr::new(10, 96, 0, n).into(),
        (false, 0x2) => Ipv4Addr::new(192, 0, 2, n).into(),
        (false, 0x113) => Ipv4Addr::new(203, 0, 113, n).into(),
        (false, _) => Ipv4Addr::new(198, 18, 0, n).into(),
    }
}

fn node_port(n: u64, port: u16, protocol: Protocol) -> u16 {
    let at = PORTS.iter().position(|known| *known == (port, protocol)).unwrap_or_default();
    30_000 + 10 * u16::try_from(n).expect("few Services") + u16::try_from(at).expect("few ports")
}

/// Local and remote pods, among them endpoints; the node; external clients.
fn source(rng: &mut Rng, v6: bool) -> IpAddr {
    let n = 1 + rng.below(250);
    match rng.below(5) {
        0 => endpoint(v6, true, 1 + rng.below(4)),
        1 => endpoint(v6, true, n),
        2 => endpoint(v6, false, n),
        3 => NODE[usize::from(v6)],
        _ if v6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, rng.below(4) as u16, n as u16).into(),
        _ => Ipv4Addr::new(198, 51, 100 + rng.below(4) as u8, n as u8).into(),
    }
}

/// A client whose packets, without link layer, have the EtherType of their family where an Ethernet header has it.
pub fn without_link_layer(rng: &mut Rng, v6: bool) -> IpAddr {
    let n = 1 + rng.below(250);
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0x86dd, 0, 0, 0, 0, n as u16).into()
    } else {
        Ipv4Addr::new(8, 0, rng.below(4) as u8, n as u8).into()
    }
}

/// Whether a source is a pod of this node.
pub fn is_here(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(ip) => ip.octets().starts_with(&[10, 1, 1]),
        IpAddr::V6(ip) => ip.segments().starts_with(&[0xfd00, 1, 0, 1]),
    }
}

fn endpoint(v6: bool, is_local: bool, n: u64) -> IpAddr {
    let node = if is_local { 1 } else { 2 };
    if v6 {
        Ipv6Addr::new(0xfd00, 1, 0, node, 0, 0, 0, n as u16).into()
    } else {
        Ipv4Addr::new(10, 1, node as u8, n as u8).into()
    }
}

fn service(rng: &mut Rng, n: u64) -> Value {
    let both = |kind| [address(false, [0, kind], n), address(true, [0, kind], n)];
    let ports: Vec<_> = PORTS
        .iter()
        .map(|(port, protocol)| {
            json!({"name": format!("p{port}-{protocol}").to_lowercase(), "port": port, "protocol": protocol.to_string(),
                "nodePort": node_port(n, *port, *protocol)})
        })
        .collect();
    let policy = |rng: &mut Rng| if rng.coin() { "Local" } else { "Cluster" };
    let ranges: &[&str] = match rng.below(4) {
        0 => &["198.51.100.0/24", "2001:db8::/120"],
        1 => &["10.1.0.0/16", "198.51.101.0/24", "fd00:1::/48"],
        _ => &[],
    };
    let affinity = if rng.below(4) == 0 { "ClientIP" } else { "None" };
    let ingress: Vec<_> = both(0x113).iter().map(|ip| json!({"ip": ip})).collect();
    json!({"metadata": {"name": format!("s{n}"), "namespace": "shop"},
        "spec": {"type": "LoadBalancer", "clusterIP": both(0x96)[0], "clusterIPs": both(0x96),
            "ipFamilies": ["IPv4", "IPv6"], "externalIPs": both(0x2), "ports": ports, "sessionAffinity": affinity,
            "internalTrafficPolicy": policy(rng), "externalTrafficPolicy": policy(rng),
            "loadBalancerSourceRanges": ranges},
        "status": {"loadBalancer": {"ingress": ingress}}})
}

fn slice(rng: &mut Rng, n: u64, v6: bool) -> Value {
    let endpoints: Vec<_> = (0..rng.below(5))
        .map(|_| {
            let is_local = rng.below(3) == 0;
            let (ready, serving, terminating) = [
                (true, true, false),
                (true, true, false),
                (false, true, true),
                (false, false, true),
                (false, true, false),
            ][rng.below(5) as usize];
            json!({"addresses": [endpoint(v6, is_local, 1 + rng.below(4))],
                "nodeName": if is_local { NODE_NAME } else { "node-2" },
                "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
        })
        .collect();
    let ports: Vec<_> = PORTS
        .iter()
        .map(|(port, protocol)| {
            json!({"name": format!("p{port}-{protocol}").to_lowercase(), "port": TARGET,
            "protocol": protocol.to_string()})
        })
        .collect();
    let family = if v6 { "IPv6" } else { "IPv4" };
    json!({"metadata": {"name": format!("s{n}-{family}").to_lowercase(), "namespace": "shop",
            "labels": {"kubernetes.io/service-name": format!("s{n}")}},
        "addressType": family, "endpoints": endpoints, "ports": ports})
}

/// The client port of a case. It differs for each flow of a client, and from the port of the pods: a socket
/// cannot dial itself.
pub fn client_port(case: u64) -> u16 {
    match u16::try_from(1024 + case % FLOWS).expect("fewer flows than ports") {
        TARGET => u16::MAX,
        port => port,
    }
}
