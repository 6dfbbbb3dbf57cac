//! The reflector of one kind: list, watch, resume from the last resourceVersion, relist.
//!
//! ```text
//! list (streaming, else paginated) ──> watch from its resourceVersion ──> ended: watch from the last version
//!          ^                                                         └──> 410 Gone, lost history ─┐
//!          └──────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Invariant: the updates sent add up to the server's last state of each object. A relist sends all existing objects
//! before the deletions.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    api::{Api, Body, Query},
    backoff::Backoff,
    error::{ApiError, FailureLog},
    event::{self, Event, Lines},
    items::{Items, ListMetadata},
    selection::Selection,
    timing::Timing,
    update_sender::{Closed, UpdateSender},
    versions::{Name, ObjectVersions},
};
use crate::{
    k8s::{
        ObjectError,
        lenient::{self, Lenient},
        names::intern,
        object::{Object, ObjectId},
        reader::{ObjectChanges, Reader},
    },
    source_state::SourceState,
    update::{Skipped, Update},
};

/// `limit` of a paginated list, if the server paginates at all.
const PAGE_SIZE: u32 = 500;

/// A session of at least this many initial backoffs counts as healthy and resets the backoff.
const HEALTHY_SESSION: u32 = 5;

/// State shared by the reflectors of all kinds.
pub struct Shared<'a> {
    pub api: &'a Api,
    pub sender: &'a UpdateSender,
    pub failures: &'a FailureLog,
    pub state: &'a SourceState,
    pub reader: &'a Reader,
    pub timing: Timing,
}

pub struct Reflector<'a> {
    selection: Selection,
    shared: &'a Shared<'a>,
    versions: ObjectVersions,
    progress: Progress,
    /// The resourceVersion that the current watch started from: a lower version in it means lost history.
    start_version: u64,
    /// The server supports streaming lists (`sendInitialEvents`, KEP-3157). Assumed again at the next start of the agent.
    has_watch_list: bool,
    /// The server does not serve the kind.
    is_missing: bool,
    /// The server sent a response in this session.
    has_response: bool,
}

/// The state of the reflector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// A list is due. It must not be older than `min_version`; `None`: the most recent state (quorum read).
    Unlisted { min_version: Option<u64> },
    /// All changes up to this resourceVersion were sent.
    Synced(u64),
}

/// The reason a session ended.
enum SessionError {
    Closed,
    Api(ApiError),
}

impl From<Closed> for SessionError {
    fn from(Closed: Closed) -> Self {
        Self::Closed
    }
}

impl From<ApiError> for SessionError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

/// An object from the server. `object` is `None` if it is malformed.
struct Received {
    name: Name,
    version: u64,
    object: Option<Object>,
}

/// The updates from one chunk of a response.
#[derive(Default)]
struct Batch {
    update: Update,
    /// The list is complete with this batch.
    completes_list: bool,
}

impl<'a> Reflector<'a> {
    pub fn new(selection: Selection, shared: &'a Shared<'a>) -> Self {
        let progress = Progress::Unlisted { min_version: Some(0) };
        Self {
            selection,
            shared,
            versions: ObjectVersions::default(),
            progress,
            start_version: 0,
            has_watch_list: true,
            is_missing: false,
            has_response: false,
        }
    }

    /// Lists and watches the kind until the receiver of updates is dropped.
    pub async fn run(mut self) {
        let Timing { initial_backoff, max_backoff, .. } = self.shared.timing;
        let mut backoff = Backoff::new(initial_backoff, max_backoff);
        loop {
            self.has_response = false;
            let (start, result) = (Instant::now(), self.session().await);
            // A session that lasted resets the backoff even if it ended with an error. Otherwise each restart of the server
            // would lengthen the next delay.
            if self.has_response && start.elapsed() >= initial_backoff * HEALTHY_SESSION {
                backoff.reset();
            }
            match result {
                // A server may end a watch at any time. One that ends watches at once is not healthy.
                Ok(()) if start.elapsed() >= initial_backoff => backoff.reset(),
                Ok(()) => sleep(backoff.next_delay()).await,
                Err(SessionError::Closed) => return,
                Err(SessionError::Api(error)) => match self.recover(&error, &mut backoff).await {
                    Ok(delay) => sleep(delay).await,
                    Err(Closed) => return,
                },
            }
        }
    }

