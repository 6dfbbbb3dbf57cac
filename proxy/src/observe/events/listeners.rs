//! Listeners to events, each with a bounded queue. What a slow one loses is counted, and it is told.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{Notify, mpsc};

use super::{
    filter::EventFilter,
    record::{EventMessage, FlowEvent, LossSource, LostEvents},
};
use crate::datapath::EventSource;

/// Limit of listeners at one time.
pub const MAX_LISTENERS: usize = 16;
/// Lines that wait for a listener; about half a kilobyte each.
const QUEUE: usize = 1024;

/// Listeners, and the source of events.
#[derive(Default)]
pub struct Listeners {
    listeners: Mutex<Vec<Listener>>,
    /// A listener came.
    arrived: Notify,
    /// Until the reader takes it.
    source: Mutex<Option<EventSource>>,
    provided: Notify,
}

#[derive(Debug)]
struct Listener {
    filter: EventFilter,
    lines: mpsc::Sender<Arc<str>>,
    losses: Arc<Losses>,
    /// Whether it knows that the programs write.
    is_greeted: bool,
}

/// Events that one listener has not got, and was not told of.
#[derive(Debug, Default)]
struct Losses {
    in_ring: AtomicU64,
    by_listener: AtomicU64,
}

/// A listener's end.
#[derive(Debug)]
pub struct Subscription {
    lines: mpsc::Receiver<Arc<str>>,
    losses: Arc<Losses>,
}

impl Listeners {
    /// The programs are loaded.
    pub fn provide(&self, source: EventSource) {
        *lock(&self.source) = Some(source);
        self.provided.notify_one();
    }

    /// Waits for the programs.
    pub async fn source(&self) -> EventSource {
        loop {
            let provided = self.provided.notified();
            if let Some(source) = lock(&self.source).take() {
                return source;
            }
            provided.await;
        }
    }

    /// Returns `None` if there are too many.
    pub fn subscribe(&self, filter: EventFilter) -> Option<Subscription> {
        let mut listeners = lock(&self.listeners);
        listeners.retain(|listener| !listener.lines.is_closed());
        if listeners.len() >= MAX_LISTENERS {
            return None;
        }
        let (sender, lines) = mpsc::channel(QUEUE);
        let losses = Arc::new(Losses::default());
        listeners.push(Listener { filter, lines: sender, losses: Arc::clone(&losses), is_greeted: false });
        self.arrived.notify_one();
        Some(Subscription { lines, losses })
    }

    /// Whether someone listens now.
    pub fn is_any(&self) -> bool {
        let mut listeners = lock(&self.listeners);
        listeners.retain(|listener| !listener.lines.is_closed());
        !listeners.is_empty()
    }

    /// Waits until someone listens.
    pub async fn arrival(&self) {
        loop {
            let arrived = self.arrived.notified();
            if self.is_any() {
                return;
            }
            arrived.await;
        }
    }

    /// Waits for another listener.
    pub async fn another(&self) {
        self.arrived.notified().await;
    }

    /// Tells new listeners that the programs write.
    pub fn greet(&self, node: &str) {
        for listener in lock(&self.listeners).iter_mut().filter(|listener| !listener.is_greeted) {
            listener.is_greeted = true;
            listener.send(line(&EventMessage::Listening { node: node.to_owned() }));
        }
    }

    /// Queues an event for those that want it. One that was not greeted yet, while others listen, gets no event before its greeting.
    pub fn publish(&self, event: FlowEvent) {
        let listeners = lock(&self.listeners);
        let wanting =
            listeners.iter().filter(|listener| listener.is_greeted && listener.filter.takes(&event));
        let wanting: Vec<&Listener> = wanting.collect();
        if wanting.is_empty() {
            return;
        }
        let text = line(&EventMessage::Event(Box::new(event)));
        wanting.into_iter().for_each(|listener| listener.send(Arc::clone(&text)));
    }

    /// The ring was full for so many events, which may have been anyone's.
    pub fn lost_in_ring(&self, count: u64) {
        for listener in &*lock(&self.listeners) {
            listener.losses.in_ring.fetch_add(count, Ordering::Relaxed);
        }
    }
}

