//! Conditions under which a packet must be dropped and counted under its reason: full tables, no free port, no
//! route. The agent creates few of them; most are written into the maps.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    thread::available_parallelism,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use proxy::{
    index::Change,
    k8s::object::Object,
    model::{
        address::{IpFamily, Protocol},
        flow::Flow,
        frontend::{FrontendAddress, FrontendKey},
    },
    reconcile::LbMaps as _,
};
use proxy_ebpf::abi::{
    Bucket, Config, DropReason, FLOWS_PER_BUCKET, FlowRef, FlowState, TupleHash, TupleKind,
    flow_state::{TICK_SHIFT, ticks},
    map,
};
use serde_json::json;

use super::{
    fixture::{self, DROP, EXTERNAL_EGRESS, EXTERNAL_INGRESS, PASS, ProgramFixture},
    flow_states::change_states,
    objects::{self, NODE},
    packet::Packet,
};

/// The reasons that occur among random flows or here. The others do not occur in program runs:
/// `NeedsSourceAddress` belongs to the socket plane, `FrontendRemoved` to packets with their sockets, and `RewriteFailed` is the kernel's error for a packet that
/// it should not have accepted.
pub const PROVOKED: [DropReason; 16] = [
    DropReason::NoEndpoint,
    DropReason::PolicyHasNoLocalEndpoint,
    DropReason::FrontendChurn,
    DropReason::BackendChurn,
    DropReason::SourceNotInRanges,
    DropReason::UndefinedPort,
    DropReason::UnallocatedAddress,
    DropReason::ConntrackFull,
    DropReason::ConntrackBucketFull,
    DropReason::NoMasqueradePort,
    DropReason::NoMasqueradeAddress,
    DropReason::FlowEnding,
    DropReason::NoRouteToBackend,
    DropReason::SctpPortDiffers,
    DropReason::FragmentNotHeld,
    DropReason::NoTranslatedPort,
];

/// A Service whose only backend is on another node, to which the node has no route.
const CLUSTER_IP: [&str; 2] = ["10.96.9.1", "fd00:96::9:1"];
const EXTERNAL_IP: [&str; 2] = ["192.0.2.9", "2001:db8:2::9"];
const ENDPOINT: [&str; 2] = ["10.9.0.1", "fd00:9::1"];
/// Addresses that are not assigned.
const UNUSED: [&str; 2] = ["192.0.2.10", "2001:db8:2::a"];
const PORT: u16 = 80;
/// Another client outside.
const OTHER_CLIENT: [&str; 2] = ["198.51.100.8", "2001:db8::8"];
/// For SCTP, which cannot translate ports: also the target port.
const SCTP_PORT: u16 = 8080;

/// The ClusterIP's Service does not define this port.
const UNDEFINED_PORT: u16 = 9;

const FLOWS: u32 = 64;
/// ICMP errors per tick, for the test of their rate limit.
const ERRORS: u32 = 3;

/// Two exhausted nodes: one has few flow records and one masquerade port, the other full buckets.
pub struct ExhaustedNodes {
    small: ProgramFixture,
    full_buckets: ProgramFixture,
    clients: u32,
}

impl ExhaustedNodes {
    pub fn new(object: Option<&[u8]>) -> Result<Self> {
        let config = Config { flows: FLOWS, first_port: 2000, last_port: 2000, ..fixture::CONFIG };
        let mut small = ProgramFixture::new(object, config)?;
        small.load_objects(objects::policy(), service_objects()?)?;
        let mut full_buckets = ProgramFixture::new(object, config)?;
        full_buckets.load_objects(objects::policy(), service_objects()?)?;
        Ok(Self { small, full_buckets, clients: 0 })
    }

    /// Checks each condition once.
    pub fn check_all(&mut self) -> Result<()> {
        for v6 in [false, true] {
            self.no_route(v6).context("no route")?;
            self.no_masquerade_address(v6).context("no masquerade address")?;
            self.no_masquerade_port(v6).context("no masquerade port")?;
            self.no_other_port(v6).context("no other port for SCTP")?;
            self.fragment_not_held(v6).context("a full fragment queue")?;
            self.flow_ending(v6).context("a flow that is being deleted")?;
            self.frontend_churn(v6).context("a frontend that is replaced")?;
            self.backend_churn(v6).context("a removed backend")?;
            self.full_table(v6).context("a full table")?;
            self.unassured_first(v6).context("a flood of flows without the client's ACK")?;
        }
        self.bucket_full().context("full buckets")
    }

