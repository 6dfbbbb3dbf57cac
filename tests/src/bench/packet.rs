//! The cost of a packet in each program, with few and with many flows: the compiled programs on real maps,
//! packets sent through by BPF_PROG_TEST_RUN, and the time that the kernel measures around the program.
//!
//! A program changes its packet, so it cannot be repeated on it: every run is a single one on a packet of its
//! own. The time of an empty program, run in the same way, is reported beside it. That is mostly the kernel's
//! clock, which is read twice.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use indicatif::ProgressBar;
use proxy_ebpf::abi::{Config, ConfigFlags, XDP_EXTERNAL};

use crate::{
    differential::{
        fixture::{self, EXTERNAL_EGRESS, EXTERNAL_INGRESS, ProgramFixture, network},
        packet::{DEVICE, Packet},
    },
    lab::{kernel::netns::Netns, rng::Rng},
};

mod empty;
mod objects;
mod report;

use empty::{Empty, ProgramType};
pub use report::Report;
use report::{CountingRow, PacketRow, Times};

#[derive(Debug, Clone)]
pub struct Parameters {
    /// Flows in the tables during the runs.
    pub flows: Vec<u32>,
    /// Runs for each row.
    pub runs: u32,
}

/// A program, and the kind of packet that it receives.
struct MeasuredProgram {
    name: &'static str,
    kind: ProgramType,
    packet: PacketKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PacketKind {
    /// The client's packet, before DNAT.
    Dialled,
    /// The same packet after DNAT, at the egress.
    Forwarded,
}

const PROGRAMS: [MeasuredProgram; 3] = [
    MeasuredProgram { name: EXTERNAL_INGRESS, kind: ProgramType::Tc, packet: PacketKind::Dialled },
    MeasuredProgram { name: EXTERNAL_EGRESS, kind: ProgramType::Tc, packet: PacketKind::Forwarded },
    MeasuredProgram { name: XDP_EXTERNAL, kind: ProgramType::Xdp, packet: PacketKind::Dialled },
];

pub fn run(parameters: &Parameters, progress: &ProgressBar) -> Result<Report> {
    progress.set_length(parameters.flows.len() as u64 * 2 * PROGRAMS.len() as u64 * 3);
    network_with_neighbours()?.run(|| {
        let mut report = Report::default();
        for flows in &parameters.flows {
            for is_v6 in [false, true] {
                // New maps, so that no row finds the flows of another.
                let mut bench = Bench::new(fixture::CONFIG, *flows, is_v6, parameters.runs)?;
                let mut uncounted = Bench::new(uncounted(), *flows, is_v6, parameters.runs)?;
                for program in &PROGRAMS {
                    report.rows.push(bench.established(program)?);
                    progress.inc(1);
                    report.rows.push(bench.new_flows(program)?);
                    progress.inc(1);
                    report.counting.push(bench.counting(&mut uncounted, program)?);
                    progress.inc(1);
                }
            }
        }
        Ok(report)
    })
}

/// The programs without the counters of flows.
fn uncounted() -> Config {
    Config { flags: ConfigFlags::UNCOUNTED_FLOWS, ..fixture::CONFIG }
}

/// A network with neighbour entries for the backends.
fn network_with_neighbours() -> Result<Netns> {
    let netns = network()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let netlink = netns.netlink()?;
        for backend in [false, true].into_iter().flat_map(objects::backends) {
            netlink.neighbour("lo", backend, DEVICE).await?;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    Ok(netns)
}

struct Bench {
    fixture: ProgramFixture,
    is_v6: bool,
    /// The flows created at the start, by their numbers.
    known: Vec<u32>,
    /// Flows created so far.
    created: u32,
    runs: u32,
    rng: Rng,
}

impl Bench {
    fn new(config: Config, flows: u32, is_v6: bool, runs: u32) -> Result<Self> {
        let mut fixture = ProgramFixture::new(None, config)?;
        fixture.load_objects(objects::policy(), objects::changes())?;
        let mut bench = Self { fixture, is_v6, known: Vec::new(), created: 0, runs, rng: Rng::new() };
        let mut failures = FailureBudget::with(flows);
        while bench.known.len() < flows as usize {
            let first = bench.next_new();
            match bench.forwarded(&first) {
                Ok(forwarded) => {
                    bench.reply_to(&forwarded)?;
                    bench.known.push(bench.created - 1);
                }
                Err(error) => failures.count(error)?,
            }
        }
        Ok(bench)
    }

    /// The first packet of a new flow. Packets with an extension header are left out: XDP passes them to the
    /// packet plane.
    fn next_new(&mut self) -> Packet {
        loop {
            self.created += 1;
            let packet = self.first_of(self.created - 1);
            if packet.is_plain() {
                return packet;
            }
        }
    }

    fn first_of(&self, flow: u32) -> Packet {
        let (flow, port) = objects::flow(flow, self.is_v6);
        Packet::first(&flow, port)
    }

    /// The packet after DNAT.
    fn forwarded(&mut self, packet: &Packet) -> Result<Packet> {
        let (_, out) = self.fixture.run(EXTERNAL_INGRESS, packet)?;
        let forwarded = Packet::parse(&out)?;
        ensure!(objects::is_backend(forwarded.to), "{} went to {}", packet.to, forwarded.to);
        Ok(forwarded)
    }

    /// Sends the packet out and its reply back: flows without a reply are evicted earlier.
    fn reply_to(&mut self, forwarded: &Packet) -> Result<()> {
        let (_, out) = self.fixture.run(EXTERNAL_EGRESS, forwarded)?;
        let (_, out) = self.fixture.run(EXTERNAL_INGRESS, &Packet::parse(&out)?.reply())?;
        self.fixture.run(EXTERNAL_EGRESS, &Packet::parse(&out)?)?;
        Ok(())
    }

    fn established(&mut self, program: &MeasuredProgram) -> Result<PacketRow> {
        self.row(program, "established", Self::next_established)
    }

    fn next_established(&mut self) -> Packet {
        let at = self.rng.below(self.known.len() as u64);
        self.first_of(self.known[at as usize]).next()
    }

    /// Packets of established flows, alternately here and by programs that do not count them.
    fn counting(&mut self, uncounted: &mut Self, program: &MeasuredProgram) -> Result<CountingRow> {
        let empty = Empty::load(program.kind)?;
        let (mut with, mut without) = (Times::default(), Times::default());
        let mut failures = FailureBudget::with(2 * self.runs);
        for _ in 0..self.runs {
            for (bench, times) in [(&mut *self, &mut with), (&mut *uncounted, &mut without)] {
                let packet = bench.next_established();
                match bench.time(program, packet, &empty) {
                    Ok((took, _)) => times.push(took),
                    Err(error) => failures.count(error)?,
                }
            }
        }
        let flows = u32::try_from(self.known.len())?;
        Ok(CountingRow { program: program.name, is_v6: self.is_v6, flows, with, without })
    }

    fn new_flows(&mut self, program: &MeasuredProgram) -> Result<PacketRow> {
        self.row(program, "new", Self::next_new)
    }

    fn row(
        &mut self,
        program: &MeasuredProgram,
        packet: &'static str,
        next: impl Fn(&mut Self) -> Packet,
    ) -> Result<PacketRow> {
        let empty = Empty::load(program.kind)?;
        let (mut times, mut floor) = (Times::default(), Times::default());
        let mut failures = FailureBudget::with(self.runs);
        for _ in 0..self.runs {
            let packet = next(self);
            match self.time(program, packet, &empty) {
                Ok((took, least)) => {
                    times.push(took);
                    floor.push(least);
                }
                Err(error) => failures.count(error)?,
            }
        }
        let flows = u32::try_from(self.known.len())?;
        Ok(PacketRow { program: program.name, is_v6: self.is_v6, flows, packet, times, empty: floor })
    }

    /// The time of a packet in a program, and in an empty one.
    fn time(
        &mut self,
        program: &MeasuredProgram,
        mut packet: Packet,
        empty: &Empty,
    ) -> Result<(Duration, Duration)> {
        if program.packet == PacketKind::Forwarded {
            packet = self.forwarded(&packet)?;
        }
        let least = empty.run(packet.bytes())?;
        let (out, took) = self.fixture.run_timed(program.name, &packet)?;
        self.check_translated(program, &packet, &out)?;
        Ok((took, least))
    }

    /// Fails for an untranslated packet: it would cost little.
    fn check_translated(&self, program: &MeasuredProgram, packet: &Packet, out: &[u8]) -> Result<()> {
        let left = Packet::parse(out).with_context(|| format!("{} leaves no packet", program.name))?;
        let is_masqueraded = program.kind == ProgramType::Xdp || program.packet == PacketKind::Forwarded;
        ensure!(objects::is_backend(left.to), "{}: {} went to {}", program.name, packet.to, left.to);
        ensure!(
            (left.from.ip() == objects::masquerade(self.is_v6)) == is_masqueraded,
            "{}: {} was sent as {}",
            program.name,
            packet.from,
            left.from
        );
        Ok(())
    }
}

/// The number of tolerated failures. Flows may be refused while the tables are nearly full, and idle ones evicted
/// for others: 2 % are no error.
struct FailureBudget(u32);

impl FailureBudget {
    fn with(packets: u32) -> Self {
        Self(packets / 50)
    }

    fn count(&mut self, error: anyhow::Error) -> Result<()> {
        match self.0.checked_sub(1) {
            Some(left) => self.0 = left,
            None => return Err(error),
        }
        Ok(())
    }
}