    /// One request cycle: a watch, or a list with the watch that continues it.
    async fn session(&mut self) -> Result<(), SessionError> {
        match self.progress {
            Progress::Synced(version) => self.watch(version).await,
            Progress::Unlisted { min_version } if self.has_watch_list => self.watch_list(min_version).await,
            Progress::Unlisted { min_version } => self.list(min_version).await,
        }
    }

    /// Sets the state after an error and returns the delay before the next session.
    async fn recover(&mut self, error: &ApiError, backoff: &mut Backoff) -> Result<Duration, Closed> {
        if error.concerns_credentials() {
            self.shared.api.forget_credentials();
        }
        if matches!(error, ApiError::Expired | ApiError::LostHistory) {
            return Ok(self.relist(error, backoff));
        }
        if self.is_watch_list() && error.rules_out_streaming() {
            let kind = self.selection.kind.plural();
            tracing::info!(kind, reason = %error, "the API server does not stream the list, reading it in pages");
            self.has_watch_list = false;
            return Ok(Duration::ZERO);
        }
        if matches!(error, ApiError::NotServed(_) | ApiError::Forbidden(_)) && self.selection.is_optional() {
            return self.set_missing(error).await;
        }
        self.shared.failures.record(self.selection.kind, error);
        self.shared.state.failed(self.selection.kind.plural(), error.failure());
        Ok(backoff.next_delay().max(error.retry_after()))
    }

    fn is_watch_list(&self) -> bool {
        self.has_watch_list && self.is_listing()
    }

    /// Requests a relist. The list must not be older than the known state, unless the server lost its history.
    fn relist(&mut self, error: &ApiError, backoff: &mut Backoff) -> Duration {
        let kind = self.selection.kind.plural();
        tracing::info!(kind, reason = %error, "relist");
        let (min_version, delay) = match (self.progress, error) {
            (Progress::Synced(version), ApiError::Expired) => (Some(version), Duration::ZERO),
            (Progress::Synced(_), _) => (None, Duration::ZERO),
            (Progress::Unlisted { .. }, _) => (None, backoff.next_delay()),
        };
        self.progress = Progress::Unlisted { min_version };
        delay
    }

    /// Treats a kind that the server does not serve as an empty list. Returns the delay before the next attempt.
    async fn set_missing(&mut self, error: &ApiError) -> Result<Duration, Closed> {
        if !self.is_missing {
            let kind = self.selection.kind.plural();
            tracing::info!(kind, reason = %error, "optional kind not available");
        }
        self.is_missing = true;
        self.shared.state.heard(self.selection.kind.plural());
        self.versions.begin_list();
        self.progress = Progress::Unlisted { min_version: None };
        let mut batch = Batch { completes_list: true, ..Batch::default() };
        self.end_list(&mut batch);
        self.send(batch).await?;
        Ok(self.shared.timing.missing_kind_retry)
    }

    /// Lists by a watch that starts with all existing objects as events, and continues it (KEP-3157).
    async fn watch_list(&mut self, min_version: Option<u64>) -> Result<(), SessionError> {
        let query = self
            .watch_query()
            .with("sendInitialEvents", true)
            .with("resourceVersionMatch", "NotOlderThan")
            .with_some("resourceVersion", min_version.filter(|version| *version != 0));
        let body = self.get(&query).await?;
        self.versions.begin_list();
        self.start_version = 0;
        self.read_events(body).await
    }

    async fn watch(&mut self, version: u64) -> Result<(), SessionError> {
        let body = self.get(&self.watch_query().with("resourceVersion", version)).await?;
        self.start_version = version;
        // Without bookmarks, tombstones are pruned here only.
        self.versions.prune_tombstones(version);
        self.read_events(body).await
    }

    fn watch_query(&self) -> Query {
        let seconds = self.shared.timing.min_watch.mul_f64(1.0 + fastrand::f64()).as_secs();
        self.selection
            .query()
            .with("watch", true)
            .with("allowWatchBookmarks", true)
            .with("timeoutSeconds", seconds.max(1))
    }

