//! The ring buffer of events, and the word that lets the programs write to it.
//!
//! The ring belongs to one agent's programs and is not pinned: two agents never read one ring. The programs write until a deadline, which
//! is moved ahead while someone listens, so they stop soon after an agent was killed.

use std::{io, os::fd::AsFd as _, time::Duration};

use aya::maps::{HashMap, Map, MapData, PerCpuArray, RingBuf};
use proxy_ebpf::abi::{Event, ServiceName, map};
use tokio::io::{Interest, unix::AsyncFd};

use super::load::Programs;
use crate::datapath::{
    kernel::now,
    maps::{Access, MmapArray, OpenError, hash},
    pins::Pins,
};

/// The programs stop to write this long after the last call of `EventSource::listen`.
pub const LISTENING: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    #[error("the eBPF object has no map {0}")]
    NoMap(&'static str),
    #[error("the map {name} is of another kind")]
    Kind {
        name: &'static str,
        #[source]
        source: aya::maps::MapError,
    },
    #[error("cannot map {} into memory", map::EVENT_LISTENERS)]
    Listeners(#[source] io::Error),
    #[error("cannot read the names of Services")]
    Services(#[from] OpenError),
    #[error("cannot wait for events")]
    Wait(#[source] io::Error),
}

/// The reader's end of the events of one agent's programs.
pub struct EventSource {
    ring: RingBuf<MapData>,
    listeners: MmapArray<u64>,
    lost: PerCpuArray<MapData, u64>,
    services: HashMap<MapData, u32, ServiceName>,
}

/// The same on a runtime.
pub struct EventReader {
    ring: AsyncFd<RingBuf<MapData>>,
    listeners: MmapArray<u64>,
    lost: PerCpuArray<MapData, u64>,
    services: HashMap<MapData, u32, ServiceName>,
}

impl EventSource {
    /// Takes the maps of events from the programs.
    pub fn take(programs: &mut Programs, pins: &Pins) -> Result<Self, EventsError> {
        let kind = |name| move |source| EventsError::Kind { name, source };
        let sock_ops_reports = programs.uncounted().is_none();
        let mut taken = |name| programs.ebpf_mut().take_map(name).ok_or(EventsError::NoMap(name));
        let ring = RingBuf::try_from(taken(map::EVENTS)?).map_err(kind(map::EVENTS))?;
        let lost = PerCpuArray::try_from(taken(map::LOST_EVENTS)?).map_err(kind(map::LOST_EVENTS))?;
        let Map::Array(words) = taken(map::EVENT_LISTENERS)? else {
            return Err(EventsError::NoMap(map::EVENT_LISTENERS));
        };
        let words = words.fd().as_fd().try_clone_to_owned().map_err(EventsError::Listeners)?;
        let mut listeners =
            MmapArray::new(words, map::EVENT_WORDS, Access::Write).map_err(EventsError::Listeners)?;
        listeners.publish(map::SOCK_OPS_REPORTS, sock_ops_reports.into()).map_err(EventsError::Listeners)?;
        Ok(Self { ring, listeners, lost, services: hash(&pins.maps(), map::SERVICES)? })
    }

    /// Called on the runtime that reads.
    pub fn into_reader(self) -> Result<EventReader, EventsError> {
        let Self { ring, listeners, lost, services } = self;
        // SAFETY: the ring owns its descriptor for its whole life, and always returns that one.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let ring = ring.map_err(|error| EventsError::Wait(error.into()))?;
        Ok(EventReader { ring, listeners, lost, services })
    }

    /// For tests without a runtime: the programs write until then, by the monotonic clock.
    pub fn listen_until(&mut self, time: Duration) -> io::Result<()> {
        publish(&mut self.listeners, time)
    }

    /// For tests without a runtime: what is in the ring.
    pub fn events(&mut self) -> Vec<Event> {
        read(&mut self.ring, usize::MAX)
    }

    /// Events that found the ring full, of all CPUs.
    pub fn lost(&self) -> u64 {
        sum(&self.lost)
    }
}

impl EventReader {
    /// Lets the programs write for a while.
    pub fn listen(&mut self) -> io::Result<()> {
        publish(&mut self.listeners, now() + LISTENING)
    }

    /// Lets the programs stop. The ring is empty afterwards, but for what they are writing now.
    pub fn stop(&mut self) -> io::Result<()> {
        let stopped = publish(&mut self.listeners, Duration::ZERO);
        // As many as it has room for: programs may write all the time.
        read(self.ring.get_mut(), map::EVENTS_SIZE as usize / size_of::<Event>());
        stopped
    }

    /// Waits for events, and reads up to `limit` of them.
    pub async fn read(&mut self, limit: usize) -> io::Result<Vec<Event>> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            let events = read(ready.get_inner_mut(), limit);
            // The kernel wakes a reader that has seen the end of the ring.
            if events.len() < limit {
                ready.clear_ready();
            }
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }

    /// Events that found the ring full, of all CPUs.
    pub fn lost(&self) -> u64 {
        sum(&self.lost)
    }

    /// The name of a service port.
    pub fn service(&self, id: u32) -> Option<ServiceName> {
        self.services.get(&id, 0).ok()
    }
}

/// The deadline of the programs.
fn publish(listeners: &mut MmapArray<u64>, until: Duration) -> io::Result<()> {
    listeners.publish(map::LISTENING_UNTIL, u64::try_from(until.as_nanos()).unwrap_or(u64::MAX))
}

fn read(ring: &mut RingBuf<MapData>, limit: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < limit
        && let Some(record) = ring.next()
    {
        if let Some(event) = event(&record) {
            events.push(event);
        }
    }
    events
}

/// Returns `None` if the record has another size, which no program of this object writes.
fn event(record: &[u8]) -> Option<Event> {
    // SAFETY: the length is that of the type, of which every pattern is valid; unaligned reads need no alignment.
    (record.len() == size_of::<Event>()).then(|| unsafe { record.as_ptr().cast::<Event>().read_unaligned() })
}

/// A counter that cannot be read now is told later.
fn sum(counter: &PerCpuArray<MapData, u64>) -> u64 {
    counter.get(&0, 0).map_or(0, |counts| counts.iter().sum())
}
