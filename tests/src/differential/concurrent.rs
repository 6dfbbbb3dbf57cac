//! Flows of more tuples than a small table holds, created, translated, expired and replaced on all CPUs at once, while the
//! timer sweeps. Each packet is translated as one of its own flow or not at all, and no tuple has two flows.

use std::{
    ffi::c_void,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::{Pod, maps::MapData};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use proxy::{
    index::Change,
    k8s::object::Object,
    model::{address::Protocol, flow::Flow},
};
use proxy_ebpf::abi::{
    BUCKET, Bucket, Config, FLOWS_PER_BUCKET, Flow as Record, FlowRef, FlowState, FlowV4, FlowV6, HashKeys,
    MASQUERADE_NONE, Tuple, TupleHash, TupleKind, TupleV4, TupleV6, map,
};
use serde_json::json;

use super::{
    fixture::{self, DROP, EXTERNAL_EGRESS, EXTERNAL_INGRESS, PASS, ProgramFixture, network},
    objects::{self, NODE},
    packet::Packet,
    test_run::test_run,
};
use crate::lab::rng::Rng;

const FLOWS: u32 = 64;
/// Client ports that only one CPU uses.
const OWN_PORTS: u64 = 48;
/// Client ports that all CPUs use.
const SHARED_PORTS: u64 = 8;
const PORT: u16 = 80;
const EXTERNAL_IP: [&str; 2] = ["192.0.2.9", "2001:db8:2::9"];
const ENDPOINTS: [[&str; 2]; 3] =
    [["10.1.2.1", "fd00:1::2:1"], ["10.1.2.2", "fd00:1::2:2"], ["10.1.2.3", "fd00:1::2:3"]];

/// The outcomes of the packets.
#[derive(Debug, Default, Clone, Copy)]
pub struct Concurrent {
    pub round_trips: u64,
    pub refused: u64,
    /// Of flows that ended between two of their packets.
    pub untouched: u64,
    /// Flows that were made to look idle.
    pub aged: u64,
}

impl Concurrent {
    fn add(&mut self, other: Self) {
        self.round_trips += other.round_trips;
        self.refused += other.refused;
        self.untouched += other.untouched;
        self.aged += other.aged;
    }
}

/// The states of all records, in shared memory.
struct States {
    memory: *mut c_void,
    stride: usize,
}

// SAFETY: the memory is accessed by atomic operations only.
unsafe impl Sync for States {}

impl States {
    fn map(table: &MapData, stride: usize) -> Result<Self> {
        let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, table.fd().as_fd().as_raw_fd());
        let length = stride * FLOWS as usize;
        // SAFETY: a new mapping, which lasts as long as the process.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, fd, 0) };
        ensure!(memory != libc::MAP_FAILED, "mapping the records: {}", io::Error::last_os_error());
        Ok(Self { memory, stride })
    }

    /// Lets a flow look idle for long, so that the sweep ends it, or another flow takes its record.
    fn age(&self, slot: u32) -> bool {
        const IDLE: u32 = 1_000_000;
        let word = self.memory.wrapping_byte_add(self.stride * slot as usize).cast::<u64>();
        // SAFETY: within the mapping; the first word of a record is aligned.
        let word = unsafe { AtomicU64::from_ptr(word) };
        let state = FlowState(word.load(Ordering::Acquire));
        let aged = FlowState::new(state.tag(), state.bits(), state.last_seen().wrapping_sub(IDLE));
        state.is_alive()
            && word.compare_exchange(state.0, aged.0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Sends packets from all CPUs for some time.
pub fn concurrent(duration: Duration) -> Result<Concurrent> {
    network()?.run(|| {
        let mut total = Concurrent::default();
        for is_v6 in [false, true] {
            let mut fixture = ProgramFixture::new(None, Config { flows: FLOWS, ..fixture::CONFIG })?;
            fixture.load_objects(objects::policy(), service_objects()?)?;
            fixture.start_sweeper()?;
            total.add(on_all_cpus(&fixture, is_v6, duration)?);
            if is_v6 {
                check_tables::<[u8; 16]>(&fixture, map::FLOWS_V6, map::CONNTRACK_V6, TupleV6::hash)?;
            } else {
                check_tables::<[u8; 4]>(&fixture, map::FLOWS_V4, map::CONNTRACK_V4, TupleV4::hash)?;
            }
        }
        Ok(total)
    })
}

/// Records without references, as after a copy from other tables: their packets pass untouched until the flows are adopted, before
/// the links get the new programs and afterwards, for flows that were created meanwhile.
pub fn earlier_flows() -> Result<()> {
    network()?.run(|| {
        for is_v6 in [false, true] {
            let mut fixture = ProgramFixture::new(None, fixture::CONFIG)?;
            fixture.load_objects(objects::policy(), service_objects()?)?;
            for round in 0..2 {
                let packets: Vec<_> =
                    (0..50).map(|at| datagram(2000 + 100 * round + at, is_v6)).collect::<Result<_>>()?;
                let hooks =
                    Hooks { ingress: fixture.fd(EXTERNAL_INGRESS)?, egress: fixture.fd(EXTERNAL_EGRESS)? };
                let answers: Vec<_> =
                    packets.iter().map(|packet| hooks.answer(packet)).collect::<Result<_>>()?;
                forget_references(&fixture, is_v6)?;
                for answer in &answers {
                    ensure!(matches!(step(hooks.ingress, answer)?, Step::Untouched), "still found");
                }
                fixture.adopt_flows()?;
                let hooks =
                    Hooks { ingress: fixture.fd(EXTERNAL_INGRESS)?, egress: fixture.fd(EXTERNAL_EGRESS)? };
                for (packet, answer) in packets.iter().zip(&answers) {
                    let Step::Translated(inner) = step(hooks.ingress, answer)? else {
                        bail!("lost at ingress")
                    };
                    let Step::Translated(back) = step(hooks.egress, &inner)? else { bail!("lost at egress") };
                    ensure!(back.to == packet.from && back.from == packet.to, "{} to {}", back.from, back.to);
                    ensure!(matches!(hooks.round_trip(packet)?, Step::Translated(_)), "another flow");
                }
            }
            // What is found already gets no second reference.
            let found = references(&fixture, is_v6)?;
            fixture.adopt_flows()?;
            ensure!(references(&fixture, is_v6)? == found, "adopted again");
        }
        Ok(())
    })
}

fn conntrack(is_v6: bool) -> &'static str {
    if is_v6 { map::CONNTRACK_V6 } else { map::CONNTRACK_V4 }
}

fn forget_references(fixture: &ProgramFixture, is_v6: bool) -> Result<()> {
    let mut buckets = fixture.array::<Bucket>(conntrack(is_v6))?;
    for at in 0..buckets.len() {
        if buckets.get(&at, 0)? != Bucket::default() {
            buckets.set(at, Bucket::default(), 0)?;
        }
    }
    Ok(())
}

fn references(fixture: &ProgramFixture, is_v6: bool) -> Result<usize> {
    let buckets = fixture.array::<Bucket>(conntrack(is_v6))?;
    let count = |at| Ok(buckets.get(&at, 0)?.iter().filter(|word| !word.is_none()).count());
    (0..buckets.len()).map(count).sum()
}

fn on_all_cpus(fixture: &ProgramFixture, is_v6: bool, duration: Duration) -> Result<Concurrent> {
    let hooks = Hooks { ingress: fixture.fd(EXTERNAL_INGRESS)?, egress: fixture.fd(EXTERNAL_EGRESS)? };
    let cpus = thread::available_parallelism()?.get();
    let (table, stride) =
        if is_v6 { (map::FLOWS_V6, size_of::<FlowV6>()) } else { (map::FLOWS_V4, size_of::<FlowV4>()) };
    let states = &States::map(&fixture.map(table)?, stride)?;
    thread::scope(|scope| {
        let start = |cpu| scope.spawn(move || hooks.send_from(cpu, is_v6, duration, states));
        let threads: Vec<_> = (0..cpus).map(start).collect();
        let mut total = Concurrent::default();
        for thread in threads {
            total.add(thread.join().map_err(|_| anyhow!("a thread panicked"))??);
        }
        Ok(total)
    })
}

#[derive(Clone, Copy)]
struct Hooks<'a> {
    ingress: BorrowedFd<'a>,
    egress: BorrowedFd<'a>,
}

/// The outcome of one packet at one hook.
enum Step {
    Translated(Packet),
    Untouched,
    Refused,
}

impl Hooks<'_> {
    fn send_from(self, cpu: usize, is_v6: bool, duration: Duration, states: &States) -> Result<Concurrent> {
        let mut set = CpuSet::new();
        set.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &set).context("a CPU that is available")?;
        let (mut rng, start, mut total) = (Rng::new(), Instant::now(), Concurrent::default());
        while start.elapsed() < duration {
            let at = rng.below(OWN_PORTS + SHARED_PORTS);
            let first = if at < OWN_PORTS { OWN_PORTS * cpu as u64 } else { OWN_PORTS * 1000 - OWN_PORTS };
            let packet = datagram(u16::try_from(1024 + first + at)?, is_v6)?;
            match self.round_trip(&packet).with_context(|| format!("from {}", packet.from))? {
                Step::Translated(_) => total.round_trips += 1,
                Step::Untouched => total.untouched += 1,
                Step::Refused => total.refused += 1,
            }
            if rng.below(4) == 0 {
                total.aged += u64::from(states.age(u32::try_from(rng.below(FLOWS.into()))?));
            }
        }
        Ok(total)
    }

    /// The backend's answer to a datagram, as it arrives.
    fn answer(self, packet: &Packet) -> Result<Packet> {
        let Step::Translated(forwarded) = step(self.ingress, packet)? else { bail!("no flow") };
        let Step::Translated(sent) = step(self.egress, &forwarded)? else { bail!("no masquerade") };
        Ok(sent.reply())
    }

    /// A datagram to its backend, and the answer back.
    fn round_trip(self, packet: &Packet) -> Result<Step> {
        let family = usize::from(packet.to.is_ipv6());
        let forwarded = match step(self.ingress, packet)? {
            Step::Translated(forwarded) => forwarded,
            Step::Untouched => return Err(anyhow!("a datagram to a frontend passed")),
            Step::Refused => return Ok(Step::Refused),
        };
        let backend = forwarded.to.ip().to_string();
        ensure!(ENDPOINTS.iter().any(|endpoint| endpoint[family] == backend), "went to {backend}");
        ensure!(forwarded.from.ip() == packet.from.ip(), "came from {}", forwarded.from);
        let sent = match step(self.egress, &forwarded)? {
            Step::Translated(sent) => sent,
            other @ (Step::Untouched | Step::Refused) => return Ok(other),
        };
        ensure!(sent.to == forwarded.to && sent.from.ip() == NODE[family], "{} to {}", sent.from, sent.to);
        let answer = match step(self.ingress, &sent.reply())? {
            Step::Translated(answer) => answer,
            other @ (Step::Untouched | Step::Refused) => return Ok(other),
        };
        ensure!(answer.to == forwarded.from, "the answer went to {}, not to {}", answer.to, forwarded.from);
        ensure!(answer.from == forwarded.to, "the answer came from {}", answer.from);
        let back = match step(self.egress, &answer)? {
            Step::Translated(back) => back,
            other @ (Step::Untouched | Step::Refused) => return Ok(other),
        };
        ensure!(back.to == packet.from && back.from == packet.to, "{} to {}", back.from, back.to);
        Ok(Step::Translated(back))
    }
}

