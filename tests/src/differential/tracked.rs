//! Packets of tracked flows: their number and bytes, segments above the MTU of their route, and UDP flows whose backend was removed.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use aya::Pod;
use proxy::{
    index::Change,
    k8s::object::Object,
    model::{address::Protocol, flow::Flow},
};
use proxy_ebpf::abi::{
    Config, ConfigFlags, Flow as Record, FlowCounters, FlowState, ServiceConnections, Traffic,
    flow_state::ticks, map,
};
use serde_json::json;

use super::{
    fixture::{self, EXTERNAL_EGRESS, EXTERNAL_INGRESS, PASS, ProgramFixture, REDIRECT, network},
    objects,
    packet::{DEVICE, ETHERNET, Packet, Rejection},
};
use crate::lab::kernel::netns::Netns;

const EXTERNAL_IP: [&str; 2] = ["192.0.2.9", "2001:db8:2::9"];
const CLUSTER_IP: [&str; 2] = ["10.96.9.1", "fd00:96::9:1"];
const CLIENT: [&str; 2] = ["198.51.100.7", "2001:db8::7"];
const ENDPOINTS: [[&str; 2]; 2] = [["10.9.0.1", "fd00:9::1"], ["10.9.0.2", "fd00:9::2"]];
/// The networks of the endpoints.
const BEHIND: [&str; 2] = ["10.9.0.0/16", "fd00:9::/48"];
const PORT: u16 = 80;
pub(super) const FLOWS: u32 = 64;
/// Indices of service ports that may be in use.
const SERVICES: u32 = 16;

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

/// Each packet of a flow is counted in it once, wherever it is translated, and in its service port once the flow has ended.
pub fn packets_are_counted() -> Result<()> {
    network()?.run(|| {
        let mut fixture = ProgramFixture::new(None, Config { flows: FLOWS, ..fixture::CONFIG })?;
        fixture.load_objects(objects::policy(), service(Some(0))?)?;
        for (v6, table) in [(0, map::FLOW_COUNTERS_V4), (1, map::FLOW_COUNTERS_V6)] {
            let before = of_services(&fixture)?;
            let (sent, received) = exchange(&mut fixture, v6)?;
            let counted = of_flows(&fixture, table)?;
            ensure!(counted == [sent, received], "IPv{}: {counted:?}", 4 + 2 * v6);
            ensure!(of_services(&fixture)? == before, "the flow goes on");
            // A SYN from the same port ends the flow whose backend was removed.
            fixture.load_objects(objects::policy(), service(None)?)?;
            age_flows(&fixture)?;
            fixture.run(EXTERNAL_INGRESS, &packet(v6, Protocol::Udp, 2000)?)?;
            let added = of_services(&fixture)?;
            for (at, count) in [sent, received].into_iter().enumerate() {
                let Traffic { packets, bytes } = added[at];
                let more = (packets - before[at].packets, bytes - before[at].bytes);
                ensure!(more == (count.packets, count.bytes), "IPv{}: {more:?}", 4 + 2 * v6);
            }
            fixture.load_objects(objects::policy(), service(Some(0))?)?;
        }
        Ok(())
    })
}

/// Three datagrams to the backend and two answers. Returns what was sent and received.
fn exchange(fixture: &mut ProgramFixture, v6: usize) -> Result<(Traffic, Traffic)> {
    let datagram = packet(v6, Protocol::Udp, 2000)?;
    let bytes = |packet: &Packet| (packet.bytes().len() - ETHERNET) as u64;
    let forwarded = goes_to(fixture, &datagram, ENDPOINTS[0][v6].parse()?)?;
    let left = Packet::parse(&fixture.run(EXTERNAL_EGRESS, &forwarded)?.1)?;
    for _ in 0..2 {
        fixture.run(EXTERNAL_INGRESS, &datagram)?;
        let (_, reply) = fixture.run(EXTERNAL_INGRESS, &left.reply())?;
        fixture.run_frame(EXTERNAL_EGRESS, &reply)?;
    }
    let sent = Traffic { packets: 3, bytes: 3 * bytes(&datagram) };
    Ok((sent, Traffic { packets: 2, bytes: 2 * bytes(&left.reply()) }))
}

/// The sums of all flows of a family, by direction.
fn of_flows(fixture: &ProgramFixture, table: &str) -> Result<[Traffic; 2]> {
    let counters = fixture.array::<FlowCounters>(table)?;
    let mut sums = [Traffic::default(); 2];
    for index in 0..FLOWS * FlowCounters::DIRECTIONS {
        let found = counters.get(&index, 0)?;
        let sum = &mut sums[(index / FLOWS) as usize];
        *sum = Traffic { packets: sum.packets + found.packets, bytes: sum.bytes + found.bytes };
    }
    Ok(sums)
}

/// The sums of all service ports, by direction.
fn of_services(fixture: &ProgramFixture) -> Result<[Traffic; 2]> {
    let counters = fixture.array::<ServiceConnections>(map::SERVICE_CONNECTIONS)?;
    let mut sums = [Traffic::default(); 2];
    for index in 0..SERVICES {
        for (sum, found) in sums.iter_mut().zip(counters.get(&index, 0)?.forwarded) {
            *sum = Traffic { packets: sum.packets + found.packets, bytes: sum.bytes + found.bytes };
        }
    }
    Ok(sums)
}

fn removed_backend(fixture: &mut ProgramFixture, v6: usize) -> Result<()> {
    let datagram = packet(v6, Protocol::Udp, 2000)?;
    let [first, second] = ENDPOINTS.map(|endpoint| endpoint[v6].parse::<IpAddr>());
    let (first, second) = (first?, second?);
    fixture.load_objects(objects::policy(), service(Some(0))?)?;
    let forwarded = goes_to(fixture, &datagram, first)?;
    let left = Packet::parse(&fixture.run(EXTERNAL_EGRESS, &forwarded)?.1)?;

    fixture.load_objects(objects::policy(), service(None)?)?;
    age_flows(fixture)?;
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
    age_flows(fixture)?;
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
pub(super) fn age_flows(fixture: &ProgramFixture) -> Result<()> {
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

pub(super) fn packet(v6: usize, protocol: Protocol, port: u16) -> Result<Packet> {
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
pub(super) fn service(endpoint: Option<usize>) -> Result<Vec<Change>> {
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
