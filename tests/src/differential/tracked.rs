//! Packets of tracked flows: segments above the MTU of their route, and UDP flows whose backend was removed.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use aya::Pod;
use proxy::{
    index::Change,
    k8s::object::Object,
    model::{address::Protocol, flow::Flow},
};
use proxy_ebpf::abi::{Config, ConfigFlags, Flow as Record, FlowState, flow_state::ticks, map};
use serde_json::json;

use super::{
    fixture::{self, EXTERNAL_EGRESS, EXTERNAL_INGRESS, PASS, ProgramFixture, REDIRECT, network},
    objects,
    packet::{DEVICE, Packet, Rejection},
};
use crate::lab::kernel::netns::Netns;

const EXTERNAL_IP: [&str; 2] = ["192.0.2.9", "2001:db8:2::9"];
const CLUSTER_IP: [&str; 2] = ["10.96.9.1", "fd00:96::9:1"];
const CLIENT: [&str; 2] = ["198.51.100.7", "2001:db8::7"];
const ENDPOINTS: [[&str; 2]; 2] = [["10.9.0.1", "fd00:9::1"], ["10.9.0.2", "fd00:9::2"]];
/// The networks of the endpoints.
const BEHIND: [&str; 2] = ["10.9.0.0/16", "fd00:9::/48"];
const PORT: u16 = 80;
const FLOWS: u32 = 64;

/// The device towards the endpoints, whose MTU is below that of the others.
const NARROW: &str = "narrow";
const MTU: u32 = 1300;

/// With `--forwarding redirect`: only the stack answers packets above the MTU with an ICMP error, also those that
/// stand for several segments.
pub fn segments_above_the_mtu() -> Result<()> {
    let (netns, _beyond) = narrow_network()?;
    netns.run(|| {
        let flags = ConfigFlags::BYPASS_STACK;
        let mut fixture = ProgramFixture::new(None, Config { flags, ..fixture::CONFIG })?;
        fixture.load_objects(objects::policy(), service(Some(0))?)?;
        for v6 in [0, 1] {
            let headers = if v6 == 0 { 40 } else { 60 };
            let first = packet(v6, Protocol::Tcp, 2000)?;
            ensure!(fixture.run(EXTERNAL_INGRESS, &first)?.0 == REDIRECT, "the first packet takes the stack");
            for (payload, want) in [(MTU - headers, REDIRECT), (MTU - headers + 1, PASS), (8000, PASS)] {
                let next = first.next();
                let (action, out) = fixture.run_segments(EXTERNAL_INGRESS, next.bytes(), payload)?;
                ensure!(action == want, "IPv{}, {payload} bytes: {action}", 4 + 2 * v6);
                ensure!(out != next.bytes(), "not translated");
            }
        }
        Ok(())
    })
}

/// A UDP flow ends with its last endpoint or its Service, and goes to the next endpoint.
pub fn flows_of_removed_backends() -> Result<()> {
    network()?.run(|| {
        let mut fixture = ProgramFixture::new(None, Config { flows: FLOWS, ..fixture::CONFIG })?;
        for v6 in [0, 1] {
            removed_backend(&mut fixture, v6).with_context(|| format!("IPv{}", 4 + 2 * v6))?;
        }
        Ok(())
    })
}

fn removed_backend(fixture: &mut ProgramFixture, v6: usize) -> Result<()> {
    let datagram = packet(v6, Protocol::Udp, 2000)?;
    let [first, second] = ENDPOINTS.map(|endpoint| endpoint[v6].parse::<IpAddr>());
    let (first, second) = (first?, second?);
    fixture.load_objects(objects::policy(), service(Some(0))?)?;
    let forwarded = goes_to(fixture, &datagram, first)?;
    let left = Packet::parse(&fixture.run(EXTERNAL_EGRESS, &forwarded)?.1)?;

    fixture.load_objects(objects::policy(), service(None)?)?;
    wait_a_tick(fixture)?;
    // The removed backend still answers, and its answers arrive first in each tick.
    let (action, reply) = fixture.run(EXTERNAL_INGRESS, &left.reply())?;
    ensure!(action == PASS, "its reply is dropped: {action}");
    let (action, reply) = fixture.run_frame(EXTERNAL_EGRESS, &reply)?;
    ensure!(action == PASS && Packet::parse(&reply)?.from == datagram.to, "its reply is not translated");
    let (action, out) = fixture.run(EXTERNAL_INGRESS, &datagram)?;
    ensure!(action == REDIRECT, "without endpoints: {action}");
    ensure!(matches!(Rejection::parse(&out)?, Rejection::PortUnreachable { .. }), "no port unreachable");

    fixture.load_objects(objects::policy(), service(Some(1))?)?;
    goes_to(fixture, &datagram, second)?;

    fixture.load_objects(objects::policy(), [])?;
    wait_a_tick(fixture)?;
    let (action, out) = fixture.run(EXTERNAL_INGRESS, &datagram)?;
    ensure!(action == PASS && out == datagram.bytes(), "without the Service: {action}");
    Ok(())
}