    pub fn refusals(&self) -> Result<BTreeMap<&'static str, u64>> {
        let mut sum = self.small.refusals()?;
        for (reason, count) in self.full_buckets.refusals()? {
            *sum.entry(reason).or_default() += count;
        }
        Ok(sum)
    }

    fn no_route(&mut self, v6: bool) -> Result<()> {
        self.clients += 1;
        let packet = self.packet(NODE[usize::from(v6)], CLUSTER_IP[usize::from(v6)])?;
        expect_drop(&mut self.small, EXTERNAL_EGRESS, &packet, DropReason::NoRouteToBackend)?;
        self.delete_flows()
    }

    fn no_masquerade_address(&mut self, v6: bool) -> Result<()> {
        self.small.set_masquerade(&[])?;
        let forwarded = self.create_flow(v6)?;
        expect_drop(&mut self.small, EXTERNAL_EGRESS, &forwarded, DropReason::NoMasqueradeAddress)?;
        self.small.set_masquerade(&NODE)?;
        // The next packet finds an address.
        ensure!(self.small.run(EXTERNAL_EGRESS, &forwarded)?.0 == PASS, "still dropped");
        self.delete_flows()
    }

    fn no_masquerade_port(&mut self, v6: bool) -> Result<()> {
        let first = self.create_flow(v6)?;
        ensure!(self.small.run(EXTERNAL_EGRESS, &first)?.0 == PASS, "a flow with the only port is dropped");
        let second = self.create_flow(v6)?;
        expect_drop(&mut self.small, EXTERNAL_EGRESS, &second, DropReason::NoMasqueradePort)?;
        // The first flow's client is silent, and was never heard after an answer: its port is taken over.
        self.age(11)?;
        ensure!(
            self.small.run(EXTERNAL_EGRESS, &second)?.0 == PASS,
            "the port of an idle flow without the client's ACK is not taken over"
        );
        self.delete_flows()?;
        // That of a connection is not.
        let first = self.create_flow(v6)?;
        ensure!(self.small.run(EXTERNAL_EGRESS, &first)?.0 == PASS, "the port is not free");
        self.assure()?;
        self.age(11)?;
        let second = self.create_flow(v6)?;
        expect_drop(&mut self.small, EXTERNAL_EGRESS, &second, DropReason::NoMasqueradePort)?;
        self.delete_flows()
    }

    /// Lets all flows be assured.
    fn assure(&self) -> Result<()> {
        self.change_states(|state| {
            let bits = if state.is_alive() { FlowState::SEEN_REPLY } else { 0 };
            FlowState::new(state.tag(), (state.bits() | bits) & !FlowState::UNASSURED, state.last_seen())
        })
    }

    /// One client port through two frontends to one backend: SCTP cannot get another source port, as other
    /// protocols do.
    fn no_other_port(&mut self, v6: bool) -> Result<()> {
        self.clients += 1;
        let [first, second] = [CLUSTER_IP, EXTERNAL_IP]
            .map(|to| self.packet_to(client(v6), to[usize::from(v6)], (Protocol::Sctp, SCTP_PORT)));
        ensure!(self.small.run(EXTERNAL_INGRESS, &first?)?.0 == PASS, "the first flow is dropped");
        expect_drop(&mut self.small, EXTERNAL_INGRESS, &second?, DropReason::NoTranslatedPort)?;
        self.delete_flows()
    }

    /// More fragments arrive before the first of their datagram than one source may have queued: the next one is
    /// passed on unchanged. Those of another source are still queued.
    fn fragment_not_held(&mut self, v6: bool) -> Result<()> {
        let service = (Protocol::Udp, PORT);
        let packet = self.packet_to(client(v6), EXTERNAL_IP[usize::from(v6)], service)?;
        let other =
            self.packet_to(OTHER_CLIENT[usize::from(v6)].parse()?, EXTERNAL_IP[usize::from(v6)], service)?;
        let count =
            |fixture: &ProgramFixture| fixture.reconciler.maps().drops(DropReason::FragmentNotHeld as u32);
        for id in 0..=u16::try_from(map::MAX_HELD_FRAGMENTS)? {
            let fragments = packet.fragments(id).context("the datagram has no fragments")?;
            let early = fragments.last().context("the datagram has no last fragment")?;
            let before = count(&self.small)?;
            let (action, out) = self.small.run_frame(EXTERNAL_INGRESS, early)?;
            if action == PASS {
                let counted = count(&self.small)? - before;
                ensure!(counted == 1 && out == *early, "changed, or counted {counted} times");
                let fragments = other.fragments(id).context("the datagram has no fragments")?;
                let early = fragments.last().context("the datagram has no last fragment")?;
                let (action, _) = self.small.run_frame(EXTERNAL_INGRESS, early)?;
                ensure!(action == DROP, "one source keeps out another's fragments");
                return Ok(());
            }
        }
        bail!("more fragments are queued than the queue holds")
    }

    /// One source begins more fragmented datagrams than the table holds. Those of another source are completed.
    fn fragments_of_others(&mut self, v6: bool) -> Result<()> {
        let [packet, others] = [client(v6), OTHER_CLIENT[usize::from(v6)].parse()?]
            .map(|source| self.packet_to(source, EXTERNAL_IP[usize::from(v6)], (Protocol::Udp, PORT)));
        let (packet, others) = (packet?, others?);
        let fragments = packet.fragments(1).context("the datagram has no fragments")?;
        let (first, later) = fragments.split_first().context("the datagram has no fragments")?;
        ensure!(self.small.run_frame(EXTERNAL_INGRESS, first)?.0 == PASS, "the first fragment is dropped");
        for id in 0..u16::try_from(2 * map::MAX_FRAGMENTS)? {
            let fragments = others.fragments(id).context("the datagram has no fragments")?;
            let first = fragments.first().context("the datagram has no fragments")?;
            ensure!(self.small.run_frame(EXTERNAL_INGRESS, first)?.0 == PASS, "a first fragment is dropped");
        }
        let count =
            |fixture: &ProgramFixture| fixture.reconciler.maps().drops(DropReason::FragmentNotHeld as u32);
        let before = count(&self.small)?;
        for fragment in later {
            let (action, _) = self.small.run_frame(EXTERNAL_INGRESS, fragment)?;
            let not_held = count(&self.small)? - before;
            ensure!(
                action == PASS && not_held == 0,
                "the ports are forgotten: {action}, {not_held} not held"
            );
        }
        self.delete_flows()
    }

    fn flow_ending(&mut self, v6: bool) -> Result<()> {
        let packet = self.next_packet(v6)?;
        ensure!(self.small.run(EXTERNAL_INGRESS, &packet)?.0 == PASS, "no flow was created");
        self.change_states(|state| if state.is_alive() { state.dying() } else { state })?;
        expect_drop(&mut self.small, EXTERNAL_INGRESS, &packet.next(), DropReason::FlowEnding)?;
        self.delete_flows()
    }

    fn frontend_churn(&mut self, v6: bool) -> Result<()> {
        let [vacant, taken] = [UNUSED, EXTERNAL_IP].map(|addresses| key(addresses[usize::from(v6)]));
        let maps = self.small.reconciler.maps_mut();
        let (vacant, taken) = (vacant?, taken?);
        let published = maps.frontends()?.into_iter().find(|(key, _)| *key == taken);
        let (_, index) = published.context("the frontend is missing")?;
        maps.insert_frontend(vacant, index)?;
        self.clients += 1;
        let packet = self.packet(client(v6), UNUSED[usize::from(v6)])?;
        expect_drop(&mut self.small, EXTERNAL_INGRESS, &packet, DropReason::FrontendChurn)?;
        Ok(self.small.reconciler.maps_mut().remove_frontend(vacant)?)
    }

    fn backend_churn(&mut self, v6: bool) -> Result<()> {
        let family = if v6 { IpFamily::V6 } else { IpFamily::V4 };
        let packet = self.next_packet(v6)?;
        let maps = self.small.reconciler.maps_mut();
        let backends = 0..=*maps.extent()?.backends.get(family);
        let generation = |at| Ok((at, maps.backend(family, at)?.generation));
        let generations: Vec<_> = backends.map(generation).collect::<Result<_>>()?;
        for (at, generation) in &generations {
            maps.raise_generation(family, *at, generation + 1)?;
        }
        expect_drop(&mut self.small, EXTERNAL_INGRESS, &packet, DropReason::BackendChurn)?;
        let maps = self.small.reconciler.maps_mut();
        for (at, generation) in generations {
            maps.raise_generation(family, at, generation)?;
        }
        Ok(())
    }

    /// Creates flows until one is refused. No recently seen flow may be lost.
    fn full_table(&mut self, v6: bool) -> Result<()> {
        let mut flows = Vec::new();
        let kept_out = loop {
            let packet = self.next_packet(v6)?;
            if self.small.run(EXTERNAL_INGRESS, &packet)?.0 != PASS {
                break packet;
            }
            flows.push(packet);
            ensure!(flows.len() <= FLOWS as usize, "more flows than records");
        };
        ensure!(flows.len() > FLOWS as usize / 2, "refused after {} flows", flows.len());
        // The first refusal may have missed a free record. Half as many flows again as there are records find all
        // of them in use.
        for _ in 0..FLOWS / 2 {
            let packet = self.next_packet(v6)?;
            if self.small.run(EXTERNAL_INGRESS, &packet)?.0 == PASS {
                flows.push(packet);
            }
        }
        expect_drop(&mut self.small, EXTERNAL_INGRESS, &kept_out, DropReason::ConntrackFull)?;
        for packet in &flows {
            let (action, out) = self.small.run(EXTERNAL_INGRESS, &packet.next())?;
            let is_translated = Packet::parse(&out)?.to.ip().to_string() == ENDPOINT[usize::from(v6)];
            ensure!(action == PASS && is_translated, "a flow in use was lost");
        }
        // Idle flows are evicted instead of refusing a new one.
        self.age(268)?;
        ensure!(
            self.small.run(EXTERNAL_INGRESS, &kept_out)?.0 == PASS,
            "no idle flow is evicted for a new one"
        );
        self.delete_flows()
    }

    /// Flows whose client never acknowledged the SYN-ACK are evicted before a connection that has been idle for longer.
    fn unassured_first(&mut self, v6: bool) -> Result<()> {
        let connection = self.next_packet(v6)?;
        self.small.run(EXTERNAL_INGRESS, &connection)?;
        self.set_reply_seen()?;
        self.small.run(EXTERNAL_INGRESS, &connection.next())?;
        self.age(1_000)?;
        for _ in 0..2 * FLOWS {
            let packet = self.next_packet(v6)?;
            self.small.run(EXTERNAL_INGRESS, &packet)?;
        }
        self.set_reply_seen()?;
        for _ in 0..2 * FLOWS {
            self.age(11)?;
            let packet = self.next_packet(v6)?;
            ensure!(self.small.run(EXTERNAL_INGRESS, &packet)?.0 == PASS, "no flow is evicted for a new one");
            self.set_reply_seen()?;
        }
        let (_, out) = self.small.run(EXTERNAL_INGRESS, &connection.next())?;
        let is_translated = Packet::parse(&out)?.to.ip().to_string() == ENDPOINT[usize::from(v6)];
        ensure!(is_translated, "an idle connection was evicted before flows without the client's ACK");
        self.delete_flows()
    }

    fn set_reply_seen(&self) -> Result<()> {
        self.change_states(|state| {
            let seen = if state.is_alive() { FlowState::SEEN_REPLY } else { 0 };
            FlowState::new(state.tag(), state.bits() | seen, state.last_seen())
        })
    }

    /// Lets all flows be idle for longer.
    fn age(&self, seconds: u32) -> Result<()> {
        let idle = ticks(seconds);
        self.change_states(|state| {
            FlowState::new(state.tag(), state.bits(), state.last_seen().wrapping_sub(idle))
        })
    }

    /// Each bucket is full of references to one live flow. Once that has ended, they are replaced.
    fn bucket_full(&mut self) -> Result<()> {
        let mut buckets = self.full_buckets.array::<Bucket>(map::CONNTRACK_V4)?;
        for at in 0..FLOWS.div_ceil(FLOWS_PER_BUCKET) {
            buckets.set(at, Bucket::default(), 0)?;
        }
        let first = self.next_packet(false)?;
        ensure!(self.full_buckets.run(EXTERNAL_INGRESS, &first)?.0 == PASS, "no flow was created");
        fill_buckets(&self.full_buckets)?;
        let packet = self.next_packet(false)?;
        expect_drop(&mut self.full_buckets, EXTERNAL_INGRESS, &packet, DropReason::ConntrackBucketFull)?;
        let (_, out) = self.full_buckets.run(EXTERNAL_INGRESS, &first.next())?;
        ensure!(Packet::parse(&out)?.to.ip().to_string() == ENDPOINT[0], "the flow is not found any more");
        change_states(&self.full_buckets, FLOWS, |state| state.free())?;
        ensure!(self.full_buckets.run(EXTERNAL_INGRESS, &packet)?.0 == PASS, "stale references are kept");
        Ok(())
    }

    /// Creates a flow from an external client. Returns its first packet after DNAT.
    fn create_flow(&mut self, v6: bool) -> Result<Packet> {
        let packet = self.next_packet(v6)?;
        let (action, out) = self.small.run(EXTERNAL_INGRESS, &packet)?;
        ensure!(action == PASS, "no flow was created: {action}");
        Packet::parse(&out)
    }

    /// The first packet of another external client.
    fn next_packet(&mut self, v6: bool) -> Result<Packet> {
        self.clients += 1;
        self.packet(client(v6), EXTERNAL_IP[usize::from(v6)])
    }

    fn packet(&self, source: IpAddr, to: &str) -> Result<Packet> {
        self.packet_to(source, to, (Protocol::Tcp, PORT))
    }

    fn packet_to(&self, source: IpAddr, to: &str, service: (Protocol, u16)) -> Result<Packet> {
        packet(SocketAddr::new(source, u16::try_from(1024 + self.clients % 60_000)?), to, service)
    }

    /// Deletes all flows. Their references become stale.
    fn delete_flows(&self) -> Result<()> {
        self.change_states(|state| FlowState::new(state.tag(), 0, state.last_seen()))
    }

    fn change_states(&self, change: impl Fn(FlowState) -> FlowState + Copy) -> Result<()> {
        change_states(&self.small, FLOWS, change)
    }
}

