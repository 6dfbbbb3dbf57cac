//! TCP connections packet by packet: whose segments and whose numbers end a flow, or start it anew.
//!
//! The model knows both ends of the connection: their exact sequence numbers, and that a host answers a SYN of an
//! established connection with a challenge ACK (RFC 5961, 4). A stranger knows the 5-tuple, and no number.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use proxy::{index::Change, k8s::object::Object};
use proxy_ebpf::abi::{Config, FlowState, Timeouts, flow_state::ticks, map};
use serde_json::json;

use super::{
    fixture::{self, EXTERNAL_EGRESS, EXTERNAL_INGRESS, PASS, POD_EGRESS, POD_INGRESS, ProgramFixture},
    flow_states::{change_states, flow_from},
    objects,
    packet::{ACK, FIN, Numbers, Packet, RST, SYN},
};
use crate::lab::rng::Rng;

const CLUSTER_IP: [&str; 2] = ["10.96.8.1", "fd00:96::8:1"];
const EXTERNAL_IP: [&str; 2] = ["192.0.2.8", "2001:db8:2::8"];
pub(super) const ENDPOINTS: [[&str; 2]; 2] =
    [["10.1.2.201", "fd00:1:0:2::c9"], ["10.1.2.202", "fd00:1:0:2::ca"]];
const POD: [&str; 2] = ["10.1.1.200", "fd00:1:0:1::c8"];
const OUTSIDE: [&str; 2] = ["198.51.100.200", "2001:db8::c8"];
/// Of a Service with affinity.
const STICKY_IP: &str = "10.96.8.2";
const PORT: u16 = 80;
const TARGET: u16 = 8080;
const FLOWS: u32 = 64;
/// One masquerade port less than the checks would need without reuse.
const PORTS: (u16, u16) = (20_000, 20_255);

/// The client's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In a pod of this node: its flows keep their source address.
    Pod,
    /// Outside the cluster: its flows are masqueraded.
    Outside,
}

impl Place {
    const ALL: [Self; 2] = [Self::Pod, Self::Outside];

    fn ingress(self) -> &'static str {
        if self == Self::Pod { POD_INGRESS } else { EXTERNAL_INGRESS }
    }

    fn egress(self) -> &'static str {
        if self == Self::Pod { POD_EGRESS } else { EXTERNAL_EGRESS }
    }

    pub(super) fn address(self, v6: bool) -> IpAddr {
        let addresses = if self == Self::Pod { POD } else { OUTSIDE };
        addresses[usize::from(v6)].parse().expect("an address")
    }

    pub(super) fn frontend(self, v6: bool) -> SocketAddr {
        let addresses = if self == Self::Pod { CLUSTER_IP } else { EXTERNAL_IP };
        SocketAddr::new(addresses[usize::from(v6)].parse().expect("an address"), PORT)
    }
}

/// Both ends of a connection.
#[derive(Clone, Debug)]
struct Connection {
    place: Place,
    client: SocketAddr,
    frontend: SocketAddr,
    backend: SocketAddr,
    /// The client as the backend sees it.
    seen: SocketAddr,
    /// The next sequence number of each end.
    client_next: u32,
    backend_next: u32,
}

/// A node with one Service, whose endpoints change.
pub struct ConnectionNode {
    pub(super) fixture: ProgramFixture,
    clients: u16,
}

type Check = fn(&mut ConnectionNode, &mut Rng, Place, bool) -> Result<()>;

const CHECKS: [(&str, Check); 8] = [
    ("a stranger's segments", ConnectionNode::stranger),
    ("the ends' own FIN and RST", ConnectionNode::closed),
    ("a SYN after the backend is gone", ConnectionNode::lost_backend),
    ("a refused connection", ConnectionNode::refused),
    ("a direct connection later", ConnectionNode::direct_later),
    ("a SYN seen twice", ConnectionNode::seen_twice),
    ("a direct connection before", ConnectionNode::direct_before),
    ("datagrams directly and through the Service", ConnectionNode::direct_datagrams),
];

impl ConnectionNode {
    pub fn new(object: Option<&[u8]>) -> Result<Self> {
        let (first_port, last_port) = PORTS;
        let config = Config { flows: FLOWS, first_port, last_port, ..fixture::CONFIG };
        Ok(Self { fixture: ProgramFixture::new(object, config)?, clients: 0 })
    }