fn step(program: BorrowedFd<'_>, packet: &Packet) -> Result<Step> {
    let ran = test_run(program, packet.bytes())?;
    if ran.action == DROP {
        return Ok(Step::Refused);
    }
    ensure!(ran.action == PASS, "action {}", ran.action);
    let out = Packet::parse(&ran.packet)?;
    let is_untouched = out.from == packet.from && out.to == packet.to;
    Ok(if is_untouched { Step::Untouched } else { Step::Translated(out) })
}

/// Each live flow has each of its references once, and its tuple alone.
fn check_tables<A: Copy + PartialEq + std::fmt::Debug>(
    fixture: &ProgramFixture,
    flows: &str,
    conntrack: &str,
    hash: impl Fn(&Tuple<A>, &HashKeys) -> TupleHash,
) -> Result<()>
where
    Record<A>: Pod,
{
    let records = fixture.array::<Record<A>>(flows)?;
    let buckets = fixture.array::<Bucket>(conntrack)?;
    let keys = fixture.array::<HashKeys>(map::HASH_KEYS)?.get(&0, 0)?;
    let alive = |slot| Ok::<_, anyhow::Error>(records.get(&slot, 0)?).map(|flow| (slot, flow));
    let found: Vec<_> = (0..FLOWS).map(alive).collect::<Result<_>>()?;
    let found: Vec<_> = found.into_iter().filter(|(_, flow)| flow.state.is_alive()).collect();
    for (slot, flow) in &found {
        for kind in kinds(flow) {
            let tuple = tuple(flow, kind);
            let hash = hash(&tuple, &keys);
            let reference = FlowRef::new(*slot, flow.state.tag(), kind, hash);
            let bucket = buckets.get(&hash.bucket(FLOWS.div_ceil(FLOWS_PER_BUCKET)), 0)?;
            let count = bucket.iter().filter(|word| **word == reference).count();
            let is_still = FlowState(records.get(slot, 0)?.state.0).tag() == flow.state.tag();
            ensure!(count == 1 || !is_still, "{count} references of {flow:?} by {tuple:?}: {bucket:?}");
        }
        let same = found.iter().filter(|(_, other)| {
            (other.client, other.client_port) == (flow.client, flow.client_port)
                && other.destination == flow.destination
        });
        ensure!(same.count() == 1, "two flows like {flow:?}");
    }
    for at in 0..FLOWS.div_ceil(FLOWS_PER_BUCKET) {
        let bucket = buckets.get(&at, 0)?;
        ensure!(bucket.len() == BUCKET && bucket.iter().all(|word| !word.is_tentative()), "{bucket:?}");
    }
    Ok(())
}