    async fn get(&mut self, query: &Query) -> Result<Body, ApiError> {
        let uri = query.target(self.selection.path());
        self.shared.state.asked(self.selection.kind.plural());
        let body = self.shared.api.get(self.selection.kind, &uri, self.shared.timing.idle_timeout).await?;
        self.shared.failures.clear(self.selection.kind);
        self.shared.state.heard(self.selection.kind.plural());
        self.has_response = true;
        Ok(body)
    }

    /// Sends the events of a watch as updates until the watch ends.
    async fn read_events(&mut self, mut body: Body) -> Result<(), SessionError> {
        let idle_timeout = self.shared.timing.idle_timeout;
        let mut lines = Lines::default();
        loop {
            let (mut batch, mut taken) = (Batch::default(), Ok(()));
            let take = |bytes: &[u8]| taken = lines.push(bytes, |line| self.handle_event(line, &mut batch));
            let read = body.read(idle_timeout, take).await;
            if read.is_ok() {
                self.shared.state.heard(self.selection.kind.plural());
            }
            // Events before an error count.
            self.send(batch).await?;
            taken?;
            if !self.is_continued(read)? {
                return Ok(());
            }
        }
    }

    /// Whether the watch continues.
    ///
    /// After the list, an idle timeout is not an error: an API server sends a bookmark only if it knows a newer version
    /// than the last, and etcd reports one every ten minutes by default (`--watch-progress-notify-interval`).
    /// The next watch shows whether the server is alive.
    fn is_continued(&self, read: Result<bool, ApiError>) -> Result<bool, ApiError> {
        match read {
            Err(ApiError::Stalled(_)) if !self.is_listing() => {
                tracing::debug!(kind = self.selection.kind.plural(), "idle watch restarted");
                Ok(false)
            }
            read => read,
        }
    }

    fn is_listing(&self) -> bool {
        matches!(self.progress, Progress::Unlisted { .. })
    }

    fn handle_event(&mut self, line: &[u8], batch: &mut Batch) -> Result<(), ApiError> {
        match event::read(line).map_err(|error| ApiError::Malformed(error.to_string()))? {
            Event::Apply(json) => self.apply(json.as_bytes(), batch),
            Event::Delete(json) => self.delete(json.as_bytes(), batch),
            Event::Bookmark { version, .. } if version < self.start_version => Err(ApiError::LostHistory),
            Event::Bookmark { version, ends_initial_events } => {
                self.versions.prune_tombstones(version);
                if ends_initial_events {
                    self.end_list(batch);
                    self.progress = Progress::Synced(version);
                    self.start_version = version;
                }
                self.advance(version);
                Ok(())
            }
            Event::Error(status) => Err(ApiError::of_status(&status, self.selection.kind)),
        }
    }

    fn apply(&mut self, json: &[u8], batch: &mut Batch) -> Result<(), ApiError> {
        let Some(Received { name, version, object }) = self.read(json, batch) else { return Ok(()) };
        if let Progress::Unlisted { .. } = self.progress {
            self.versions.insert_listed(name, version);
        } else if !self.versions.apply(name, version) {
            return Ok(());
        } else if version < self.start_version {
            return Err(ApiError::LostHistory);
        }
        self.advance(version);
        batch.apply(object, self.shared.reader);
        Ok(())
    }

    fn delete(&mut self, json: &[u8], batch: &mut Batch) -> Result<(), ApiError> {
        let read = lenient::metadata(&mut serde_json::Deserializer::from_slice(json));
        let metadata = read.map_err(|_| {
            ApiError::Malformed("a deleted object without metadata that can be read".to_owned())
        })?;
        let (name, version) = (name(&metadata), metadata.version);
        if self.versions.delete(name.clone(), version) {
            self.advance(version);
            batch.delete(self.id(name), self.shared.reader);
        }
        Ok(())
    }

    /// Reads an object. A malformed object is skipped: its last known state stays, and it counts as existing. A field of
    /// the wrong type is reported and treated as absent. Returns `None` if the object has no name.
    fn read(&self, json: &[u8], batch: &mut Batch) -> Option<Received> {
        let kind = self.selection.kind;
        let read = match lenient::read(kind, &mut serde_json::Deserializer::from_slice(json)) {
            Ok(read) => read,
            Err(error) => {
                batch.skip(kind.name().to_owned(), error);
                return None;
            }
        };
        let name = name(&read);
        let Lenient { version, object, faults, .. } = read;
        for fault in faults {
            batch.skip(self.id(name.clone()).to_string(), fault);
        }
        if name.1.is_empty() {
            batch.skip(kind.name().to_owned(), ObjectError::Nameless);
            return None;
        }
        Some(Received { name, version, object })
    }