    /// Checks each rule once. Errors: all that fail.
    pub fn check_all(&mut self, rng: &mut Rng) -> Result<()> {
        let mut failures = Vec::new();
        for v6 in [false, true] {
            for place in Place::ALL {
                for (name, check) in CHECKS {
                    if let Err(error) = check(self, rng, place, v6) {
                        failures.push(format!("{name} ({place:?}, IPv6: {v6}): {error:#}"));
                        self.delete_flows()?;
                    }
                }
            }
        }
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(())
    }

    /// Whatever a stranger sends, the connection stays with its backend, and does not expire earlier.
    fn stranger(&mut self, rng: &mut Rng, place: Place, v6: bool) -> Result<()> {
        self.endpoints(&ENDPOINTS)?;
        let mut open = self.open(rng, place, v6)?;
        for step in 0..24 {
            let kind = rng.below(7);
            match kind {
                0 => self.client_data(&mut open, rng)?,
                1 => self.backend_data(&mut open, rng)?,
                2 => {
                    let sequence = far(open.client_next, rng);
                    self.client_sends(&open, RST, Numbers { sequence, acknowledged: 0 })?;
                }
                3 => {
                    let sequence = far(open.backend_next, rng);
                    self.backend_sends(&open, RST, Numbers { sequence, acknowledged: 0 })?;
                }
                4 => {
                    let sequence = far(open.client_next, rng);
                    let syn = self.client_sends(&open, SYN, Numbers { sequence, acknowledged: 0 })?;
                    ensure!(syn.to == open.backend, "a SYN goes to {}", syn.to);
                    // The challenge ACK.
                    let numbers = Numbers { sequence: open.backend_next, acknowledged: open.client_next };
                    self.reaches_client(&open, ACK, numbers)?;
                }
                5 => {
                    let sequence = far(open.client_next, rng);
                    let acknowledged = far(open.backend_next, rng);
                    self.client_sends(&open, FIN | ACK, Numbers { sequence, acknowledged })?;
                }
                _ => self.age(u32::try_from(rng.below(3_000))?)?,
            }
            let state = self.state(&open).with_context(|| format!("step {step}, {kind}"))?;
            ensure!(
                state.timeout(6, &Timeouts::DEFAULT) == Timeouts::DEFAULT.tcp_established,
                "step {step}, {kind}: {:#x}",
                state.bits()
            );
        }
        self.client_data(&mut open, rng)?;
        self.backend_data(&mut open, rng)?;
        self.delete_flows()
    }

    /// The ends themselves close the connection. A RST that a stranger guessed is undone by what the end sends next.
    fn closed(&mut self, rng: &mut Rng, place: Place, v6: bool) -> Result<()> {
        self.endpoints(&ENDPOINTS)?;
        let timeouts = Timeouts::DEFAULT;
        let mut open = self.open(rng, place, v6)?;
        self.client_sends(&open, RST, Numbers { sequence: open.client_next, acknowledged: 0 })?;
        let state = self.state(&open)?;
        ensure!(state.timeout(6, &timeouts) < timeouts.tcp_established, "the client's RST does not count");
        self.client_data(&mut open, rng)?;
        ensure!(
            self.state(&open)?.timeout(6, &timeouts) == timeouts.tcp_established,
            "the RST is not undone"
        );
        self.backend_sends(&open, RST, Numbers { sequence: open.backend_next, acknowledged: 0 })?;
        ensure!(self.state(&open)?.is_closed(), "the backend's RST does not count");
        // A port used again within the timeout: the same backend, which is there.
        let sequence = rng.below(1 << 32) as u32;
        let syn = self.client_sends(&open, SYN, Numbers { sequence, acknowledged: 0 })?;
        ensure!(syn.to == open.backend, "another backend after a RST: {}", syn.to);
        (open.client_next, open.backend_next) = (sequence.wrapping_add(1), rng.below(1 << 32) as u32);
        let numbers = Numbers { sequence: open.backend_next, acknowledged: open.client_next };
        self.reaches_client(&open, SYN | ACK, numbers)?;
        open.backend_next = open.backend_next.wrapping_add(1);
        self.client_data(&mut open, rng)?;
        self.backend_data(&mut open, rng)?;
        ensure!(
            self.state(&open)?.timeout(6, &timeouts) == timeouts.tcp_established,
            "the new connection does not count as established"
        );
        let numbers = Numbers { sequence: open.client_next, acknowledged: open.backend_next };
        self.client_sends(&open, FIN | ACK, numbers)?;
        let numbers = Numbers { sequence: open.backend_next, acknowledged: open.client_next };
        self.backend_sends(&open, FIN | ACK, numbers)?;
        ensure!(
            self.state(&open)?.timeout(6, &timeouts) == timeouts.tcp_time_wait,
            "both have closed: {:#x}",
            self.state(&open)?.bits()
        );
        self.delete_flows()
    }

