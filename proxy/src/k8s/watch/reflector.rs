//! The watch of one kind: reads everything, follows what changes, and begins again where it broke off.
//!
//! ```text
//! everything (a streaming list, else pages) ──> watch from there ──> ended: watch on from the last version
//!          ^                                                    └──> 410, lost history ─┐
//!          └────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Invariant: what was passed on is what the server last said of each object; reading everything again passes on what
//! is there before it takes away what is not.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    Timing,
    api::{Api, Body, Query},
    backoff::Backoff,
    event::{self, Event, Lines},
    items::{Items, ListMetadata},
    known::{Known, Name},
    outlet::{Closed, Outlet},
    problem::{Problem, Troubles},
    selection::Selection,
    slim,
};
use crate::{
    error::chain,
    k8s::{
        object::{Object, ObjectId},
        reader::{Meaning, Reader},
    },
    update::{Skipped, Update},
};

/// Objects on a page of a list, where the server pages at all.
const PAGE: u32 = 500;

/// How many times the first wait a server has to answer for to count as one that is well.
const A_WHILE: u32 = 5;

/// What all watches share.
pub struct Shared<'a> {
    pub api: &'a Api,
    pub outlet: &'a Outlet,
    pub troubles: &'a Troubles,
    pub reader: &'a Reader,
    pub timing: Timing,
}

pub struct Reflector<'a> {
    selection: Selection,
    shared: &'a Shared<'a>,
    known: Known,
    progress: Progress,
    /// The version after which the present watch began: the server has nothing to say of what was before.
    began: u64,
    /// The server can send everything as events, one by one.
    has_streaming: bool,
    /// The server does not have the kind.
    is_missing: bool,
    /// The server answers in this turn.
    is_answered: bool,
}

/// How far the watch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Everything has to be read, and must not be older than this; none: as recent as there is.
    Unread { floor: Option<u64> },
    /// Everything up to this version was passed on.
    Upto(u64),
}

/// Why a turn came to an end.
enum Ended {
    Closed,
    Problem(Problem),
}

impl From<Closed> for Ended {
    fn from(Closed: Closed) -> Self {
        Self::Closed
    }
}

impl From<Problem> for Ended {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// An object that the server sent; without a value if that cannot be read.
struct Sent {
    name: Name,
    version: u64,
    object: Option<Object>,
}

impl Sent {
    fn new(metadata: &slim::Metadata, object: Option<Object>) -> Self {
        Self { name: metadata.name(), version: metadata.version(), object }
    }
}

/// What one piece of an answer means.
#[derive(Default)]
struct Batch {
    update: Update,
    /// With it, everything was read.
    is_everything: bool,
}

impl<'a> Reflector<'a> {
    pub fn new(selection: Selection, shared: &'a Shared<'a>) -> Self {
        let progress = Progress::Unread { floor: Some(0) };
        Self {
            selection,
            shared,
            known: Known::default(),
            progress,
            began: 0,
            has_streaming: true,
            is_missing: false,
            is_answered: false,
        }
    }

    /// Follows the kind until nobody takes updates any more.
    pub async fn run(mut self) {
        let Timing { first_retry, longest_retry, .. } = self.shared.timing;
        let mut backoff = Backoff::new(first_retry, longest_retry);
        loop {
            self.is_answered = false;
            let (began, ended) = (Instant::now(), self.turn().await);
            // Whatever ended it, the server was there: the waits for it begin anew. Otherwise each of its restarts would make
            // the next one longer.
            if self.is_answered && began.elapsed() >= first_retry * A_WHILE {
                backoff.reset();
            }
            match ended {
                // A server may end a watch when it likes, but one that does nothing else is not well.
                Ok(()) if began.elapsed() >= first_retry => backoff.reset(),
                Ok(()) => sleep(backoff.wait()).await,
                Err(Ended::Closed) => return,
                Err(Ended::Problem(problem)) => match self.cope(&problem, &mut backoff).await {
                    Ok(wait) => sleep(wait).await,
                    Err(Closed) => return,
                },
            }
        }
    }

    async fn turn(&mut self) -> Result<(), Ended> {
        match self.progress {
            Progress::Upto(version) => self.watch(version).await,
            Progress::Unread { floor } if self.has_streaming => self.stream(floor).await,
            Progress::Unread { floor } => self.list(floor).await,
        }
    }

    /// What follows from a problem: where to go on, and after what time.
    async fn cope(&mut self, problem: &Problem, backoff: &mut Backoff) -> Result<Duration, Closed> {
        if problem.asks_for_credentials() {
            self.shared.api.forget_credentials();
        }
        if matches!(problem, Problem::Expired | Problem::LostHistory) {
            return Ok(self.start_over(problem, backoff));
        }
        if matches!(problem, Problem::Invalid { .. } | Problem::Stalled(_)) && self.is_streaming() {
            self.has_streaming = false;
            return Ok(Duration::ZERO);
        }
        if matches!(problem, Problem::NotServed(_) | Problem::Forbidden(_)) && self.selection.is_optional() {
            return self.do_without(problem).await;
        }
        self.shared.troubles.note(self.selection.kind, problem);
        Ok(backoff.wait().max(problem.retry_after()))
    }

