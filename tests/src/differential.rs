//! The programs at devices against the model: random objects, random packets, and every difference is a bug in one of them.
//!
//! Each case is a flow's first packet, sent through the ingress program by BPF_PROG_TEST_RUN, and what follows from it: its
//! masquerade at the egress, the answer's way back, and the packet after it. What the model says of the flow decides what
//! each must look like, checksums included.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result, bail, ensure};
use proxy::{
    datapath::{self, Busy, Device, KernelMaps, Pins, Programs},
    index::Index,
    model::flow::{Outcome, Verdict},
    reconcile::{Networks, Reconciler},
};
use proxy_ebpf::abi::{ABI_VERSION, Config, ConfigFlags, DeviceRole};

use crate::{chance::Chance, leftovers::unique_name, mounts::PinDir};

mod row;
mod wire;
mod world;

pub use row::Row;
use wire::{Packet, Segment};
use world::World;

/// Flows begun between two sets of maps: the ends of clients do not repeat within so many.
const FLOWS: u64 = 50_000;
/// Cases between two sets of objects.
const CASES: u64 = 500;

const PASS: i32 = -1;
const DROP: i32 = 2;
const REDIRECT: i32 = 7;

/// How often each row of kube-proxy's table of verdicts came up.
pub type Tally = BTreeMap<Row, u64>;

/// Runs cases until there were so many; the first difference ends it.
pub fn run(cases: u64, chance: &mut Chance, mut progress: impl FnMut(u64)) -> Result<Tally> {
    let mut tally = Tally::new();
    let mut done = 0;
    while done < cases {
        let mut ground = Ground::new()?;
        let end = cases.min(done + FLOWS);
        while done < end {
            ground.renew(chance)?;
            for _ in 0..CASES.min(end - done) {
                let row = ground
                    .check(chance, done)
                    .with_context(|| format!("case {done}, seed {}", chance.seed))?;
                *tally.entry(row).or_default() += 1;
                done += 1;
            }
            progress(done);
        }
    }
    Ok(tally)
}

/// One set of maps, with the programs on it.
struct Ground {
    programs: Programs,
    reconciler: Reconciler<KernelMaps>,
    networks: Networks,
    index: Index,
    world: World,
    /// What holds the maps.
    _pins: Pins,
    _directory: PinDir,
}

impl Ground {
    fn new() -> Result<Self> {
        let directory = PinDir::create(&unique_name("differential"))?;
        let pins = Pins::acquire(directory.path(), ABI_VERSION, Busy::Fail)?;
        let flags = ConfigFlags::default().with(ConfigFlags::PACKET_PLANE, true);
        let programs = datapath::load(&pins, Config { flags, ..Config::DEFAULT })?;
        let mut reconciler = Reconciler::adopt(KernelMaps::open(&pins.maps())?)?;
        let networks = Networks::adopt(reconciler.maps())?;
        let policy = world::policy();
        let index = Index::new(policy);
        reconciler.maps_mut().set_pod_ranges(&index.node().pod_range);
        reconciler.maps_mut().set_node_addresses(&world::NODE.map(|ip| (ip, true)).into())?;
        // A program that is run without a device is run at the loopback's.
        datapath::DeviceTable::open(&pins.maps())?.set(&[lo()], |_| false)?;
        Ok(Self {
            programs,
            reconciler,
            networks,
            index,
            world: World::default(),
            _pins: pins,
            _directory: directory,
        })
    }

    /// Other objects, in the place of those that were there.
    fn renew(&mut self, chance: &mut Chance) -> Result<()> {
        let world = World::random(chance);
        for change in self.world.removals().chain(world.changes()) {
            self.index.apply(change);
        }
        self.world = world;
        let pass = self.reconciler.apply_all(self.index.frontends().collect::<Vec<_>>());
        ensure!(pass.failed.is_empty(), "{:?}", pass.failed);
        self.networks.want_only(self.index.unclaimed_networks());
        self.networks.write(self.reconciler.maps_mut())?;
        if let Some(epoch) = pass.grace {
            datapath::grace_period()?;
            self.reconciler.reclaim(epoch);
        }
        Ok(())
    }

    fn check(&mut self, chance: &mut Chance, case: u64) -> Result<Row> {
        let flow = self.world.flow(chance);
        let packet = Packet::first(&flow, client_port(case));
        let verdict = self.index.explain(&flow);
        self.compare(&packet, &verdict).with_context(|| format!("{flow:?}: {}", verdict.reason))?;
        Ok(Row::of(&flow, &verdict))
    }