fn kinds<A>(flow: &Record<A>) -> impl Iterator<Item = TupleKind> {
    let masqueraded = (flow.masquerade_state != MASQUERADE_NONE).then_some(TupleKind::Reply);
    [TupleKind::Original, TupleKind::OriginalAfterDnat, TupleKind::ReplyAfterReverseSnat]
        .into_iter()
        .chain(masqueraded)
}

/// As the programs see an external client's flow to another node.
fn tuple<A: Copy>(flow: &Record<A>, kind: TupleKind) -> Tuple<A> {
    const INGRESS: u8 = 0;
    const EGRESS: u8 = 1;
    let (source, source_port, destination, destination_port, direction) = match kind {
        TupleKind::Original => {
            (flow.client, flow.client_port, flow.destination, flow.destination_port, INGRESS)
        }
        TupleKind::OriginalAfterDnat => {
            (flow.client, flow.translated_port, flow.backend, flow.backend_port, EGRESS)
        }
        TupleKind::Reply => (flow.backend, flow.backend_port, flow.masquerade, flow.masquerade_port, INGRESS),
        TupleKind::ReplyAfterReverseSnat => {
            (flow.backend, flow.backend_port, flow.client, flow.translated_port, EGRESS)
        }
    };
    let protocol = flow.protocol;
    Tuple { source, destination, source_port, destination_port, protocol, direction, zero: [0; 2] }
}

