//! A flow's path through the programs: its first packet, SNAT at the egress, the reply with reverse NAT, and the
//! next packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use proxy::model::flow::{FlowOutcome, FlowVerdict};

use super::{
    fixture::{
        DROP, EXTERNAL_EGRESS, EXTERNAL_INGRESS, LOOPBACK_EGRESS, LinkLayer, PASS, POD_EGRESS, POD_INGRESS,
        ProgramFixture, REDIRECT,
    },
    packet::{IcmpError, Packet, Rejection},
};

/// A router on the path, per family.
const ROUTER: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1)),
];

/// The device that a client's packets arrive at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Behind an external device.
    Outside,
    /// In a pod whose sockets are not translated.
    Pod,
    /// On the node itself.
    Node,
}

/// The device that the backend is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Outside,
    Pod,
}

/// The expected result of a flow.
#[derive(Clone, Debug)]
pub struct Expected {
    pub outcome: FlowOutcome,
    /// Each possible backend, and whether the flow to it is masqueraded.
    pub backends: Vec<(SocketAddr, bool)>,
    /// The node's addresses on the device, IPv4 first.
    pub masquerade: [IpAddr; 2],
}

/// A flow's first packet, and the locations of client and backend.
#[derive(Clone, Debug)]
pub struct FlowPath {
    pub packet: Packet,
    pub client: Client,
    pub backend: Backend,
    /// Of the device at which the client's packets arrive.
    pub link: LinkLayer,
}

impl Client {
    fn first_program(self) -> &'static str {
        match self {
            Self::Outside => EXTERNAL_INGRESS,
            Self::Pod => POD_INGRESS,
            Self::Node => EXTERNAL_EGRESS,
        }
    }

    /// The program at which replies leave the node. `None` for a client on the node, which receives them at the
    /// ingress.
    fn last_program(self) -> Option<&'static str> {
        match self {
            Self::Outside => Some(EXTERNAL_EGRESS),
            Self::Pod => Some(POD_EGRESS),
            Self::Node => None,
        }
    }

    /// The action for a forwarded packet: one of the node itself has passed the route lookup, and is redirected.
    fn forward_action(self) -> i32 {
        if self == Self::Node { REDIRECT } else { PASS }
    }
}

impl Backend {
    fn egress(self) -> &'static str {
        if self == Self::Pod { POD_EGRESS } else { EXTERNAL_EGRESS }
    }

    fn ingress(self) -> &'static str {
        if self == Self::Pod { POD_INGRESS } else { EXTERNAL_INGRESS }
    }
}

impl Expected {
    pub fn of(verdict: &FlowVerdict, masquerade: [IpAddr; 2]) -> Self {
        let backend =
            |choice: &proxy::model::flow::BackendChoice| (choice.backend.address, choice.masquerade);
        Self { outcome: verdict.outcome, backends: verdict.choices.iter().map(backend).collect(), masquerade }
    }
}

impl FlowPath {
    /// Sends the flow through the programs and compares the result. Returns its backend, if any.
    pub fn check(&self, fixture: &mut ProgramFixture, expected: &Expected) -> Result<Option<SocketAddr>> {
        let (action, out) = self.arrives(fixture, self.packet.bytes())?;
        match expected.outcome {
            FlowOutcome::None => ensure!(action == PASS && out == self.packet.bytes(), "changed: {action}"),
            FlowOutcome::Drop => ensure!(action == DROP, "not dropped: {action}"),
            FlowOutcome::Reject => check_rejection(&self.packet, action, &out)?,
            FlowOutcome::Dnat => return self.check_translated(fixture, expected, action, &out).map(Some),
        }
        Ok(None)
    }

    /// A client on the node may reach the destination through the loopback device, where nothing is translated, and what a
    /// frontend drops silently is dropped. Returns whether it is.
    pub fn check_loopback(&self, fixture: &mut ProgramFixture, drops: bool) -> Result<bool> {
        if self.client != Client::Node {
            return Ok(false);
        }
        let (action, out) = fixture.run(LOOPBACK_EGRESS, &self.packet)?;
        if drops {
            ensure!(action == DROP, "not dropped at the loopback device: {action}");
        } else {
            ensure!(action == PASS && out == self.packet.bytes(), "changed at the loopback device: {action}");
        }
        Ok(drops)
    }