/// Checks that need a node of their own, and run once.
pub fn check_once(object: Option<&[u8]>) -> Result<()> {
    icmp_rate_limit(object).context("too many ICMP errors")?;
    crowded_table(object).context("a table nine tenths full")?;
    let mut nodes = ExhaustedNodes::new(object)?;
    [false, true]
        .into_iter()
        .try_for_each(|v6| nodes.fragments_of_others(v6))
        .context("another source's fragments")
}

/// Expects a drop, counted once under this reason.
fn expect_drop(
    fixture: &mut ProgramFixture,
    program: &'static str,
    packet: &Packet,
    reason: DropReason,
) -> Result<()> {
    let count = |fixture: &ProgramFixture| fixture.reconciler.maps().drops(reason as u32);
    let before = count(fixture)?;
    let (action, out) = fixture.run(program, packet)?;
    ensure!(action == DROP, "not dropped, but forwarded to {}", Packet::parse(&out)?.to);
    let counted = count(fixture)? - before;
    ensure!(counted == 1, "counted {counted} times as {}", reason.name());
    Ok(())
}

/// Each CPU sends a limited number of ICMP errors per tick; a suppressed one is still counted.
fn icmp_rate_limit(object: Option<&[u8]>) -> Result<()> {
    const PACKETS: u32 = 100;
    let mut fixture = ProgramFixture::new(object, Config { icmp_errors: ERRORS, ..fixture::CONFIG })?;
    fixture.load_objects(objects::policy(), service_objects()?)?;
    let packets = [false, true].map(|v6| {
        packet(
            SocketAddr::new(client(v6), 1024),
            CLUSTER_IP[usize::from(v6)],
            (Protocol::Udp, UNDEFINED_PORT),
        )
    });
    let (start, mut sent) = (Instant::now(), 0);
    for packet in packets {
        let packet = packet?;
        for _ in 0..PACKETS / 2 {
            sent += u32::from(fixture.run(EXTERNAL_INGRESS, &packet)?.0 != DROP);
        }
    }
    let ticks = u32::try_from((start.elapsed().as_nanos() >> TICK_SHIFT) + 2)?;
    let processors = u32::try_from(available_parallelism()?.get())?;
    ensure!(sent >= ERRORS && sent <= ERRORS * ticks * processors, "{sent} of {PACKETS} are sent");
    let counted = fixture.reconciler.maps().drops(DropReason::UndefinedPort as u32)?;
    ensure!(counted == u64::from(PACKETS), "{counted} of {PACKETS} are counted");
    Ok(())
}