    fn is_streaming(&self) -> bool {
        self.has_streaming && self.is_reading()
    }

    /// Everything has to be read again. What is read must not be older than what was known, unless the server has
    /// nothing that recent any more.
    fn start_over(&mut self, problem: &Problem, backoff: &mut Backoff) -> Duration {
        let kind = self.selection.kind.plural();
        tracing::info!(kind, reason = %problem, "reading everything again");
        let (floor, wait) = match (self.progress, problem) {
            (Progress::Upto(version), Problem::Expired) => (Some(version), Duration::ZERO),
            (Progress::Upto(_), _) => (None, Duration::ZERO),
            (Progress::Unread { .. }, _) => (None, backoff.wait()),
        };
        self.progress = Progress::Unread { floor };
        wait
    }

    /// A kind that the server does not have is as if there were no object of it.
    async fn do_without(&mut self, problem: &Problem) -> Result<Duration, Closed> {
        if !self.is_missing {
            let kind = self.selection.kind.plural();
            tracing::info!(kind, reason = %problem, "going on without");
        }
        self.is_missing = true;
        self.known.begin_round();
        self.progress = Progress::Unread { floor: None };
        let mut batch = Batch { is_everything: true, ..Batch::default() };
        self.end_round(&mut batch);
        self.pass(batch).await?;
        Ok(self.shared.timing.missing_kind)
    }

    /// Reads everything as events, and goes on with what changes.
    async fn stream(&mut self, floor: Option<u64>) -> Result<(), Ended> {
        let query = self
            .watch_query()
            .with("sendInitialEvents", true)
            .with("resourceVersionMatch", "NotOlderThan")
            .with_some("resourceVersion", floor.filter(|floor| *floor != 0));
        let body = self.get(&query).await?;
        self.known.begin_round();
        self.began = 0;
        self.follow(body).await
    }

    async fn watch(&mut self, version: u64) -> Result<(), Ended> {
        let body = self.get(&self.watch_query().with("resourceVersion", version)).await?;
        self.began = version;
        // Where nobody sends bookmarks, this is what lets go of what is remembered of the past.
        self.known.settle(version);
        self.follow(body).await
    }

    fn watch_query(&self) -> Query {
        let seconds = self.shared.timing.shortest_watch.mul_f64(1.0 + fastrand::f64()).as_secs();
        self.selection
            .query()
            .with("watch", true)
            .with("allowWatchBookmarks", true)
            .with("timeoutSeconds", seconds.max(1))
    }

    async fn get(&mut self, query: &Query) -> Result<Body, Problem> {
        let uri = query.of(self.selection.path());
        let body = self.shared.api.get(self.selection.kind, &uri, self.shared.timing.silence).await?;
        self.shared.troubles.clear(self.selection.kind);
        self.is_answered = true;
        Ok(body)
    }

    /// Passes on what a watch sends until it ends.
    async fn follow(&mut self, mut body: Body) -> Result<(), Ended> {
        let silence = self.shared.timing.silence;
        let mut lines = Lines::default();
        loop {
            let (mut batch, mut taken) = (Batch::default(), Ok(()));
            let take = |bytes: &[u8]| taken = lines.push(bytes, |line| self.take(line, &mut batch));
            let read = body.read(silence, take).await;
            // What came before a problem counts.
            self.pass(batch).await?;
            taken?;
            if !self.is_continued(read)? {
                return Ok(());
            }
        }
    }

    /// Whether there was more of a watch.
    ///
    /// Where everything was read, silence is no problem: an API server sends a bookmark only if it knows of a newer
    /// version than the last, which etcd tells it of every ten minutes unless it is set up otherwise. Whether it is still
    /// there shows the next watch.
    fn is_continued(&self, read: Result<bool, Problem>) -> Result<bool, Problem> {
        match read {
            Err(Problem::Stalled(_)) if !self.is_reading() => {
                tracing::debug!(kind = self.selection.kind.plural(), "a silent watch is begun anew");
                Ok(false)
            }
            read => read,
        }
    }

    fn is_reading(&self) -> bool {
        matches!(self.progress, Progress::Unread { .. })
    }

    fn take(&mut self, line: &[u8], batch: &mut Batch) -> Result<(), Problem> {
        match event::read(line).map_err(|error| Problem::Nonsense(chain(&error)))? {
            Event::Put(json) => self.put(json.as_bytes(), batch),
            Event::Gone(json) => self.remove(json.as_bytes(), batch),
            Event::Bookmark { version, .. } if version < self.began => Err(Problem::LostHistory),
            Event::Bookmark { version, ends_beginning } => {
                self.known.settle(version);
                if ends_beginning {
                    self.end_round(batch);
                    self.progress = Progress::Upto(version);
                    self.began = version;
                }
                self.advance(version);
                Ok(())
            }
            Event::Error(status) => Err(Problem::of_status(&status, self.selection.kind)),
        }
    }

