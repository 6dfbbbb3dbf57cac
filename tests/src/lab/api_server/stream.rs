//! Streamed responses: watches, and bodies that are split or cut.

use std::{io, sync::Arc, time::Duration};

use axum::{body::Body, http::Response};
use futures_util::stream;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, interval_at, sleep},
};

use super::{
    request::{Request, Selector},
    state::{Behaviour, Shared, State},
    status::status_text,
    store::{Stored, StoredEvent},
};

type Chunk = Result<Vec<u8>, io::Error>;

/// Chunks in the queue; a client that does not read blocks the watch.
const WAITING: usize = 16;

/// A complete body.
pub fn whole(bytes: Vec<u8>, behaviour: &Behaviour) -> Response<Body> {
    let chunks = chunks(bytes, behaviour);
    Response::new(Body::from_stream(stream::iter(chunks)))
}

/// The chunks of a text, up to the cut.
fn chunks(bytes: Vec<u8>, behaviour: &Behaviour) -> Vec<Chunk> {
    let size = behaviour.piece.unwrap_or(bytes.len()).max(1);
    let upto = behaviour.breaks_after.unwrap_or(bytes.len()).min(bytes.len());
    let is_cut = upto < bytes.len();
    let whole = bytes.get(..upto).unwrap_or_default().chunks(size).map(|chunk| Ok(chunk.to_vec()));
    whole.chain(is_cut.then(|| Err(io::Error::other("configured to cut the response")))).collect()
}

pub fn watch(shared: Arc<Shared>, changes: watch::Receiver<u64>, request: Request) -> Response<Body> {
    let (sender, receiver) = mpsc::channel::<Chunk>(WAITING);
    tokio::spawn(async move {
        let mut watch = Watch::new(&shared, request, sender);
        // A closed connection needs no more events.
        let _ = watch.run(&shared, changes).await;
    });
    let body = stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
    Response::new(Body::from_stream(body))
}

/// The client has closed the connection, or the watch was ended.
struct Closed;

struct Watch {
    selector: Selector,
    /// Everything up to here was sent.
    version: u64,
    wants_everything: bool,
    wants_bookmarks: bool,
    ends: Option<Instant>,
    /// Numbers of cuts and expirations at the start of this watch.
    cuts: u64,
    expirations: u64,
    /// It was silenced once, and stays so.
    is_stuck: bool,
    sender: mpsc::Sender<Chunk>,
}

impl Watch {
    fn new(shared: &Shared, request: Request, sender: mpsc::Sender<Chunk>) -> Self {
        let state = shared.lock();
        let timeout = request.timeout_seconds.map(Duration::from_secs);
        Self {
            selector: request.selector,
            version: request.version.unwrap_or(0),
            wants_everything: request.wants_everything,
            wants_bookmarks: request.wants_bookmarks,
            ends: timeout.map(|timeout| Instant::now() + timeout),
            cuts: state.cuts,
            expirations: state.store.expirations,
            is_stuck: false,
            sender,
        }
    }

    async fn run(&mut self, shared: &Shared, mut changes: watch::Receiver<u64>) -> Result<(), Closed> {
        if self.wants_everything {
            self.send_everything(shared).await?;
        }
        let every = Duration::from_millis(shared.lock().behaviour.bookmark_millis);
        let mut bookmarks = interval_at(Instant::now() + every, every);
        loop {
            self.send_news(shared).await?;
            let end = self.ends.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                changed = changes.changed() => changed.map_err(|_| Closed)?,
                _ = bookmarks.tick(), if self.wants_bookmarks => self.bookmark(shared, false).await?,
                () = sleep(end.saturating_duration_since(Instant::now())) => return Err(Closed),
                () = self.sender.closed() => return Err(Closed),
            }
        }
    }

    async fn send_everything(&mut self, shared: &Shared) -> Result<(), Closed> {
        let (text, behaviour) = {
            let state = shared.lock();
            self.version = state.store.version();
            let lines = state.store.list(&self.selector, None).map(|stored| line("ADDED", stored));
            (lines.collect::<String>(), state.behaviour.clone())
        };
        self.send(text, &behaviour).await?;
        self.bookmark(shared, true).await
    }

    async fn send_news(&mut self, shared: &Shared) -> Result<(), Closed> {
        let (text, behaviour) = {
            let state = shared.lock();
            if state.cuts > self.cuts {
                return Err(Closed);
            }
            let text = self.news(&state);
            (text, state.behaviour.clone())
        };
        match text {
            Some(text) => self.send(text, &behaviour).await,
            None => {
                let gone = status_text(410, "Expired", "too old resource version");
                self.send(format!("{{\"type\":\"ERROR\",\"object\":{gone}}}\n"), &behaviour).await?;
                Err(Closed)
            }
        }
    }

    /// The lines of the events since the last call. Returns `None` if they are compacted.
    fn news(&mut self, state: &State) -> Option<String> {
        if state.store.expirations > self.expirations {
            return None;
        }
        let events = state.store.since(self.version).ok()?;
        self.version = events.last().map_or(self.version, |event| event.version);
        let mut lines: Vec<String> = events.iter().filter_map(|event| self.event(event)).collect();
        if state.behaviour.reorders {
            lines.chunks_exact_mut(2).for_each(|pair| pair.swap(0, 1));
        }
        let times = if state.behaviour.duplicates { 2 } else { 1 };
        Some(lines.iter().map(|line| line.repeat(times)).collect())
    }

    /// With a selector, an object that begins to match is ADDED, and one that no longer matches is DELETED.
    fn event(&self, event: &StoredEvent) -> Option<String> {
        let selected = |stored: &&Arc<Stored>| stored.is_selected_by(&self.selector);
        match (event.before.as_ref().filter(selected), event.after.as_ref().filter(selected)) {
            (None, None) => None,
            (None, Some(after)) => Some(line("ADDED", after)),
            (Some(_), Some(after)) => Some(line("MODIFIED", after)),
            (Some(before), None) => Some(line("DELETED", event.after.as_ref().unwrap_or(before))),
        }
    }

    async fn bookmark(&mut self, shared: &Shared, ends_initial_events: bool) -> Result<(), Closed> {
        let (version, behaviour) = {
            let state = shared.lock();
            // After a restore the server may have an older version than this watch.
            (self.version.min(state.store.version()), state.behaviour.clone())
        };
        let annotations =
            if ends_initial_events { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
        let (kind, api_version) = (self.selector.singular(), &self.selector.api_version);
        let metadata = format!(r#"{{"resourceVersion":"{version}"{annotations}}}"#);
        let object = format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{metadata}}}"#);
        self.send(format!("{{\"type\":\"BOOKMARK\",\"object\":{object}}}\n"), &behaviour).await
    }

    async fn send(&mut self, text: String, behaviour: &Behaviour) -> Result<(), Closed> {
        self.is_stuck |= behaviour.is_silent;
        if self.is_stuck || text.is_empty() {
            return Ok(());
        }
        for chunk in chunks(text.into_bytes(), behaviour) {
            let is_last = chunk.is_err();
            self.sender.send(chunk).await.map_err(|_| Closed)?;
            if is_last {
                return Err(Closed);
            }
        }
        Ok(())
    }
}

fn line(r#type: &str, stored: &Stored) -> String {
    format!("{{\"type\":\"{type}\",\"object\":{}}}\n", stored.json)
}
