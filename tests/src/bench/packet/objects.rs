//! One Service with backends on another node, and external clients that dial its NodePort.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proxy::{
    index::Change,
    k8s::object::Object,
    model::{address::Protocol, flow::Flow},
};
use serde_json::{Value, json};

pub use crate::differential::objects::policy;
use crate::differential::objects::{NODE, NODE_NAME};

const NODE_PORT: u16 = 30_080;
/// Masqueraded flows to one backend each need another port of the node, and there are 36,000.
const BACKENDS: u8 = 50;
const TARGET: u16 = 8080;
/// Flows of each client; their ports start at `FIRST_PORT`.
const FLOWS: u32 = 50_000;
const FIRST_PORT: u32 = 1024;

pub fn changes() -> impl Iterator<Item = Change> {
    let slices = [false, true].map(|is_v6| Object::EndpointSlice(read(slice(is_v6))));
    let objects = [Object::Service(read(service()))].into_iter().chain(slices);
    objects.filter_map(|object| object.change(NODE_NAME).ok()?).map(|read| read.value)
}

/// The flow with this number, and its source port.
pub fn flow(number: u32, is_v6: bool) -> (Flow, u16) {
    let client = 1 + number / FLOWS;
    let port = u16::try_from(FIRST_PORT + number % FLOWS).expect("a port");
    let source = if is_v6 {
        Ipv6Addr::from_bits(0x2001_0db8_0000_0000_0000_0000_0000_0000 + u128::from(client)).into()
    } else {
        Ipv4Addr::from_bits(0xc633_6400 + client).into()
    };
    let destination = SocketAddr::new(NODE[usize::from(is_v6)], NODE_PORT);
    (Flow { source, destination, protocol: Protocol::Tcp }, port)
}

pub fn backends(is_v6: bool) -> impl Iterator<Item = IpAddr> {
    (1..=BACKENDS).map(move |n| {
        if is_v6 { Ipv6Addr::new(0xfd00, 1, 0, 2, 0, 0, 0, n.into()).into() } else { [10, 1, 2, n].into() }
    })
}

pub fn is_backend(address: SocketAddr) -> bool {
    address.port() == TARGET && backends(address.is_ipv6()).any(|backend| backend == address.ip())
}

/// The masquerade address.
pub fn masquerade(is_v6: bool) -> IpAddr {
    NODE[usize::from(is_v6)]
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Box<T> {
    Box::new(serde_json::from_value(value).expect("an object of its kind"))
}

fn service() -> Value {
    json!({"metadata": {"name": "web", "namespace": "shop"},
        "spec": {"type": "NodePort", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:96::1"],
            "ipFamilies": ["IPv4", "IPv6"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": NODE_PORT}]}})
}

fn slice(is_v6: bool) -> Value {
    let family = if is_v6 { "IPv6" } else { "IPv4" };
    let endpoint =
        |backend| json!({"addresses": [backend], "nodeName": "node-2", "conditions": {"ready": true}});
    let endpoints: Vec<_> = backends(is_v6).map(endpoint).collect();
    json!({"metadata": {"name": format!("web-{family}").to_lowercase(), "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": family, "endpoints": endpoints,
        "ports": [{"name": "http", "port": TARGET, "protocol": "TCP"}]})
}