/// With one record in ten free, almost every flow finds a free one among the probed records, and each is found again, though some lie
/// in the second line of their bucket.
fn crowded_table(object: Option<&[u8]>) -> Result<()> {
    const RECORDS: u32 = 4096;
    let mut fixture = ProgramFixture::new(object, Config { flows: RECORDS, ..fixture::CONFIG })?;
    fixture.load_objects(objects::policy(), service_objects()?)?;
    let mut flows = Vec::new();
    for n in 0..u16::try_from(RECORDS / 10 * 9)? {
        let from = SocketAddr::new(client(false), 1024 + n);
        let first = packet(from, EXTERNAL_IP[0], (Protocol::Tcp, PORT))?;
        let (action, out) = fixture.run(EXTERNAL_INGRESS, &first)?;
        if action != DROP {
            ensure!(Packet::parse(&out)?.to.ip().to_string() == ENDPOINT[0], "a flow is not created");
            flows.push(first);
        }
    }
    for first in flows {
        let (_, out) = fixture.run(EXTERNAL_INGRESS, &first.next())?;
        let to = Packet::parse(&out)?.to;
        ensure!(to.ip().to_string() == ENDPOINT[0], "a packet of {} went to {to}", first.from);
    }
    let refused = fixture.reconciler.maps().drops(DropReason::ConntrackFull as u32)?;
    // At the end one in a thousand is refused.
    ensure!(refused <= 4, "{refused} are refused");
    Ok(())
}