fn datagram(port: u16, is_v6: bool) -> Result<Packet> {
    let source: IpAddr =
        if is_v6 { [0x2001, 0xdb8, 0, 0, 0, 0, 0, 7].into() } else { [198, 51, 100, 7].into() };
    let destination = SocketAddr::new(EXTERNAL_IP[usize::from(is_v6)].parse()?, PORT);
    Ok(Packet::first(&Flow { source, destination, protocol: Protocol::Udp }, port))
}

fn service_objects() -> Result<Vec<Change>> {
    let service = json!({"metadata": {"name": "busy", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.9.1", "clusterIPs": ["10.96.9.1", "fd00:96::9:1"],
            "ipFamilies": ["IPv4", "IPv6"], "externalIPs": EXTERNAL_IP,
            "ports": [{"name": "dns", "port": PORT, "protocol": "UDP"}]}});
    let mut objects = vec![Object::Service(serde_json::from_value(service)?)];
    for (family, name) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let endpoint = |addresses: &[&str; 2]| json!({"addresses": [addresses[family]], "nodeName": "node-2", "conditions": {"ready": true}});
        let slice = json!({"metadata": {"name": format!("busy-{family}"), "namespace": "shop",
                "labels": {"kubernetes.io/service-name": "busy"}},
            "addressType": name, "ports": [{"name": "dns", "port": 8080, "protocol": "UDP"}],
            "endpoints": ENDPOINTS.iter().map(endpoint).collect::<Vec<_>>()});
        objects.push(Object::EndpointSlice(serde_json::from_value(slice)?));
    }
    let mut changes = Vec::new();
    for object in objects {
        changes.extend(object.change(objects::NODE_NAME)?.map(|read| read.value));
    }
    Ok(changes)
}
