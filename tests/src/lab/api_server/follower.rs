//! A watch client like the agent's, without a kernel: it joins all received objects in an index.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use proxy::{
    index::Index,
    k8s::{
        access::{Access, Credentials},
        reader::Reader,
        watch::{self, Settings, Timing},
    },
    model::{frontend::Frontend, policy::Policy},
    source_state::SourceState,
    update::Update,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

pub const NODE: &str = "node-1";
const TIMEOUT: Duration = Duration::from_secs(60);

pub struct Follower {
    updates: mpsc::Receiver<Update>,
    index: Index,
    pub is_synced: bool,
    /// Number of changes that changed the index.
    pub news: usize,
    /// Skipped objects, with the reason.
    pub skipped: Vec<String>,
}

/// The agent's timing, with shorter intervals for tests.
pub fn timing() -> Timing {
    Timing {
        idle_timeout: Duration::from_secs(2),
        min_watch: Duration::from_secs(300),
        initial_backoff: Duration::from_millis(20),
        max_backoff: Duration::from_millis(200),
        missing_kind_retry: Duration::from_millis(300),
    }
}

impl Follower {
    pub async fn start(kubeconfig: &Path) -> Result<Self> {
        Self::start_with(kubeconfig, timing()).await
    }

    pub async fn start_with(kubeconfig: &Path, timing: Timing) -> Result<Self> {
        let access = Access { credentials: Credentials::Kubeconfig(vec![kubeconfig.to_owned()]), url: None };
        Self::start_as(access, timing).await
    }

    pub async fn start_as(access: Access, timing: Timing) -> Result<Self> {
        let reader = Reader { node_name: NODE.to_owned(), dns: None };
        let updates =
            watch::watch(Settings { access, reader, timing, state: SourceState::default() }).await?;
        let policy = Policy { node_name: NODE.to_owned(), ..Policy::default() };
        Ok(Self { updates, index: Index::new(policy), is_synced: false, news: 0, skipped: Vec::new() })
    }

    /// Waits until everything was read once.
    pub async fn synced(&mut self) {
        self.until("everything was read", |follower| follower.is_synced).await;
    }

    /// Processes updates until this holds.
    pub async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !holds(self) {
            match timeout_at(deadline, self.updates.recv()).await {
                Ok(Some(update)) => self.take(update),
                Ok(None) => panic!("the watch ended before this held: {what}"),
                Err(_) => panic!("not within {TIMEOUT:?}: {what}; now {:?}", self.backends_by_service()),
            }
        }
    }

    /// Processes updates for this time. Errors: one changed the index.
    pub async fn stays_unchanged_for(&mut self, time: Duration) -> Result<()> {
        let (deadline, before) = (Instant::now() + time, self.news);
        while let Ok(Some(update)) = timeout_at(deadline, self.updates.recv()).await {
            self.take(update);
        }
        ensure!(self.news == before, "{} changes were news", self.news - before);
        Ok(())
    }

    fn take(&mut self, update: Update) {
        self.is_synced |= update.is_synced;
        self.skipped
            .extend(update.skipped.into_iter().map(|skip| format!("{}: {}", skip.object, skip.reason)));
        for change in update.changes {
            self.news += usize::from(!self.index.apply(change).is_empty());
        }
    }

    pub fn frontends(&self) -> usize {
        self.index.frontends().count()
    }

    /// The backends of a Service, by its name. Returns `None` if there is no frontend of that name.
    pub fn backends(&self, service: &str) -> Option<Vec<String>> {
        let frontend = self.index.frontends().find(|frontend| *frontend.service.service.name == *service)?;
        Some(addresses(&frontend))
    }

    pub fn node_addresses(&self) -> usize {
        self.index.node_info().map_or(0, |node| node.addresses.len())
    }

    fn backends_by_service(&self) -> Vec<(String, usize)> {
        let frontends = self.index.frontends().take(5);
        frontends.map(|frontend| (frontend.service.to_string(), frontend.internal.backends.len())).collect()
    }
}

fn addresses(frontend: &Frontend) -> Vec<String> {
    frontend.internal.backends.iter().map(|backend| backend.address.to_string()).collect()
}