    fn compare(&mut self, packet: &Packet, verdict: &Verdict) -> Result<()> {
        let (action, out) = self.ingress(packet)?;
        match verdict.outcome {
            Outcome::None => {
                ensure!(action == PASS && out == packet.bytes(), "touched: {action}");
                Ok(())
            }
            Outcome::Drop => {
                ensure!(action == DROP, "not dropped: {action}");
                Ok(())
            }
            Outcome::Reject => rejected(packet, action, &out),
            Outcome::Dnat => self.translated(packet, verdict, action, &out),
        }
    }

    /// A translated flow: there, back, and once more.
    fn translated(&mut self, packet: &Packet, verdict: &Verdict, action: i32, out: &[u8]) -> Result<()> {
        if packet.is_sctp()
            && verdict.choices.iter().all(|choice| choice.backend.address.port() != packet.to.port())
        {
            return rejected(packet, action, out);
        }
        ensure!(action == PASS, "not passed on: {action}");
        let there = Packet::parse(out)?;
        let choice = verdict.choices.iter().find(|choice| choice.backend.address == there.to);
        let choice = choice.with_context(|| format!("{} is not among {:?}", there.to, verdict.choices))?;
        ensure!(there.from == packet.from, "another client: {}", there.from);
        ensure!(there.is_like(packet), "more than the ends has changed");

        let (action, out) = self.egress(&there)?;
        ensure!(action == PASS, "held up at the egress: {action}");
        let left = Packet::parse(&out)?;
        ensure!(left.to == there.to, "another backend: {}", left.to);
        // SCTP keeps its port, for its checksum covers it; others get one at random, which may be the one they had.
        let keeps_port = packet.is_sctp() || !choice.masquerade;
        let source = if choice.masquerade { masquerade(there.from.ip()) } else { there.from.ip() };
        ensure!(left.from.ip() == source, "sent as {}, should be as {source}", left.from);
        ensure!(!keeps_port || left.from.port() == there.from.port(), "sent as {}", left.from);
        self.answered(packet, &there, &left)?;

        let again = packet.next();
        let (action, out) = self.ingress(&again)?;
        ensure!(
            action == PASS && Packet::parse(&out)?.to == there.to,
            "the next packet goes elsewhere: {action}"
        );
        Ok(())
    }

    fn answered(&mut self, packet: &Packet, there: &Packet, left: &Packet) -> Result<()> {
        let answer = left.answer();
        let (action, out) = self.ingress(&answer)?;
        ensure!(action == PASS, "the answer is held up: {action}");
        let back = Packet::parse(&out)?;
        ensure!(
            (back.from, back.to) == (there.to, there.from),
            "the answer goes from {} to {}",
            back.from,
            back.to
        );
        let (action, out) = self.egress(&back)?;
        ensure!(action == PASS, "the answer is held up at the egress: {action}");
        let home = Packet::parse(&out)?;
        ensure!(
            (home.from, home.to) == (packet.to, packet.from),
            "the client sees {} to {}",
            home.from,
            home.to
        );
        ensure!(home.is_like(&answer), "more than the ends of the answer has changed");
        Ok(())
    }

    fn ingress(&mut self, packet: &Packet) -> Result<(i32, Vec<u8>)> {
        Ok(self.programs.run("tc_external_ingress", packet.bytes())?)
    }

    fn egress(&mut self, packet: &Packet) -> Result<(i32, Vec<u8>)> {
        Ok(self.programs.run("tc_external_egress", packet.bytes())?)
    }
}

fn lo() -> Device {
    Device {
        index: 1,
        name: "lo".to_owned(),
        role: DeviceRole::External,
        has_link_header: true,
        router: None,
        v4: Some([172, 18, 0, 11].into()),
        v6: Some("fd00:172:18::b".parse().expect("an address")),
    }
}

fn masquerade(family: IpAddr) -> IpAddr {
    world::NODE[usize::from(family.is_ipv6())]
}

/// Every client has another port for each of its flows.
fn client_port(case: u64) -> u16 {
    u16::try_from(1024 + case % FLOWS).expect("fewer flows than ports")
}

/// The client hears of it at once, from whom it dialled.
fn rejected(packet: &Packet, action: i32, out: &[u8]) -> Result<()> {
    ensure!(action == REDIRECT, "not answered: {action}");
    match Segment::parse(out)? {
        Segment::Reset { from, to, acknowledged } => {
            ensure!((from, to) == (packet.to, packet.from), "a reset from {from} to {to}");
            ensure!(acknowledged == Packet::SEQUENCE + 1, "the reset acknowledges {acknowledged}");
        }
        Segment::PortUnreachable { from, to, quoted } => {
            ensure!((from, to) == (packet.to.ip(), packet.from.ip()), "unreachable from {from} to {to}");
            ensure!(
                packet.bytes().get(14..).is_some_and(|sent| sent.starts_with(&quoted)),
                "another packet is quoted"
            );
        }
        Segment::Other => bail!("answered with something else"),
    }
    Ok(())
}
