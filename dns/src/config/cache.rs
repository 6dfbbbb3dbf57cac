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
    /// `None`: [`LastKnownGood`] applies.
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

named_enum! {
    /// What becomes of a cached answer whose name the upstreams cannot resolve any more, or deny: the policy of a block
    /// whose Corefile has no `serve_stale`, which says it otherwise.
    pub enum LastKnownGood {
        /// It is dropped when it expires, as in CoreDNS.
        Off = "off",
        /// It is served while all upstreams fail (RFC 8767).
        Failures = "failures",
        /// Also: a denial of a name that several clients have just resolved counts only if no other upstream
        /// contradicts it, and is then kept for seconds (RFC 2308 limits the time from above only).
        Confirm = "confirm",
        /// Also: it is served for some minutes although all upstreams deny the name. Masks the deletion of records,
        /// which RFC 8767, section 4, does not allow.
        Hold = "hold",
    }
}

/// How denials of names that were resolved just before are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doubt {
    /// The time after the expiry of an answer in which a denial of its name is doubted.
    pub window: Duration,
    /// Whether the answer is served in spite of a denial by all upstreams.
    pub holds: bool,
}

#[expect(clippy::derivable_impls, reason = "the macro passes no attributes to the derive")]
impl Default for LastKnownGood {
    fn default() -> Self {
        Self::Confirm
    }
}

impl LastKnownGood {
    /// How expired answers are served while the upstreams fail, `recheck` after one another.
    pub fn serve_stale(self, recheck: Duration) -> Option<ServeStale> {
        let stale = ServeStale {
            duration: Duration::from_secs(3600),
            // RFC 8767, section 5: the client response timer, and the TTL.
            verify: Verify::First(Some(Duration::from_millis(1800))),
            ttl: 30,
            recheck,
        };
        (self != Self::Off).then_some(stale)
    }

    /// Returns `None` if denials are believed at once.
    pub fn doubt(self) -> Option<Doubt> {
        match self {
            Self::Off | Self::Failures => None,
            Self::Confirm => Some(Doubt { window: Duration::from_secs(60), holds: false }),
            Self::Hold => Some(Doubt { window: Duration::from_secs(300), holds: true }),
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }
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