impl Listener {
    fn send(&self, line: Arc<str>) {
        // A listener that is gone has no losses.
        if self.lines.try_send(line).is_err() {
            self.losses.by_listener.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Subscription {
    /// The next line; losses since the last one come first.
    pub async fn next(&mut self) -> Option<Arc<str>> {
        if let Some(losses) = self.losses() {
            return Some(losses);
        }
        self.lines.recv().await
    }

    /// What this listener lost and was not told of.
    pub fn losses(&self) -> Option<Arc<str>> {
        let taken = |counter: &AtomicU64, source| {
            let count = counter.swap(0, Ordering::Relaxed);
            (count > 0).then(|| line(&EventMessage::LostEvents(LostEvents { source, count })))
        };
        taken(&self.losses.in_ring, LossSource::Ring)
            .or_else(|| taken(&self.losses.by_listener, LossSource::Listener))
    }
}

/// A message on the control socket.
pub fn line(message: &EventMessage) -> Arc<str> {
    // Plain values; an empty line is ignored.
    let mut text = serde_json::to_string(message).unwrap_or_default();
    text.push('\n');
    text.into()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use jiff::Timestamp;

    use super::*;
    use crate::observe::events::record::{Peer, Verdict};

    fn event(service: &str) -> FlowEvent {
        let destination = Peer { ip: "10.96.0.1".parse().unwrap(), port: Some(80), pod: None, node: None };
        FlowEvent {
            time: Timestamp::UNIX_EPOCH,
            node: "node-1".to_owned(),
            verdict: Verdict::Forwarded,
            event: "new_flow".to_owned(),
            reason: None,
            message: None,
            plane: "packet".to_owned(),
            hook: "tc_ingress".to_owned(),
            interface: None,
            ip_version: "IPv4".to_owned(),
            protocol: "TCP".to_owned(),
            service: Some(service.to_owned()),
            port_name: None,
            source: None,
            destination,
            backend: None,
            process: None,
            duration_seconds: None,
        }
    }

    fn next(subscription: &mut Subscription) -> Option<EventMessage> {
        let line = subscription.next().now_or_never()??;
        Some(serde_json::from_str(&line).unwrap())
    }

    #[test]
    fn each_listener_gets_what_it_wants() {
        let listeners = Listeners::default();
        assert!(!listeners.is_any());
        let mut all = listeners.subscribe(EventFilter::default()).unwrap();
        let filter = EventFilter { services: vec!["shop/db".to_owned()], ..EventFilter::default() };
        let mut one = listeners.subscribe(filter).unwrap();
        listeners.greet("node-1");
        listeners.greet("node-1");
        listeners.publish(event("shop/web"));
        listeners.publish(event("shop/db"));
        let listening = Some(EventMessage::Listening { node: "node-1".to_owned() });
        assert_eq!(next(&mut all), listening, "it is told once");
        assert_eq!(next(&mut all), Some(EventMessage::Event(event("shop/web").into())));
        assert_eq!(next(&mut all), Some(EventMessage::Event(event("shop/db").into())));
        assert_eq!(next(&mut all), None);
        assert_eq!(next(&mut one), listening);
        assert_eq!(next(&mut one), Some(EventMessage::Event(event("shop/db").into())));
        assert_eq!(next(&mut one), None);
        let mut late = listeners.subscribe(EventFilter::default()).unwrap();
        listeners.publish(event("shop/web"));
        assert_eq!(next(&mut late), None, "no event comes before the greeting");
        drop((all, one, late));
        assert!(!listeners.is_any(), "all are gone");
    }

    #[test]
    fn a_slow_listener_is_told_what_it_lost() {
        let listeners = Listeners::default();
        let mut slow = listeners.subscribe(EventFilter::default()).unwrap();
        listeners.greet("node-1");
        assert!(matches!(next(&mut slow), Some(EventMessage::Listening { .. })));
        (0..QUEUE + 7).for_each(|_| listeners.publish(event("shop/web")));
        listeners.lost_in_ring(5);
        let lost = |source, count| Some(EventMessage::LostEvents(LostEvents { source, count }));
        assert_eq!(next(&mut slow), lost(LossSource::Ring, 5));
        assert_eq!(next(&mut slow), lost(LossSource::Listener, 7));
        for _ in 0..QUEUE {
            assert!(matches!(next(&mut slow), Some(EventMessage::Event(_))));
        }
        assert_eq!(next(&mut slow), None);
    }

    #[test]
    fn there_is_room_for_some_listeners() {
        let listeners = Listeners::default();
        let mut present: Vec<_> =
            (0..MAX_LISTENERS).map(|_| listeners.subscribe(EventFilter::default()).unwrap()).collect();
        assert!(listeners.subscribe(EventFilter::default()).is_none());
        present.pop();
        assert!(listeners.subscribe(EventFilter::default()).is_some(), "one has left");
    }
}