    /// Raises the synced version. Events may be out of order behind an intermediary such as a caching proxy.
    fn advance(&mut self, version: u64) {
        if let Progress::Synced(known) = &mut self.progress {
            *known = version.max(*known);
        }
    }

    /// Lists page by page.
    async fn list(&mut self, min_version: Option<u64>) -> Result<(), SessionError> {
        self.versions.begin_list();
        let first = Query::with_some(self.list_query(), "resourceVersion", min_version);
        let mut query = first.with_some("resourceVersionMatch", min_version.map(|_| "NotOlderThan"));
        loop {
            let body = self.get(&query).await?;
            let page = self.read_page(body).await?;
            if page.r#continue.is_empty() {
                let version = page.resource_version.parse();
                let version = version
                    .map_err(|_| ApiError::Malformed("a list without a resourceVersion".to_owned()))?;
                let mut batch = Batch::default();
                self.end_list(&mut batch);
                self.progress = Progress::Synced(version);
                return Ok(self.send(batch).await?);
            }
            query = self.list_query().with("continue", page.r#continue);
        }
    }

    fn list_query(&self) -> Query {
        self.selection.query().with("limit", PAGE_SIZE)
    }

    async fn read_page(&mut self, mut body: Body) -> Result<ListMetadata, SessionError> {
        let mut items = Items::default();
        let idle_timeout = self.shared.timing.idle_timeout;
        loop {
            let mut batch = Batch::default();
            let take = |bytes: &[u8]| items.push(bytes, |json| self.list_item(json, &mut batch));
            let is_over = !body.read(idle_timeout, take).await?;
            self.shared.state.heard(self.selection.kind.plural());
            self.send(batch).await?;
            if is_over {
                let metadata = items.finish().map_err(|error| ApiError::Incomplete(list_fault(&error)))?;
                return Ok(metadata);
            }
        }
    }

    fn list_item(&mut self, json: &[u8], batch: &mut Batch) {
        if let Some(Received { name, version, object }) = self.read(json, batch) {
            self.versions.insert_listed(name, version);
            batch.apply(object, self.shared.reader);
        }
    }

    /// Ends a list: known objects that it did not contain are deleted.
    fn end_list(&mut self, batch: &mut Batch) {
        for name in self.versions.end_list() {
            batch.delete(self.id(name), self.shared.reader);
        }
        batch.completes_list = true;
    }

    async fn send(&self, batch: Batch) -> Result<(), Closed> {
        self.shared.sender.send(batch.update).await?;
        if batch.completes_list {
            self.shared.sender.synced(self.selection.kind).await?;
        }
        Ok(())
    }

    fn id(&self, (namespace, name): Name) -> ObjectId {
        ObjectId { kind: self.selection.kind, namespace, name }
    }
}

fn name(read: &Lenient) -> Name {
    (intern(&read.namespace), intern(&read.name))
}

impl Batch {
    fn skip(&mut self, object: String, reason: impl ToString) {
        self.update.skipped.push(Skipped::invalid(object, reason));
    }

    fn apply(&mut self, object: Option<Object>, reader: &Reader) {
        let Some(object) = object else { return };
        let describe = || object.id().map_or_else(|error| error.to_string(), |id| id.to_string());
        self.update.names.extend(reader.dns_change(&object));
        match reader.index_change(&object) {
            Ok(Some(read)) => {
                for error in &read.ignored {
                    self.skip(describe(), error);
                }
                self.update.changes.push(read.value);
            }
            Ok(None) => {}
            Err(error) => self.skip(describe(), error),
        }
    }

    fn delete(&mut self, id: ObjectId, reader: &Reader) {
        let ObjectChanges { index, dns } = reader.removal(&id);
        self.update.changes.extend(index);
        self.update.names.extend(dns);
    }
}

/// The fault of a list, which ends early or is none.
fn list_fault(error: &serde_json::Error) -> String {
    if error.is_eof() { "the list ends early" } else { "it is not a list in JSON" }.to_owned()
}

#[cfg(test)]
mod tests;