    /// Runs the program at the client's device on a packet of the client.
    fn arrives(&self, fixture: &mut ProgramFixture, frame: &[u8]) -> Result<(i32, Vec<u8>)> {
        fixture.run_at(self.link, self.client.first_program(), frame)
    }

    /// Checks the original direction, the reply direction and the next packet.
    fn check_translated(
        &self,
        fixture: &mut ProgramFixture,
        expected: &Expected,
        action: i32,
        out: &[u8],
    ) -> Result<SocketAddr> {
        ensure!(action == self.client.forward_action(), "not forwarded: {action}");
        let forwarded = Packet::parse(out)?;
        let choice = expected.backends.iter().find(|(backend, _)| *backend == forwarded.to);
        let (_, is_masqueraded) =
            choice.with_context(|| format!("{} is not among {:?}", forwarded.to, expected.backends))?;
        ensure!(self.is_of_client(forwarded.from), "another client: {}", forwarded.from);
        ensure!(forwarded.is_like(&self.packet), "more than addresses and ports has changed");

        let (action, out) = fixture.run(self.backend.egress(), &forwarded)?;
        ensure!(action == PASS, "dropped at the egress: {action}");
        let left = Packet::parse(&out)?;
        ensure!(left.to == forwarded.to, "another backend: {}", left.to);
        let node_address = expected.masquerade[usize::from(forwarded.from.is_ipv6())];
        let source = if *is_masqueraded { node_address } else { forwarded.from.ip() };
        ensure!(left.from.ip() == source, "source {}, expected {source}", left.from);
        // SCTP keeps its port, as its checksum covers it. Other protocols get a random one, which may be the
        // same.
        let keeps_port = self.packet.is_sctp() || !is_masqueraded;
        ensure!(!keeps_port || left.from.port() == forwarded.from.port(), "source {}", left.from);
        let reply_at_client = self.check_reply(fixture, &forwarded, &left)?;
        self.check_next(fixture, &forwarded)?;
        self.check_icmp_errors(fixture, &left, &reply_at_client)?;
        self.check_fragments(fixture, &left)?;
        Ok(forwarded.to)
    }

    /// A masqueraded flow may have the 5-tuple of a client on the node: that client gets another source port.
    fn is_of_client(&self, from: SocketAddr) -> bool {
        from == self.packet.from || self.client == Client::Node && from.ip() == self.packet.from.ip()
    }

    /// Checks the reply. Returns it as the client receives it.
    fn check_reply(&self, fixture: &mut ProgramFixture, forwarded: &Packet, left: &Packet) -> Result<Packet> {
        let reply = left.reply();
        let (action, out) = fixture.run(self.backend.ingress(), &reply)?;
        ensure!(action == PASS, "the reply is dropped: {action}");
        let mut back = Packet::parse(&out)?;
        if let Some(egress) = self.client.last_program() {
            let (from, to) = (back.from, back.to);
            ensure!(
                (from, to) == (forwarded.to, forwarded.from),
                "the reply has the addresses {from} to {to}"
            );
            let (action, out) = fixture.run(egress, &back)?;
            ensure!(action == PASS, "the reply is dropped at the egress: {action}");
            back = Packet::parse(&out)?;
        }
        let (from, to) = (back.from, back.to);
        ensure!(
            (from, to) == (self.packet.to, self.packet.from),
            "the client receives a reply from {from} to {to}"
        );
        ensure!(back.is_like(&reply), "more than addresses and ports of the reply has changed");
        Ok(back)
    }