fn packet(from: SocketAddr, to: &str, (protocol, port): (Protocol, u16)) -> Result<Packet> {
    let destination = SocketAddr::new(to.parse()?, port);
    Ok(Packet::first(&Flow { source: from.ip(), destination, protocol }, from.port()))
}

fn client(v6: bool) -> IpAddr {
    if v6 { [0x2001, 0xdb8, 0, 0, 0, 0, 0, 7].into() } else { [198, 51, 100, 7].into() }
}

fn key(address: &str) -> Result<FrontendKey> {
    let address = FrontendAddress::Ip(address.parse()?);
    Ok(FrontendKey { address, port: PORT, protocol: Protocol::Tcp })
}

/// Fills all buckets with references to the flow there is.
fn fill_buckets(fixture: &ProgramFixture) -> Result<()> {
    let mut buckets = fixture.array::<Bucket>(map::CONNTRACK_V4)?;
    let mut found = None;
    for at in 0..FLOWS.div_ceil(FLOWS_PER_BUCKET) {
        found = found.or(buckets.get(&at, 0)?.into_iter().find(|reference| !reference.is_none()));
    }
    let found = found.context("no reference")?;
    for at in 0..FLOWS.div_ceil(FLOWS_PER_BUCKET) {
        let filler = FlowRef::new(found.slot(), found.tag(), TupleKind::Reply, TupleHash(at));
        let bucket = buckets.get(&at, 0)?.map(|old| if old.is_none() { filler } else { old });
        buckets.set(at, bucket, 0)?;
    }
    Ok(())
}