    /// The backend of an established connection is gone, and the client dials again from the same port: the first SYN
    /// may be a stranger's, so it goes where an end that lives would answer it; the second is decided anew.
    fn lost_backend(&mut self, rng: &mut Rng, place: Place, v6: bool) -> Result<()> {
        self.endpoints(&ENDPOINTS[..1])?;
        let mut open = self.open(rng, place, v6)?;
        self.client_data(&mut open, rng)?;
        let new = SocketAddr::new(ENDPOINTS[1][usize::from(v6)].parse()?, TARGET);
        self.endpoints(&ENDPOINTS[1..])?;
        let sequence = rng.below(1 << 32) as u32;
        let numbers = Numbers { sequence, acknowledged: 0 };
        let challenge = Numbers { sequence: open.backend_next, acknowledged: open.client_next };
        for _ in 0..3 {
            let to = self.client_sends(&open, SYN, numbers)?.to;
            ensure!(to == open.backend, "a stranger's SYN ends a connection that finishes: {to}");
            self.reaches_client(&open, ACK, challenge)?;
        }
        self.client_data(&mut open, rng)?;
        // Now the backend is silent.
        let mut reached = Vec::new();
        for _ in 0..2 {
            reached.push(self.client_sends(&open, SYN, numbers)?.to);
        }
        ensure!(reached.last() == Some(&new), "the SYN of a new connection goes to {reached:?}");
        self.delete_flows()
    }

    /// A connection that was never established needs no such care.
    fn refused(&mut self, rng: &mut Rng, place: Place, v6: bool) -> Result<()> {
        let new = SocketAddr::new(ENDPOINTS[1][usize::from(v6)].parse()?, TARGET);
        for answer in [SYN | ACK, RST | ACK] {
            self.endpoints(&ENDPOINTS[..1])?;
            let mut half = self.dial(rng, place, v6)?;
            let is_refused = answer & RST != 0;
            let sequence = if is_refused { 0 } else { half.backend_next };
            self.reaches_client(&half, answer, Numbers { sequence, acknowledged: half.client_next })?;
            if is_refused {
                let timeout = self.state(&half)?.timeout(6, &Timeouts::DEFAULT);
                ensure!(timeout == Timeouts::DEFAULT.tcp_close, "a refusal does not count");
            }
            self.endpoints(&ENDPOINTS[1..])?;
            half.client_next = rng.below(1 << 32) as u32;
            let numbers = Numbers { sequence: half.client_next, acknowledged: 0 };
            let to = self.client_sends(&half, SYN, numbers)?.to;
            ensure!(to == new, "another attempt goes to {to}");
        }
        self.delete_flows()
    }

    /// The backend of a client with affinity whose connection was established is not forgotten for clients that only send
    /// SYNs, whatever their number.
    pub fn affinity_of_an_established_client(&mut self, rng: &mut Rng) -> Result<()> {
        const DIALS: u32 = 20;
        self.endpoints(&ENDPOINTS)?;
        let frontend = SocketAddr::new(STICKY_IP.parse()?, PORT);
        let mut first = Connection { frontend, ..Connection::new(Place::Pod, false, self.next_port()) };
        self.handshake(&mut first, rng)?;
        for source in 0..2 * map::MAX_AFFINITY {
            let [_, b, c, d] = source.to_be_bytes();
            let from = SocketAddr::new([10, 200 + b, c, d].into(), 40_001);
            let syn = Packet::segment(from, frontend, SYN, Numbers { sequence: 1, acknowledged: 0 });
            self.fixture.run(POD_INGRESS, &syn)?;
        }
        self.delete_flows()?;
        for dial in 0..DIALS {
            let mut again = Connection { frontend, ..Connection::new(Place::Pod, false, self.next_port()) };
            self.syn(&mut again, rng)?;
            ensure!(again.backend == first.backend, "dial {dial} goes to {}", again.backend);
        }
        self.delete_flows()
    }