    /// Routers on either side send "packet too big": each receiver must see its own packet quoted.
    fn check_icmp_errors(
        &self,
        fixture: &mut ProgramFixture,
        left: &Packet,
        reply_at_client: &Packet,
    ) -> Result<()> {
        let router = ROUTER[usize::from(left.from.is_ipv6())];
        let quoted_bytes = if self.packet.from.port().is_multiple_of(2) { 8 } else { usize::MAX };
        let Some(mut error_packet) = left.too_big(router, quoted_bytes) else { return Ok(()) };
        let ways_back = [Some(self.backend.ingress()), self.client.last_program()];
        for program in ways_back.into_iter().flatten() {
            let (action, out) = fixture.run_frame(program, &error_packet)?;
            ensure!(action == PASS, "an ICMP error about a packet is dropped at {program}: {action}");
            error_packet = out;
        }
        let received = IcmpError::parse(&error_packet)?;
        let quoted = (self.packet.from, self.packet.to);
        let expected = IcmpError { from: self.packet.to.ip(), to: self.packet.from.ip(), quoted };
        ensure!(received == expected, "the client receives {received:?} instead of {expected:?}");

        // The node's own packets do not pass a router before it.
        if self.client == Client::Node {
            return Ok(());
        }
        let Some(mut error_packet) = reply_at_client.too_big(router, quoted_bytes) else { return Ok(()) };
        for program in [self.client.first_program(), self.backend.egress()] {
            let (action, out) = fixture.run_frame(program, &error_packet)?;
            ensure!(action == PASS, "an ICMP error about a reply is dropped at {program}: {action}");
            error_packet = out;
        }
        let received = IcmpError::parse(&error_packet)?;
        let quoted = (left.to, left.from);
        ensure!(
            (received.to, received.quoted) == (left.to.ip(), quoted),
            "the backend receives {received:?}"
        );
        Ok(())
    }

    /// The fragments of a datagram take the path of the flow, in any order of arrival.
    fn check_fragments(&self, fixture: &mut ProgramFixture, left: &Packet) -> Result<()> {
        let Some(fragments) = self.packet.fragments(self.packet.from.port()) else { return Ok(()) };
        // The node sends fragments in order.
        let is_early = self.client != Client::Node && self.packet.from.port().is_multiple_of(3);
        if is_early {
            let (action, _) = self.arrives(fixture, &fragments[1])?;
            ensure!(action == DROP, "an early fragment is not queued: {action}");
        }
        let mut came = Vec::new();
        for fragment in &fragments {
            let (action, forwarded) = self.arrives(fixture, fragment)?;
            ensure!(action == self.client.forward_action(), "a fragment is not forwarded: {action}");
            let (action, out) = fixture.run_frame(self.backend.egress(), &forwarded)?;
            ensure!(action == PASS, "a fragment is dropped at the egress: {action}");
            came.push(out);
        }
        let joined = Packet::joined(&came)?;
        ensure!((joined.from, joined.to) == (left.from, left.to), "fragments take another path");
        Ok(())
    }

    fn check_next(&self, fixture: &mut ProgramFixture, forwarded: &Packet) -> Result<()> {
        let (action, out) = self.arrives(fixture, self.packet.next().bytes())?;
        let is_passed_on = action == self.client.forward_action();
        ensure!(
            is_passed_on && Packet::parse(&out)?.to == forwarded.to,
            "the next packet is not forwarded to the same backend: {action}"
        );
        Ok(())
    }
}

/// The client receives the rejection at once, from the frontend address.
fn check_rejection(packet: &Packet, action: i32, out: &[u8]) -> Result<()> {
    ensure!(action == REDIRECT, "no rejection: {action}");
    match Rejection::parse(out)? {
        Rejection::Reset { from, to, acknowledged } => {
            ensure!((from, to) == (packet.to, packet.from), "a reset from {from} to {to}");
            ensure!(acknowledged == Packet::SEQUENCE + 1, "the reset acknowledges {acknowledged}");
        }
        Rejection::PortUnreachable { from, to, quoted } => {
            ensure!((from, to) == (packet.to.ip(), packet.from.ip()), "unreachable from {from} to {to}");
            ensure!(
                packet.bytes().get(14..).is_some_and(|sent| sent.starts_with(&quoted)),
                "another packet is quoted"
            );
        }
        Rejection::Other => bail!("rejected with another packet"),
    }
    Ok(())
}
