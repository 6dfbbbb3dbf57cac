//! What of a DNS server does not work and is retried, for logs, status and metrics.

use std::{
    collections::BTreeMap,
    error::Error,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tracing::{info, warn};

/// The delay before the first retry; each further one is twice as long.
pub const FIRST_RETRY: Duration = Duration::from_secs(1);
pub const LAST_RETRY: Duration = Duration::from_secs(30);

pub fn next_retry(delay: Duration) -> Duration {
    (delay * 2).min(LAST_RETRY)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The configuration file.
    Corefile,
    /// The start of a server from a valid configuration.
    Server,
    /// A listening address of DNS, or of an endpoint over HTTP.
    Address(&'static str, SocketAddr),
}

/// The parts that do not work now, each with its error.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<BTreeMap<Part, String>>>);

impl Faults {
    /// Records a failure. Logs the first one of a part.
    pub fn insert(&self, part: Part, error: &dyn Error) {
        let error = with_causes(error);
        if self.map().insert(part, error.clone()).is_none() {
            warn!(%part, error, "DNS is degraded, will retry");
        }
    }

    /// Records that the part works or is not wanted any more.
    pub fn remove(&self, part: Part) {
        if self.map().remove(&part).is_some() {
            info!(%part, "works again, or is not wanted any more");
        }
    }

    /// The addresses of one server that cannot be bound.
    pub fn addresses(&self, server: &'static str) -> Vec<SocketAddr> {
        let of_server = |part: &Part| match part {
            Part::Address(name, address) if *name == server => Some(*address),
            Part::Address(..) | Part::Corefile | Part::Server => None,
        };
        self.map().keys().filter_map(of_server).collect()
    }

    /// One error for each part.
    pub fn errors(&self) -> Vec<String> {
        self.map().values().cloned().collect()
    }

    fn map(&self) -> MutexGuard<'_, BTreeMap<Part, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corefile => f.write_str("Corefile"),
            Self::Server => f.write_str("DNS server"),
            Self::Address(server, address) => write!(f, "{server} at {address}"),
        }
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