    /// A client with a connection through the Service dials the same backend directly from the same port: both live,
    /// and each is answered under the name that it dialled.
    fn direct_later(&mut self, rng: &mut Rng, place: Place, v6: bool) -> Result<()> {
        self.endpoints(&ENDPOINTS[..1])?;
        let mut through = self.open(rng, place, v6)?;
        let mut direct = Connection { frontend: through.backend, ..through.clone() };
        self.handshake(&mut direct, rng)?;
        ensure!(direct.seen != through.seen, "the backend cannot tell the two: {}", direct.seen);
        for open in [&mut through, &mut direct] {
            self.client_data(open, rng)?;
            self.backend_data(open, rng)?;
        }
        self.delete_flows()
    }

    /// A translated SYN may be seen again at another device, such as a bridge above a pod's: it is the same flow's.
    fn seen_twice(&mut self, rng: &mut Rng, place: Place, v6: bool) -> Result<()> {
        self.endpoints(&ENDPOINTS[..1])?;
        let mut open = Connection::new(place, v6, self.next_port());
        for _ in 0..2 {
            let numbers = Numbers { sequence: rng.below(1 << 32) as u32, acknowledged: 0 };
            let syn = Packet::segment(open.client, open.frontend, SYN, numbers);
            let translated = self.through(&[place.ingress()], &syn)?;
            let again = self.through(&[place.ingress()], &translated)?;
            ensure!(
                again.from == translated.from && again.to == translated.to,
                "{} to {}",
                again.from,
                again.to
            );
            let left = self.through(&[EXTERNAL_EGRESS], &again)?;
            (open.seen, open.backend) = (left.from, left.to);
            (open.client_next, open.backend_next) =
                (numbers.sequence.wrapping_add(1), rng.below(1 << 32) as u32);
            // Then as the next connection from the same port.
            self.established(&mut open)?;
        }
        self.delete_flows()
    }

    /// The direct connection is there first, and its node knows nothing of it. Its numbers are elsewhere, as those of 63 in 64
    /// connections are.
    fn direct_before(&mut self, rng: &mut Rng, place: Place, v6: bool) -> Result<()> {
        self.endpoints(&ENDPOINTS[..1])?;
        let mut through = Connection::new(place, v6, self.next_port());
        let mut direct = Connection {
            frontend: SocketAddr::new(ENDPOINTS[0][usize::from(v6)].parse()?, TARGET),
            ..through.clone()
        };
        self.handshake(&mut direct, rng)?;
        ensure!(direct.seen == direct.client, "a direct connection is translated");
        through.client_next = far(direct.client_next, rng);
        let syn = Numbers { sequence: through.client_next, acknowledged: 0 };
        through.client_next = through.client_next.wrapping_add(1);
        through.backend = direct.backend;
        through.seen = self.client_sends(&through, SYN, syn)?.from;
        self.client_data(&mut direct, rng)?;
        self.backend_data(&mut direct, rng)?;
        if through.seen == direct.seen {
            // The backend takes the SYN for one of the direct connection. Its challenge ACK is that one's, too.
            let numbers = Numbers { sequence: direct.backend_next, acknowledged: direct.client_next };
            self.reaches_client(&direct, ACK, numbers)?;
            through.seen = self.client_sends(&through, SYN, syn)?.from;
            ensure!(through.seen != direct.seen, "the SYN is sent from a port in use again");
        }
        through.backend_next = far(direct.backend_next, rng);
        self.established(&mut through)?;
        for open in [&mut through, &mut direct] {
            self.client_data(open, rng)?;
            self.backend_data(open, rng)?;
        }
        self.delete_flows()
    }

    /// One socket of a pod sends to the Service and to its backend: each is answered under the address that it was sent to. At other
    /// devices a direct datagram is like a translated one that was seen before.
    fn direct_datagrams(&mut self, _: &mut Rng, place: Place, v6: bool) -> Result<()> {
        if place == Place::Outside {
            return Ok(());
        }
        self.endpoints(&ENDPOINTS[..1])?;
        let through = Connection::new(place, v6, self.next_port());
        let backend = SocketAddr::new(ENDPOINTS[0][usize::from(v6)].parse()?, TARGET);
        let direct = Connection { frontend: backend, ..through.clone() };
        let mut seen = None;
        for _ in 0..2 {
            let sent = [&through, &direct].map(|open| {
                let left = self.leave(place, &Packet::datagram(open.client, open.frontend))?;
                ensure!(left.to == backend, "to {}", left.to);
                Ok((open, left.from))
            });
            let [first, second] = sent;
            let ((through, of_service), (direct, of_direct)) = (first?, second?);
            ensure!(of_service != of_direct, "the backend cannot tell the two: {of_service}");
            ensure!(of_service == through.client, "the Service's flow has another port: {of_service}");
            let again = seen.replace(of_direct).unwrap_or(of_direct);
            ensure!(again == of_direct, "the direct datagrams come from {again} and {of_direct}");
            for (open, from) in [(direct, of_direct), (through, of_service)] {
                let reply = self.come_back(place, &Packet::datagram(backend, from))?;
                ensure!(
                    (reply.from, reply.to) == (open.frontend, open.client),
                    "the answer of {} comes from {} to {}",
                    open.frontend,
                    reply.from,
                    reply.to
                );
            }
        }
        self.delete_flows()
    }

