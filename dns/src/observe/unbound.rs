//! The listening addresses that cannot be bound, for logs, status and metrics.

use std::{
    collections::BTreeMap,
    error::Error,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tracing::{info, warn};

/// The delay before the first retry of a failed bind; each further one is twice as long.
pub const FIRST_RETRY: Duration = Duration::from_secs(1);
pub const LAST_RETRY: Duration = Duration::from_secs(30);

pub fn next_retry(delay: Duration) -> Duration {
    (delay * 2).min(LAST_RETRY)
}

/// An address of one server: DNS, or an endpoint over HTTP.
type Key = (&'static str, SocketAddr);

/// The addresses that cannot be bound now, each with its error.
#[derive(Clone, Debug, Default)]
pub struct Unbound(Arc<Mutex<BTreeMap<Key, String>>>);

impl Unbound {
    /// Records a failure. Logs the first one of an address.
    pub fn insert(&self, server: &'static str, address: SocketAddr, error: &dyn Error) {
        let error = with_causes(error);
        if self.map().insert((server, address), error.clone()).is_none() {
            warn!(server, %address, error, "cannot listen, will retry");
        }
    }

    /// Records that the address is bound or not wanted any more.
    pub fn remove(&self, server: &'static str, address: SocketAddr) {
        if self.map().remove(&(server, address)).is_some() {
            info!(server, %address, "listening again, or not to be served any more");
        }
    }

    /// The addresses of one server.
    pub fn addresses(&self, server: &'static str) -> Vec<SocketAddr> {
        self.map().keys().filter(|key| key.0 == server).map(|key| key.1).collect()
    }

    /// One error for each address.
    pub fn errors(&self) -> Vec<String> {
        self.map().values().cloned().collect()
    }

    fn map(&self) -> MutexGuard<'_, BTreeMap<Key, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error and its causes in one line.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}