    fn put(&mut self, json: &[u8], batch: &mut Batch) -> Result<(), Problem> {
        let Some(Sent { name, version, object }) = self.read(json, batch) else { return Ok(()) };
        if let Progress::Unread { .. } = self.progress {
            self.known.list(name, version);
        } else if !self.known.put(name, version) {
            return Ok(());
        } else if version < self.began {
            return Err(Problem::LostHistory);
        }
        self.advance(version);
        batch.put(object, self.shared.reader);
        Ok(())
    }

    fn remove(&mut self, json: &[u8], batch: &mut Batch) -> Result<(), Problem> {
        let metadata = slim::metadata(json).map_err(|error| Problem::Nonsense(error.to_string()))?;
        let (name, version) = (metadata.name(), metadata.version());
        if self.known.remove(name.clone(), version) {
            self.advance(version);
            batch.remove(self.id(name), self.shared.reader);
        }
        Ok(())
    }

    /// One that cannot be read leaves what was known of it as it was, but it is there.
    fn read(&self, json: &[u8], batch: &mut Batch) -> Option<Sent> {
        let kind = self.selection.kind;
        let error = match slim::read(kind, json) {
            Ok((metadata, object)) => return Some(Sent::new(&metadata, Some(object))),
            Err(error) => error,
        };
        match slim::metadata(json) {
            Ok(metadata) => {
                let sent = Sent::new(&metadata, None);
                batch.skip(self.id(sent.name.clone()).to_string(), error);
                Some(sent)
            }
            Err(error) => {
                batch.skip(kind.name().to_owned(), error);
                None
            }
        }
    }

    /// Events are not sent in the order of versions by everybody who stands between us and the server.
    fn advance(&mut self, version: u64) {
        if let Progress::Upto(known) = &mut self.progress {
            *known = version.max(*known);
        }
    }

    /// Reads everything page by page.
    async fn list(&mut self, floor: Option<u64>) -> Result<(), Ended> {
        self.known.begin_round();
        let first = Query::with_some(self.list_query(), "resourceVersion", floor);
        let mut query = first.with_some("resourceVersionMatch", floor.map(|_| "NotOlderThan"));
        loop {
            let body = self.get(&query).await?;
            let page = self.page(body).await?;
            if page.r#continue.is_empty() {
                let version = page.resource_version.parse();
                let version =
                    version.map_err(|_| Problem::Nonsense("a list without a version".to_owned()))?;
                let mut batch = Batch::default();
                self.end_round(&mut batch);
                self.progress = Progress::Upto(version);
                return Ok(self.pass(batch).await?);
            }
            query = self.list_query().with("continue", page.r#continue);
        }
    }

    fn list_query(&self) -> Query {
        self.selection.query().with("limit", PAGE)
    }

    async fn page(&mut self, mut body: Body) -> Result<ListMetadata, Ended> {
        let mut items = Items::default();
        let silence = self.shared.timing.silence;
        loop {
            let mut batch = Batch::default();
            let take = |bytes: &[u8]| items.push(bytes, |json| self.list_item(json, &mut batch));
            let is_over = !body.read(silence, take).await?;
            self.pass(batch).await?;
            if is_over {
                let metadata = items.finish().map_err(|error| Problem::Broken(error.to_string()))?;
                return Ok(metadata);
            }
        }
    }

    fn list_item(&mut self, json: &[u8], batch: &mut Batch) {
        if let Some(Sent { name, version, object }) = self.read(json, batch) {
            self.known.list(name, version);
            batch.put(object, self.shared.reader);
        }
    }

    /// Everything was read: what was not among it is gone.
    fn end_round(&mut self, batch: &mut Batch) {
        for name in self.known.end_round() {
            batch.remove(self.id(name), self.shared.reader);
        }
        batch.is_everything = true;
    }

    async fn pass(&self, batch: Batch) -> Result<(), Closed> {
        self.shared.outlet.pass(batch.update).await?;
        if batch.is_everything {
            self.shared.outlet.synced(self.selection.kind).await?;
        }
        Ok(())
    }

    fn id(&self, (namespace, name): Name) -> ObjectId {
        ObjectId { kind: self.selection.kind, namespace, name }
    }
}

impl Batch {
    fn skip(&mut self, object: String, reason: impl ToString) {
        self.update.skipped.push(Skipped { object, reason: reason.to_string() });
    }

    fn put(&mut self, object: Option<Object>, reader: &Reader) {
        let Some(object) = object else { return };
        let describe = || object.id().map_or_else(|error| error.to_string(), |id| id.to_string());
        self.update.names.extend(reader.names(&object));
        match reader.change(&object) {
            Ok(Some(read)) => {
                for error in &read.left_out {
                    self.skip(describe(), error);
                }
                self.update.changes.push(read.value);
            }
            Ok(None) => {}
            Err(error) => self.skip(describe(), error),
        }
    }

    fn remove(&mut self, id: ObjectId, reader: &Reader) {
        let Meaning { change, names } = reader.removal(&id);
        self.update.changes.extend(change);
        self.update.names.extend(names);
    }
}