    fn next_port(&mut self) -> u16 {
        self.clients = self.clients % 20_000 + 1;
        // No port after which packets vary.
        40_003 + self.clients
    }

    /// An established connection.
    fn open(&mut self, rng: &mut Rng, place: Place, v6: bool) -> Result<Connection> {
        let mut open = Connection::new(place, v6, self.next_port());
        self.handshake(&mut open, rng)?;
        Ok(open)
    }

    /// Sends the SYN.
    fn dial(&mut self, rng: &mut Rng, place: Place, v6: bool) -> Result<Connection> {
        let mut half = Connection::new(place, v6, self.next_port());
        self.syn(&mut half, rng)?;
        Ok(half)
    }

    fn syn(&mut self, open: &mut Connection, rng: &mut Rng) -> Result<()> {
        open.client_next = rng.below(1 << 32) as u32;
        open.backend_next = rng.below(1 << 32) as u32;
        let syn = self.client_sends(open, SYN, Numbers { sequence: open.client_next, acknowledged: 0 })?;
        open.client_next = open.client_next.wrapping_add(1);
        (open.backend, open.seen) = (syn.to, syn.from);
        Ok(())
    }

    fn handshake(&mut self, open: &mut Connection, rng: &mut Rng) -> Result<()> {
        self.syn(open, rng)?;
        self.established(open)
    }

    /// The rest of the handshake.
    fn established(&mut self, open: &mut Connection) -> Result<()> {
        let numbers = Numbers { sequence: open.backend_next, acknowledged: open.client_next };
        self.reaches_client(open, SYN | ACK, numbers)?;
        open.backend_next = open.backend_next.wrapping_add(1);
        let numbers = Numbers { sequence: open.client_next, acknowledged: open.backend_next };
        let ack = self.client_sends(open, ACK, numbers)?;
        ensure!(
            (ack.from, ack.to) == (open.seen, open.backend),
            "the ACK goes from {} to {}",
            ack.from,
            ack.to
        );
        Ok(())
    }

    fn client_data(&mut self, open: &mut Connection, rng: &mut Rng) -> Result<()> {
        let numbers = Numbers { sequence: open.client_next, acknowledged: open.backend_next };
        let sent = self.client_sends(open, ACK, numbers)?;
        ensure!((sent.from, sent.to) == (open.seen, open.backend), "from {} to {}", sent.from, sent.to);
        open.client_next = open.client_next.wrapping_add(rng.below(1 << 20) as u32);
        Ok(())
    }

    fn backend_data(&mut self, open: &mut Connection, rng: &mut Rng) -> Result<()> {
        let numbers = Numbers { sequence: open.backend_next, acknowledged: open.client_next };
        self.reaches_client(open, ACK, numbers)?;
        open.backend_next = open.backend_next.wrapping_add(rng.below(1 << 20) as u32);
        Ok(())
    }

    /// A segment from the client's address. Returns it as it leaves for the backend.
    fn client_sends(&mut self, open: &Connection, flags: u8, numbers: Numbers) -> Result<Packet> {
        self.leave(open.place, &Packet::segment(open.client, open.frontend, flags, numbers))
    }

    /// A segment from the backend's address. Returns it as it leaves for the client.
    fn backend_sends(&mut self, open: &Connection, flags: u8, numbers: Numbers) -> Result<Packet> {
        self.come_back(open.place, &Packet::segment(open.backend, open.seen, flags, numbers))
    }

