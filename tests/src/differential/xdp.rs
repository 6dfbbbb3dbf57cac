//! XDP compared with the packet plane: a packet that it transmits equals the result of the programs at both hooks
//! of the device, one hop later. It does not change other packets, and counts no drop.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;

use super::{
    fixture::{self, EXTERNAL_EGRESS, EXTERNAL_INGRESS, PASS, ProgramFixture},
    objects::{self, CASES, FLOWS, RandomObjects, client_port},
    packet::{DEVICE, Packet, write_header_checksum},
};
use crate::lab::{
    kernel::netns::{Mac, Netns},
    rng::Rng,
};

const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// The link-layer addresses of received and forwarded frames.
const NODE: Mac = DEVICE;
const ROUTER: Mac = [2, 0, 0, 0, 0, 9];
/// A machine on the same link.
const OTHER: Mac = [2, 0, 0, 0, 0, 7];
const UPLINK: &str = "uplink";
/// The longest frame that XDP forwards.
const LONGEST: usize = 1500 + 14;

/// The result of a packet, each of which must occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum XdpResult {
    /// Transmitted to a backend.
    Transmitted,
    /// A reply transmitted to its client.
    ReplyTransmitted,
    /// Translated by the packet plane alone.
    LeftToTc,
    Dropped,
    Untouched,
    /// A packet of a flow that XDP forwards, which only the network stack may forward.
    Ineligible,
}

impl XdpResult {
    pub const ALL: [Self; 6] = [
        Self::Transmitted,
        Self::ReplyTransmitted,
        Self::LeftToTc,
        Self::Dropped,
        Self::Untouched,
        Self::Ineligible,
    ];
}

pub type Tally = BTreeMap<XdpResult, u64>;

/// Runs this number of cases; ends with the first difference.
pub fn run(cases: u64, rng: &mut Rng) -> Result<Tally> {
    let (netns, _router) = network()?;
    netns.run(|| {
        let (mut fixture, mut tally) = (Uplink::new()?, Tally::new());
        for case in 0..cases {
            if case.is_multiple_of(CASES) {
                fixture.renew(rng)?;
            }
            let seed = rng.seed;
            fixture.check(rng, case, &mut tally).with_context(|| format!("case {case}, seed {seed}"))?;
        }
        fixture.counted_once()?;
        Ok(tally)
    })
}

/// A namespace whose uplink has the default routes, and the router behind it.
fn network() -> Result<(Netns, Netns)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (netns, router) = (Netns::create().await?, Netns::create().await?);
        netns.forward()?;
        let (netlink, beyond) = (netns.netlink()?, router.netlink()?);
        netlink.veth(UPLINK, "downlink", &beyond).await?;
        netlink.mac(UPLINK, NODE).await?;
        netlink.mac("lo", NODE).await?;
        for (everything, gateway) in [("0.0.0.0/0", "172.18.0.1"), ("::/0", "fd00:172:18::1")] {
            let gateway: IpAddr = gateway.parse()?;
            netlink.neighbour(UPLINK, gateway, ROUTER).await?;
            netlink.route_beyond(everything.parse()?, gateway, UPLINK).await?;
        }
        drop((netlink, beyond));
        Ok((netns, router))
    })
}

struct Uplink {
    fixture: ProgramFixture,
    objects: RandomObjects,
    device: u32,
    /// Flows created among these objects, and the counter before them.
    created: u64,
    counted: u64,
}

/// The result of the packet plane between ingress and egress.
enum Forwarded {
    As(Packet),
    Untouched,
    Dropped,
}

impl Uplink {
    fn new() -> Result<Self> {
        let fixture = ProgramFixture::new(None, fixture::CONFIG)?;
        let device = if_nametoindex(UPLINK)?;
        Ok(Self { fixture, objects: RandomObjects::default(), device, created: 0, counted: 0 })
    }

