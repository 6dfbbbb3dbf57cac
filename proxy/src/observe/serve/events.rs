//! The reader of events: takes them from the ring while someone listens, adds names, and gives them to the listeners.
//!
//! A pod can cause events at any rate. So the ring is read in batches with a pause in between; what it has no room for is
//! counted and told. The programs write until a deadline that is moved ahead here.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use nix::net::if_::if_indextoname;
use proxy_ebpf::abi::Event;
use tokio::{
    io::AsyncWriteExt as _,
    net::UnixStream,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tracing::{debug, warn};

use crate::{
    datapath::{self, EventReader},
    error::chain,
    observe::{
        agent_state::AgentState,
        events::{
            filter::EventFilter,
            listeners::{MAX_LISTENERS, line},
            record::{Clocks, EventMessage, FlowEvent, addresses},
        },
        objects::Named,
    },
    reconcile::parse_label,
};

/// Events that are read at once.
const BATCH: usize = 256;
/// The pause after a full batch: at most 12,800 events per second.
const PAUSE: Duration = Duration::from_millis(20);
/// How often the programs' deadline is moved, losses are told, and idle listeners get an empty line.
const INTERVAL: Duration = Duration::from_secs(1);
/// The objects are asked for names of new addresses at most this often: each time takes the agent's loop a few milliseconds in a
/// large cluster.
const NAMES_INTERVAL: Duration = Duration::from_millis(250);
/// How long the name of an address, or that there is none, is kept.
const NAMES_KEPT: Duration = Duration::from_secs(5);
/// Limit of addresses with kept names.
const MAX_NAMES: usize = 4096;
/// A listener must have read a line by then.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads events until the process ends.
pub async fn run(state: Arc<AgentState>) {
    let source = state.events.source().await;
    let mut reader = match source.into_reader() {
        Ok(reader) => reader,
        Err(error) => return warn!(error = %chain(&error), "events cannot be read"),
    };
    let mut names = Names::default();
    loop {
        state.events.arrival().await;
        debug!("someone listens to events");
        if let Err(error) = serve(&mut reader, &mut names, &state).await {
            warn!(%error, "events cannot be read");
            sleep(INTERVAL).await;
        }
        if let Err(error) = reader.stop() {
            // They stop at their deadline.
            warn!(%error, "the programs cannot be told that nobody listens");
        }
        debug!("nobody listens to events");
    }
}

/// Reads while someone listens.
async fn serve(reader: &mut EventReader, names: &mut Names, state: &AgentState) -> io::Result<()> {
    let node = state.node_name();
    let mut known_losses = reader.lost();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    reader.listen()?;
    state.events.greet(&node);
    while state.events.is_any() {
        tokio::select! {
            events = reader.read(BATCH) => {
                let events = events?;
                let is_full = events.len() == BATCH;
                names.look_up(&events, state).await;
                let clocks = Clocks { monotonic: datapath::now(), wall: Timestamp::now() };
                for event in events {
                    publish(&event, &node, clocks, reader, names, state);
                }
                if is_full {
                    sleep(PAUSE).await;
                }
            }
            _ = ticks.tick() => {}
            () = state.events.another() => state.events.greet(&node),
        }
        reader.listen()?;
        let losses = reader.lost();
        if losses > known_losses {
            state.events.lost_in_ring(losses - known_losses);
            known_losses = losses;
        }
    }
    Ok(())
}

fn publish(
    event: &Event,
    node: &str,
    clocks: Clocks,
    reader: &EventReader,
    names: &Names,
    state: &AgentState,
) {
    let service = (event.service != Event::NO_SERVICE).then(|| reader.service(event.service)).flatten();
    let service = service.as_ref().and_then(parse_label);
    // A device may be gone already.
    let interface = (event.interface != 0).then(|| if_indextoname(event.interface).ok()).flatten();
    let interface = interface.map(|name| name.to_string_lossy().into_owned());
    let named = |address| names.of(address);
    if let Some(event) = FlowEvent::new(event, node, clocks, service.as_ref(), interface, named) {
        state.events.publish(event);
    }
}

/// Pods and nodes by address, as far as events needed them lately.
#[derive(Default)]
struct Names {
    known: HashMap<IpAddr, (Option<Named>, Instant)>,
    asked: Option<Instant>,
}

impl Names {
    fn of(&self, address: IpAddr) -> (Option<String>, Option<String>) {
        let named = self.known.get(&address).and_then(|(named, _)| named.clone());
        named.map_or((None, None), |Named { pod, node }| (pod, node))
    }

    /// Asks for the names that are not known. Without an answer the events come without them.
    async fn look_up(&mut self, events: &[Event], state: &AgentState) {
        let now = Instant::now();
        self.known.retain(|_, (_, since)| now.duration_since(*since) < NAMES_KEPT);
        let unknown: BTreeSet<IpAddr> = events.iter().flat_map(addresses).collect();
        let unknown: BTreeSet<IpAddr> =
            unknown.into_iter().filter(|address| !self.known.contains_key(address)).collect();
        if unknown.is_empty() {
            return;
        }
        if let Some(asked) = self.asked {
            sleep_until(asked + NAMES_INTERVAL).await;
        }
        let objects = timeout(NAMES_INTERVAL, state.objects()).await;
        let now = Instant::now();
        self.asked = Some(now);
        // The loop is busy.
        let Ok(Some(objects)) = objects else { return };
        let mut named = objects.named(&unknown);
        if self.known.len() + unknown.len() > MAX_NAMES {
            self.known.clear();
        }
        self.known.extend(unknown.into_iter().map(|address| (address, (named.remove(&address), now))));
    }
}

/// Serves one listener until it goes.
pub async fn listen(mut stream: UnixStream, filter: &[u8], state: &AgentState) {
    let subscription = match serde_json::from_slice::<EventFilter>(filter) {
        Err(error) => Err(format!("the agent does not understand the filter: {error}")),
        Ok(filter) => {
            state.events.subscribe(filter).ok_or_else(|| format!("{MAX_LISTENERS} others listen already"))
        }
    };
    let mut subscription = match subscription {
        Ok(subscription) => subscription,
        Err(message) => {
            let refusal = line(&EventMessage::Refused { message });
            // The client may have closed the connection.
            let _ = timeout(WRITE_TIMEOUT, stream.write_all(refusal.as_bytes())).await;
            return;
        }
    };
    loop {
        let text = match timeout(INTERVAL, subscription.next()).await {
            Ok(Some(line)) => line,
            Ok(None) => return,
            // An empty line: a listener that is gone is noticed by writing only.
            Err(_) => subscription.losses().unwrap_or_else(|| "\n".into()),
        };
        let Ok(Ok(())) = timeout(WRITE_TIMEOUT, stream.write_all(text.as_bytes())).await else { return };
    }
}
