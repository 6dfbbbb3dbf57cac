//! Timeouts and backoff of the watches.

use std::time::Duration;

/// Timeouts and backoff of the watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A watch without any data for this time, not even the bookmark of every minute, may be dead: it is restarted.
    pub idle_timeout: Duration,
    /// Lower bound of `timeoutSeconds`. The upper bound is twice as much: the jitter spreads watches over servers.
    pub min_watch: Duration,
    pub initial_backoff: Duration,
    pub max_backoff: Duration,
    /// Retry interval for an optional kind that the server does not serve: the server may be upgraded.
    pub missing_kind_retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(100),
            min_watch: Duration::from_secs(300),
            initial_backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(20),
            missing_kind_retry: Duration::from_secs(600),
        }
    }
}
