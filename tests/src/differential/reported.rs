//! The events of packets: who is heard, and what the records say.

use std::{net::Ipv6Addr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use proxy::{
    datapath::{EventSource, now},
    model::address::Protocol,
};
use proxy_ebpf::abi::{Config, DropReason, Event, EventHook, EventKind, FlowState, flow_state::ticks, map};

use super::{
    fixture::{self, EXTERNAL_EGRESS, EXTERNAL_INGRESS, ProgramFixture, network},
    flow_states::change_states,
    objects,
    packet::Packet,
    tracked::{FLOWS, age_flows, packet, service},
};

const HOUR: Duration = Duration::from_secs(3600);

/// Programs on their own maps, with the reader's end of their events.
struct Reported {
    fixture: ProgramFixture,
    source: EventSource,
}

impl Reported {
    fn new(endpoint: Option<usize>) -> Result<Self> {
        let mut fixture = ProgramFixture::new(None, Config { flows: FLOWS, ..fixture::CONFIG })?;
        fixture.load_objects(objects::policy(), service(endpoint)?)?;
        let source = fixture.event_source()?;
        Ok(Self { fixture, source })
    }

    fn run(&mut self, program: &'static str, packet: &Packet) -> Result<Packet> {
        Packet::parse(&self.fixture.run(program, packet)?.1)
    }

    /// The only event since the last call.
    fn event(&mut self) -> Result<Event> {
        let events = self.source.events();
        ensure!(events.len() == 1, "{} events: {events:?}", events.len());
        Ok(events[0])
    }

    fn is_silent(&mut self) -> Result<()> {
        let events = self.source.events();
        ensure!(events.is_empty(), "{events:?}");
        ensure!(self.source.lost() == 0, "{} events are lost", self.source.lost());
        Ok(())
    }

    fn listen(&mut self) -> Result<()> {
        Ok(self.source.listen_until(now() + HOUR)?)
    }
}

/// Kind, hook and reason.
fn what(event: &Event) -> (Option<EventKind>, Option<EventHook>, u8) {
    (EventKind::of(event.kind), EventHook::of(event.hook), event.reason)
}

fn ends(event: &Event) -> [String; 3] {
    [event.source, event.destination, event.backend].map(|end| {
        let address = Ipv6Addr::from(end.address).to_canonical();
        format!("{address} {}", u16::from_be_bytes(end.port))
    })
}

/// Without a listener, and once the deadline has passed, nothing is written; with one, each first packet is.
pub fn events_while_someone_listens() -> Result<()> {
    network()?.run(|| {
        for v6 in [0, 1] {
            let mut node = Reported::new(Some(0))?;
            heard(&mut node, v6).with_context(|| format!("IPv{}", 4 + 2 * v6))?;
        }
        Ok(())
    })
}

fn heard(node: &mut Reported, v6: usize) -> Result<()> {
    let new = |port| packet(v6, Protocol::Tcp, port);
    let first = new(2000)?;
    node.run(EXTERNAL_INGRESS, &first)?;
    node.is_silent().context("nobody listens")?;

    node.listen()?;
    let before = now();
    let second = new(2001)?;
    let forwarded = node.run(EXTERNAL_INGRESS, &second)?;
    let event = node.event().context("a new flow")?;
    ensure!(what(&event) == (Some(EventKind::NewFlow), Some(EventHook::TcIngress), 0), "{event:?}");
    let end = |at: std::net::SocketAddr| format!("{} {}", at.ip(), at.port());
    let want = [end(second.from), end(second.to), end(forwarded.to)];
    ensure!(ends(&event) == want, "{:?}, expected {want:?}", ends(&event));
    ensure!((event.protocol, event.interface, event.process) == (6, 1, 0), "{event:?}");
    let time = Duration::from_nanos(event.time);
    ensure!(before <= time && time <= now(), "{event:?}");
    let service = event.service;

    // Packets of an established flow, in both directions.
    let left = node.run(EXTERNAL_EGRESS, &forwarded)?;
    let reply = node.run(EXTERNAL_INGRESS, &left.reply())?;
    node.run(EXTERNAL_EGRESS, &reply)?;
    node.run(EXTERNAL_INGRESS, &second.next())?;
    node.is_silent().context("established")?;

    // At XDP.
    node.fixture.run_xdp(new(2002)?.bytes(), 1)?;
    let event = node.event().context("a new flow at XDP")?;
    ensure!(what(&event) == (Some(EventKind::NewFlow), Some(EventHook::Xdp), 0), "{event:?}");
    ensure!(event.service == service && event.interface == 1, "{event:?}");

    // A refusal.
    node.fixture.load_objects(objects::policy(), self::service(None)?)?;
    let refused = new(2003)?;
    node.fixture.run(EXTERNAL_INGRESS, &refused)?;
    let event = node.event().context("a refusal")?;
    let reason = DropReason::NoEndpoint as u8;
    ensure!(what(&event) == (Some(EventKind::Refused), Some(EventHook::TcIngress), reason), "{event:?}");
    ensure!(ends(&event)[..2] == [end(refused.from), end(refused.to)], "{event:?}");
    ensure!(event.service == service && event.backend.port == [0; 2], "{event:?}");

    // The agent was killed a while ago.
    node.source.listen_until(now())?;
    node.fixture.run(EXTERNAL_INGRESS, &new(2004)?)?;
    node.is_silent().context("after the deadline")?;
    node.source.listen_until(Duration::ZERO)?;
    node.fixture.run(EXTERNAL_INGRESS, &new(2005)?)?;
    node.is_silent().context("nobody listens any more")
}

/// Each event is read, or counted as lost.
pub fn lost_events() -> Result<()> {
    network()?.run(|| {
        let mut node = Reported::new(None)?;
        node.listen()?;
        let refused = packet(0, Protocol::Tcp, 2000)?;
        let count = 2 * map::EVENTS_SIZE as usize / size_of::<Event>();
        for _ in 0..count {
            node.fixture.run(EXTERNAL_INGRESS, &refused)?;
        }
        let (read, lost) = (node.source.events().len(), node.source.lost());
        ensure!(lost > 0 && read > 2000, "{read} are read, {lost} lost");
        ensure!(read as u64 + lost == count as u64, "{read} are read and {lost} lost of {count}");
        node.fixture.run(EXTERNAL_INGRESS, &refused)?;
        node.event().context("there is room again").map(drop)
    })
}

/// A flow that makes room for another, and one that gets another backend.
pub fn events_of_flows_that_end() -> Result<()> {
    network()?.run(|| {
        for v6 in [0, 1] {
            evicted(v6).with_context(|| format!("eviction, IPv{}", 4 + 2 * v6))?;
            moved(v6).with_context(|| format!("another backend, IPv{}", 4 + 2 * v6))?;
        }
        Ok(())
    })
}

fn evicted(v6: usize) -> Result<()> {
    let mut node = Reported::new(Some(0))?;
    let mut port = 2000;
    while node.fixture.refusals()?[DropReason::ConntrackFull.name()] == 0 {
        node.run(EXTERNAL_INGRESS, &packet(v6, Protocol::Tcp, port)?)?;
        port += 1;
        ensure!(port < 4000, "the table does not fill");
    }
    // Idle, and not expired.
    change_states(&node.fixture, FLOWS, |state| {
        FlowState::new(state.tag(), state.bits(), state.last_seen().saturating_sub(ticks(20)))
    })?;
    node.listen()?;
    let new = packet(v6, Protocol::Tcp, port)?;
    node.run(EXTERNAL_INGRESS, &new)?;
    let events = node.source.events();
    let kinds: Vec<_> = events.iter().map(|event| EventKind::of(event.kind)).collect();
    ensure!(kinds == [Some(EventKind::Evicted), Some(EventKind::NewFlow)], "{events:?}");
    let [evicted, created] = [&events[0], &events[1]].map(ends);
    ensure!(evicted[0] != created[0] && evicted[1..] == created[1..], "{events:?}");
    ensure!(events[0].service == events[1].service && events[0].protocol == 6, "{events:?}");
    Ok(())
}

fn moved(v6: usize) -> Result<()> {
    let mut node = Reported::new(Some(0))?;
    node.listen()?;
    let datagram = packet(v6, Protocol::Udp, 2000)?;
    let first = node.run(EXTERNAL_INGRESS, &datagram)?;
    ensure!(node.event()?.kind == EventKind::NewFlow as u8);
    node.fixture.load_objects(objects::policy(), service(Some(1))?)?;
    age_flows(&node.fixture)?;
    let second = node.run(EXTERNAL_INGRESS, &datagram)?;
    ensure!(first.to != second.to, "it stays at {}", first.to);
    let event = node.event()?;
    ensure!(what(&event).0 == Some(EventKind::Switched), "{event:?}");
    ensure!(ends(&event)[2] == format!("{} {}", second.to.ip(), second.to.port()), "{event:?}");
    Ok(())
}