    fn renew(&mut self, rng: &mut Rng) -> Result<()> {
        self.counted_once()?;
        self.objects = RandomObjects::random(rng);
        self.fixture.load_objects(objects::policy(), self.objects.changes())?;
        self.fixture.add_uplink(self.device, objects::NODE)?;
        (self.created, self.counted) = (0, self.fixture.translated()?);
        Ok(())
    }

    /// Each flow is counted once, in whichever plane, and however often both saw its packets.
    fn counted_once(&self) -> Result<()> {
        let counted = self.fixture.translated()? - self.counted;
        ensure!(counted == self.created, "{} flows were created, {counted} are counted", self.created);
        Ok(())
    }

    /// A flow's first packet, its reply, and the next packet.
    fn check(&mut self, rng: &mut Rng, case: u64, tally: &mut Tally) -> Result<()> {
        let flow = self.objects.flow(rng);
        let packet = Packet::first(&flow, client_port(case % FLOWS));
        self.for_other_machine(&packet)
            .with_context(|| format!("{flow:?}, in a frame to another machine"))?;
        let forwarded = self.both(&packet, rng).with_context(|| format!("{flow:?}"))?;
        let result = match &forwarded {
            (Forwarded::As(_), true) => XdpResult::Transmitted,
            (Forwarded::As(_), false) => XdpResult::LeftToTc,
            (Forwarded::Untouched, _) => XdpResult::Untouched,
            (Forwarded::Dropped, _) => XdpResult::Dropped,
        };
        *tally.entry(result).or_default() += 1;
        let (Forwarded::As(forwarded_packet), is_transmitted) = forwarded else { return Ok(()) };
        self.created += 1;
        let is_remote = !objects::is_here(forwarded_packet.to.ip()) && !objects::NODE.contains(&flow.source);
        // Packets with extension headers are left to the stack.
        let is_eligible = |packet: &Packet| is_remote && packet.is_plain();
        ensure!(
            is_transmitted == is_eligible(&packet),
            "{flow:?} to {} was transmitted: {is_transmitted}",
            forwarded_packet.to
        );
        if is_transmitted {
            self.ineligible(&packet, tally).with_context(|| format!("{flow:?}"))?;
        }
        if is_remote {
            self.check_reply(&forwarded_packet, rng, tally)
                .with_context(|| format!("the reply to {flow:?}"))?;
        }
        let next = packet.next();
        let (_, is_transmitted) = self.both(&next, rng).context("the next packet")?;
        ensure!(is_transmitted == is_eligible(&next), "the next packet was transmitted: {is_transmitted}");
        Ok(())
    }

    fn check_reply(&mut self, forwarded_packet: &Packet, rng: &mut Rng, tally: &mut Tally) -> Result<()> {
        let is_masqueraded = objects::NODE.contains(&forwarded_packet.from.ip());
        let reply = forwarded_packet.reply();
        let (_, is_transmitted) = self.both(&reply, rng)?;
        ensure!(is_transmitted == (is_masqueraded && reply.is_plain()), "transmitted: {is_transmitted}");
        *tally.entry(XdpResult::ReplyTransmitted).or_default() += u64::from(is_transmitted);
        Ok(())
    }

    /// Runs XDP and the packet plane, in either order. Returns whether XDP transmits the packet.
    fn both(&mut self, packet: &Packet, rng: &mut Rng) -> Result<(Forwarded, bool)> {
        let (forwarded, (action, out)) = if rng.coin() {
            let xdp = self.xdp(packet.bytes())?;
            (self.forward(packet)?, xdp)
        } else {
            let forwarded = self.forward(packet)?;
            (forwarded, self.xdp(packet.bytes())?)
        };
        match (action, &forwarded) {
            (XDP_PASS, _) => ensure!(out == packet.bytes(), "not transmitted, but changed"),
            (XDP_TX, Forwarded::As(forwarded_packet)) => {
                let want = forwarded_packet.forwarded([NODE, ROUTER]);
                ensure!(
                    out == want,
                    "transmitted as {:?}, expected {:?}",
                    Packet::parse(&out),
                    forwarded_packet
                );
            }
            (action, _) => anyhow::bail!("the action is {action}"),
        }
        Ok((forwarded, action == XDP_TX))
    }