fn service_objects() -> Result<Vec<Change>> {
    let service = json!({"metadata": {"name": "narrow", "namespace": "shop"},
        "spec": {"clusterIP": CLUSTER_IP[0], "clusterIPs": CLUSTER_IP, "ipFamilies": ["IPv4", "IPv6"],
            "externalIPs": EXTERNAL_IP, "ports": [{"name": "web", "port": PORT, "protocol": "TCP"},
                {"name": "call", "port": SCTP_PORT, "protocol": "SCTP"}]}});
    let mut objects = vec![Object::Service(serde_json::from_value(service)?)];
    for (v6, family) in [(0, "IPv4"), (1, "IPv6")] {
        let slice = json!({"metadata": {"name": format!("narrow-{v6}"), "namespace": "shop",
                "labels": {"kubernetes.io/service-name": "narrow"}},
            "addressType": family, "ports": [{"name": "web", "port": 8080, "protocol": "TCP"},
                {"name": "call", "port": SCTP_PORT, "protocol": "SCTP"}],
            "endpoints": [{"addresses": [ENDPOINT[v6]], "nodeName": "node-2", "conditions": {"ready": true}}]});
        objects.push(Object::EndpointSlice(serde_json::from_value(slice)?));
    }
    let mut changes = Vec::new();
    for object in objects {
        changes.extend(object.change(objects::NODE_NAME)?.map(|read| read.value));
    }
    Ok(changes)
}
