//! The setting of the directive `cache`.

use std::time::Duration;

use super::zones::Zones;

#[derive(Debug, Clone, PartialEq)]
pub struct Cache {
    /// Only names of these zones are cached.
    pub zones: Zones,
    pub success: Stored,
    pub denial: Stored,
    /// The TTL of an upstream's failure.
    pub servfail: Duration,
    pub prefetch: Option<Prefetch>,
    pub serve_stale: Option<ServeStale>,
    /// With `serve_stale`: a negative answer neither replaces nor hides a positive one that is fresh or stale. Off by
    /// default, as it masks the deletion of records (RFC 8767, section 4).
    pub prefer_positive: bool,
    /// Replies carry the TTL at the time of caching, not the remaining one.
    pub keep_ttl: bool,
}

/// Limits for positive or for negative answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Number of answers; 0 disables the store.
    pub capacity: usize,
    pub min_ttl: Duration,
    pub max_ttl: Duration,
    /// Zones whose names are not cached.
    pub except: Zones,
}

/// Popular answers are refreshed before they expire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefetch {
    /// Least number of queries ...
    pub amount: u32,
    /// ... with no gap longer than this.
    pub duration: Duration,
    /// The remaining part of the TTL at which an answer is refreshed.
    pub percentage: u8,
}

/// Expired answers are served while the upstream fails (RFC 8767).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeStale {
    pub duration: Duration,
    pub verify: Verify,
    /// The TTL of stale answers, in seconds.
    pub ttl: u32,
    /// The time after a failed refresh during which stale answers are served without another (RFC 8767, section 5).
    pub recheck: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verify {
    /// Reply with the stale answer, and query the upstream in the background.
    Immediate,
    /// Query the upstream first, with this timeout if there is one.
    First(Option<Duration>),
}

const CAPACITY: usize = 9984;
const MIN_TTL: Duration = Duration::from_secs(5);
const MAX_SUCCESS: Duration = Duration::from_secs(3600);
const MAX_DENIAL: Duration = Duration::from_secs(1800);

impl Default for Cache {
    fn default() -> Self {
        let stored =
            |max_ttl| Stored { capacity: CAPACITY, min_ttl: MIN_TTL, max_ttl, except: Zones::default() };
        Self {
            zones: Zones::all(),
            success: stored(MAX_SUCCESS),
            denial: stored(MAX_DENIAL),
            servfail: Duration::from_secs(5),
            prefetch: None,
            serve_stale: None,
            prefer_positive: false,
            keep_ttl: false,
        }
    }
}

impl Cache {
    /// `cache SECONDS`: an upper limit of all TTLs.
    pub fn capped_at(ttl: Duration) -> Self {
        let mut cache = Self::default();
        cache.success.max_ttl = ttl;
        cache.denial.max_ttl = ttl;
        cache
    }
}