    fn forward(&mut self, packet: &Packet) -> Result<Forwarded> {
        let (action, out) = self.fixture.run(EXTERNAL_INGRESS, packet)?;
        if action != PASS {
            return Ok(Forwarded::Dropped);
        }
        if out == packet.bytes() {
            return Ok(Forwarded::Untouched);
        }
        let (action, out) = self.fixture.run(EXTERNAL_EGRESS, &Packet::parse(&out)?)?;
        ensure!(action == PASS, "dropped at the egress: {action}");
        Ok(Forwarded::As(Packet::parse(&out)?))
    }

    fn xdp(&mut self, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        let before = self.fixture.refusals()?;
        let xdp = self.fixture.run_xdp(frame, self.device)?;
        ensure!(self.fixture.refusals()? == before, "XDP counts a drop");
        Ok(xdp)
    }

    /// A promiscuous device receives frames to other machines: they create no flow.
    fn for_other_machine(&mut self, packet: &Packet) -> Result<()> {
        let frame = packet.clone().with_destination_mac(OTHER);
        let (action, out) = self.xdp(frame.bytes())?;
        ensure!(action == XDP_PASS && out == frame.bytes(), "the action is {action}");
        let created = self.fixture.translated()? - self.counted;
        ensure!(created == self.created, "{created} flows, expected {}", self.created);
        Ok(())
    }

    /// Packets with known addresses and ports that XDP must pass.
    fn ineligible(&mut self, packet: &Packet, tally: &mut Tally) -> Result<()> {
        for (name, frame) in ineligible_packets(packet) {
            let (action, out) = self.xdp(&frame)?;
            ensure!(action == XDP_PASS && out == frame, "{name}: {action}");
            *tally.entry(XdpResult::Ineligible).or_default() += 1;
        }
        Ok(())
    }
}

/// Each with valid checksums, but for the corrupted one.
fn ineligible_packets(packet: &Packet) -> Vec<(String, Vec<u8>)> {
    let is_v4 = packet.from.is_ipv4();
    let sent = packet.bytes();
    let changed = |name: &str, at: usize, to: &[u8]| {
        let mut frame = sent.to_vec();
        frame[at..at + to.len()].copy_from_slice(to);
        if is_v4 {
            write_header_checksum(&mut frame);
        }
        (name.to_owned(), frame)
    };
    let mut ineligible = vec![
        changed("another destination MAC", 5, &[7]),
        changed("another EtherType", 12, &[0x81]),
        changed("another IP version", 14, &[0x55]),
        changed("hop limit 1", if is_v4 { 22 } else { 21 }, &[1]),
        changed("longer than the frame", if is_v4 { 16 } else { 18 }, &1000_u16.to_be_bytes()),
        too_large(sent, is_v4),
    ];
    if is_v4 {
        ineligible.push(changed("with options", 14, &[0x46]));
        ineligible.push(changed("a fragment", 20, &[0x20]));
        let mut damaged = sent.to_vec();
        damaged[24] ^= 1;
        ineligible.push(("damaged".to_owned(), damaged));
    }
    ineligible
        .extend((14..sent.len()).map(|length| (format!("truncated to {length}"), sent[..length].to_vec())));
    ineligible
}

fn too_large(sent: &[u8], is_v4: bool) -> (String, Vec<u8>) {
    let mut frame = sent.to_vec();
    frame.resize(LONGEST + 1, 0);
    // IPv4's length includes the header, IPv6's does not.
    let (at, before) = if is_v4 { (16, 14) } else { (18, 54) };
    let length = u16::try_from(frame.len() - before).unwrap_or(u16::MAX);
    frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
    if is_v4 {
        write_header_checksum(&mut frame);
    }
    ("too large".to_owned(), frame)
}