fn goes_to(fixture: &mut ProgramFixture, datagram: &Packet, endpoint: IpAddr) -> Result<Packet> {
    let (action, out) = fixture.run(EXTERNAL_INGRESS, datagram)?;
    let forwarded = Packet::parse(&out)?;
    ensure!(action == PASS && forwarded.to.ip() == endpoint, "{action}, to {}", forwarded.to);
    Ok(forwarded)
}

/// Moves the last packet of each flow into the past.
fn wait_a_tick(fixture: &ProgramFixture) -> Result<()> {
    age::<[u8; 4]>(fixture, map::FLOWS_V4)?;
    age::<[u8; 16]>(fixture, map::FLOWS_V6)
}

fn age<A>(fixture: &ProgramFixture, table: &str) -> Result<()>
where
    Record<A>: Pod,
{
    let mut records = fixture.array::<Record<A>>(table)?;
    for slot in 0..FLOWS {
        let mut record = records.get(&slot, 0)?;
        let state = record.state;
        record.state = FlowState::new(state.tag(), state.bits(), state.last_seen().saturating_sub(ticks(1)));
        records.set(slot, record, 0)?;
    }
    Ok(())
}

fn packet(v6: usize, protocol: Protocol, port: u16) -> Result<Packet> {
    let destination = SocketAddr::new(EXTERNAL_IP[v6].parse()?, PORT);
    Ok(Packet::first(&Flow { source: CLIENT[v6].parse()?, destination, protocol }, port))
}

fn narrow_network() -> Result<(Netns, Netns)> {
    let (netns, beyond) = (network()?, network()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (netlink, peer) = (netns.netlink()?, beyond.netlink()?);
        netlink.veth(NARROW, "wide", &peer).await?;
        netlink.mtu(NARROW, MTU).await?;
        for (behind, endpoint) in BEHIND.into_iter().zip(ENDPOINTS[0]) {
            let endpoint: IpAddr = endpoint.parse()?;
            netlink.neighbour(NARROW, endpoint, DEVICE).await?;
            netlink.replace_route_through(behind.parse()?, NARROW).await?;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    Ok((netns, beyond))
}

/// A Service whose only endpoint, if any, is on another node.
fn service(endpoint: Option<usize>) -> Result<Vec<Change>> {
    let protocols = ["TCP", "UDP"];
    let named = |port: u16| {
        protocols.map(|protocol| json!({"name": protocol.to_lowercase(), "port": port, "protocol": protocol}))
    };
    let service = json!({"metadata": {"name": "web", "namespace": "shop"},
        "spec": {"clusterIP": CLUSTER_IP[0], "clusterIPs": CLUSTER_IP, "ipFamilies": ["IPv4", "IPv6"],
            "externalIPs": EXTERNAL_IP, "ports": named(PORT)}});
    let mut objects = vec![Object::Service(serde_json::from_value(service)?)];
    for (v6, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let endpoints: Vec<_> = endpoint
            .map(|endpoint| json!({"addresses": [ENDPOINTS[endpoint][v6]], "nodeName": "node-2", "conditions": {"ready": true}}))
            .into_iter()
            .collect();
        let slice = json!({"metadata": {"name": format!("web-{v6}"), "namespace": "shop",
                "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": family, "ports": named(8080), "endpoints": endpoints});
        objects.push(Object::EndpointSlice(serde_json::from_value(slice)?));
    }
    let mut changes = Vec::new();
    for object in objects {
        changes.extend(object.change(objects::NODE_NAME)?.map(|read| read.value));
    }
    Ok(changes)
}
