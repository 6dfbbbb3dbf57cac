//! The responses of /healthz and /livez: whether changes are programmed in time, and whether new
//! load-balancer traffic should come to this node. Pure: time is passed in, sockets are elsewhere.

mod service;

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use crate::model::address::{IpFamily, PerFamily};

pub use service::{ServiceHealth, service_response};

/// A response to an HTTP client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthResponse {
    pub is_ok: bool,
    /// JSON.
    pub body: String,
}

impl HealthResponse {
    pub fn status(&self) -> u16 {
        if self.is_ok { 200 } else { 503 }
    }
}

/// The health of both families. A family is unhealthy if a change is overdue; hours without a change are
/// healthy.
#[derive(Clone, Debug)]
pub struct ProxyHealth {
    timeout: Duration,
    families: PerFamily<FamilyHealth>,
    /// `None`: the Node object was never seen.
    is_node_eligible: Option<bool>,
    /// The agent's loop hangs and does not even receive changes, so none is overdue.
    hangs: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct FamilyHealth {
    updated: Option<Timestamp>,
    /// The time of the oldest change that is not programmed yet.
    pending_since: Option<Timestamp>,
}

/// Fields as kube-proxy names them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<String, FamilyBody>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyBody {
    last_updated: String,
    healthy: bool,
}

/// Go's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";

impl ProxyHealth {
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, families: PerFamily::default(), is_node_eligible: None, hangs: false }
    }

    /// A change was received. Later ones do not move the time.
    pub fn queued(&mut self, family: IpFamily, now: Timestamp) {
        self.families.get_mut(family).pending_since.get_or_insert(now);
    }

    /// All received changes are programmed.
    pub fn updated(&mut self, family: IpFamily, now: Timestamp) {
        *self.families.get_mut(family) = FamilyHealth { updated: Some(now), pending_since: None };
    }

    pub fn set_node_eligible(&mut self, is_eligible: Option<bool>) {
        self.is_node_eligible = is_eligible;
    }

    pub fn set_hanging(&mut self, hangs: bool) {
        self.hangs = hangs;
    }

    pub fn hangs(&self) -> bool {
        self.hangs
    }

    pub fn is_healthy(&self, now: Timestamp) -> bool {
        !self.hangs && IpFamily::BOTH.into_iter().all(|family| self.is_family_healthy(family, now))
    }

    /// The last time at which a family was synced.
    pub fn last_updated(&self) -> Option<Timestamp> {
        IpFamily::BOTH.into_iter().filter_map(|family| self.families.get(family).updated).max()
    }

    pub fn pending_since(&self) -> Option<Timestamp> {
        IpFamily::BOTH.into_iter().filter_map(|family| self.families.get(family).pending_since).min()
    }

    pub fn livez(&self, now: Timestamp) -> HealthResponse {
        self.response(self.is_healthy(now), None, now)
    }

    /// Includes whether the node stays: load balancers move new traffic away before it is deleted.
    pub fn healthz(&self, now: Timestamp) -> HealthResponse {
        let is_eligible = self.is_node_eligible.unwrap_or_default();
        self.response(self.is_healthy(now) && is_eligible, Some(is_eligible), now)
    }

    fn is_family_healthy(&self, family: IpFamily, now: Timestamp) -> bool {
        let since = self.families.get(family).pending_since;
        since.is_none_or(|since| now.duration_since(since).unsigned_abs() < self.timeout)
    }

    fn response(&self, is_ok: bool, node_eligible: Option<bool>, now: Timestamp) -> HealthResponse {
        // A response with status 200 has the present as the last update, as if rules were written all the
        // time: clients rely on it.
        let last_updated = if is_ok { Some(now) } else { self.last_updated() };
        let body = Body {
            last_updated: text(last_updated),
            current_time: now.to_string(),
            node_eligible,
            healthy: self.is_healthy(now),
            status: self.status(now),
        };
        HealthResponse { is_ok, body: serde_json::to_string(&body).unwrap_or_default() }
    }

    fn status(&self, now: Timestamp) -> BTreeMap<String, FamilyBody> {
        let started =
            IpFamily::BOTH.into_iter().filter(|family| self.families.get(*family).updated.is_some());
        started
            .map(|family| {
                let last_updated = text(self.families.get(family).updated);
                let healthy = self.is_family_healthy(family, now);
                (family.to_string(), FamilyBody { last_updated, healthy })
            })
            .collect()
    }
}