    /// A segment of the backend, which the client receives as the frontend's.
    fn reaches_client(&mut self, open: &Connection, flags: u8, numbers: Numbers) -> Result<()> {
        let Packet { from, to, .. } = self.backend_sends(open, flags, numbers)?;
        ensure!(
            (from, to) == (open.frontend, open.client),
            "the client of {} gets it from {from} to {to}",
            open.frontend
        );
        Ok(())
    }

    fn leave(&mut self, place: Place, packet: &Packet) -> Result<Packet> {
        self.through(&[place.ingress(), EXTERNAL_EGRESS], packet)
    }

    fn come_back(&mut self, place: Place, packet: &Packet) -> Result<Packet> {
        self.through(&[EXTERNAL_INGRESS, place.egress()], packet)
    }

    fn through(&mut self, programs: &[&'static str], packet: &Packet) -> Result<Packet> {
        let mut packet = packet.clone();
        for program in programs {
            let (action, out) = self.fixture.run(program, &packet)?;
            ensure!(action == PASS, "dropped at {program}: {action}");
            packet = Packet::parse(&out)?;
        }
        Ok(packet)
    }

    /// The state of the connection's flow.
    fn state(&self, open: &Connection) -> Result<FlowState> {
        let port = open.client.port();
        let state = if open.client.is_ipv4() {
            flow_from::<[u8; 4]>(&self.fixture, FLOWS, port)?.map(|(_, flow)| flow.state)
        } else {
            flow_from::<[u8; 16]>(&self.fixture, FLOWS, port)?.map(|(_, flow)| flow.state)
        };
        state.context("the flow is gone")
    }

    /// Lets all flows be idle for longer.
    fn age(&self, seconds: u32) -> Result<()> {
        let idle = ticks(seconds);
        let age = |state: FlowState| {
            FlowState::new(state.tag(), state.bits(), state.last_seen().wrapping_sub(idle))
        };
        change_states(&self.fixture, FLOWS, age)
    }

    fn delete_flows(&self) -> Result<()> {
        change_states(&self.fixture, FLOWS, FlowState::free)
    }

    pub(super) fn endpoints(&mut self, endpoints: &[[&str; 2]]) -> Result<()> {
        self.fixture.load_objects(objects::policy(), service_objects(endpoints)?)
    }
}

impl Connection {
    fn new(place: Place, v6: bool, port: u16) -> Self {
        let client = SocketAddr::new(place.address(v6), port);
        let frontend = place.frontend(v6);
        Self { place, client, frontend, backend: frontend, seen: client, client_next: 0, backend_next: 0 }
    }
}

/// A number that is nowhere near.
fn far(number: u32, rng: &mut Rng) -> u32 {
    const FAR: u64 = 1 << 29;
    number.wrapping_add((FAR + rng.below((1 << 32) - 2 * FAR)) as u32)
}

fn service_objects(endpoints: &[[&str; 2]]) -> Result<Vec<Change>> {
    const PROTOCOLS: [&str; 2] = ["TCP", "UDP"];
    let ports = |port: u16| {
        PROTOCOLS.map(|protocol| json!({"name": protocol.to_lowercase(), "port": port, "protocol": protocol}))
    };
    let mut objects = Vec::new();
    for (name, spec) in [
        (
            "wide",
            json!({"clusterIP": CLUSTER_IP[0], "clusterIPs": CLUSTER_IP, "ipFamilies": ["IPv4", "IPv6"],
                "externalIPs": EXTERNAL_IP, "ports": ports(PORT)}),
        ),
        (
            "sticky",
            json!({"clusterIP": STICKY_IP, "clusterIPs": [STICKY_IP], "ipFamilies": ["IPv4"],
                "sessionAffinity": "ClientIP", "ports": ports(PORT)}),
        ),
    ] {
        let service = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec});
        objects.push(Object::Service(serde_json::from_value(service)?));
        for (v6, family) in [(0, "IPv4"), (1, "IPv6")] {
            let endpoint = |addresses: &[&str; 2]| json!({"addresses": [addresses[v6]], "nodeName": "node-2", "conditions": {"ready": true}});
            let slice = json!({"metadata": {"name": format!("{name}-{v6}"), "namespace": "shop",
                    "labels": {"kubernetes.io/service-name": name}},
                "addressType": family, "ports": ports(TARGET),
                "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>()});
            objects.push(Object::EndpointSlice(serde_json::from_value(slice)?));
        }
    }
    let mut changes = Vec::new();
    for object in objects {
        changes.extend(object.change(objects::NODE_NAME)?.map(|read| read.value));
    }
    Ok(changes)
}