fn text(time: Option<Timestamp>) -> String {
    time.map_or_else(|| NEVER.to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn health() -> ProxyHealth {
        ProxyHealth::new(Duration::from_secs(60))
    }

    #[test]
    fn a_change_is_late_after_the_timeout_and_in_its_family_only() {
        let mut health = health();
        assert!(health.is_healthy(at(0)), "before anything happened");
        health.updated(IpFamily::V4, at(0));
        health.updated(IpFamily::V6, at(0));
        assert!(health.is_healthy(at(100_000)), "no change is pending");
        health.queued(IpFamily::V6, at(100));
        health.queued(IpFamily::V6, at(150));
        assert!(health.is_healthy(at(159)), "not late yet");
        assert!(!health.is_healthy(at(160)), "the oldest change counts");
        health.updated(IpFamily::V4, at(161));
        assert!(!health.is_healthy(at(161)), "the other family does not help");
        health.updated(IpFamily::V6, at(162));
        assert!(health.is_healthy(at(1000)));
    }

    #[test]
    fn an_agent_that_hangs_is_not_healthy_though_nothing_is_late() {
        let mut health = health();
        health.updated(IpFamily::V4, at(0));
        health.set_hanging(true);
        assert_eq!((health.is_healthy(at(1)), health.livez(at(1)).status()), (false, 503));
        health.set_hanging(false);
        assert_eq!(health.livez(at(1)).status(), 200);
    }

    #[test]
    fn a_node_that_goes_is_not_healthy_but_live() {
        for (eligible, status) in [(None, 503), (Some(false), 503), (Some(true), 200)] {
            let mut health = health();
            health.updated(IpFamily::V4, at(0));
            health.set_node_eligible(eligible);
            assert_eq!(health.healthz(at(1)).status(), status, "{eligible:?}");
            assert_eq!(health.livez(at(1)).status(), 200, "{eligible:?}");
        }
    }

    #[test]
    fn bodies_are_kube_proxys() {
        let mut health = health();
        assert_eq!(
            health.healthz(at(0)).body,
            r#"{"lastUpdated":"0001-01-01T00:00:00Z","currentTime":"2023-11-14T22:13:20Z","nodeEligible":false,"healthy":true}"#
        );
        health.set_node_eligible(Some(true));
        health.updated(IpFamily::V4, at(0));
        health.updated(IpFamily::V6, at(5));
        assert_eq!(
            health.healthz(Timestamp::from_millisecond(1_700_000_010_250).unwrap()).body,
            r#"{"lastUpdated":"2023-11-14T22:13:30.25Z","currentTime":"2023-11-14T22:13:30.25Z","nodeEligible":true,"healthy":true,"#.to_owned()
                + r#""status":{"IPv4":{"lastUpdated":"2023-11-14T22:13:20Z","healthy":true},"IPv6":{"lastUpdated":"2023-11-14T22:13:25Z","healthy":true}}}"#
        );
        health.queued(IpFamily::V4, at(10));
        assert_eq!(
            health.livez(at(70)).body,
            r#"{"lastUpdated":"2023-11-14T22:13:25Z","currentTime":"2023-11-14T22:14:30Z","healthy":false,"#
                .to_owned()
                + r#""status":{"IPv4":{"lastUpdated":"2023-11-14T22:13:20Z","healthy":false},"IPv6":{"lastUpdated":"2023-11-14T22:13:25Z","healthy":true}}}"#
        );
    }
}
