//! Zones that are kept in memory and renewed, and the answers from them: those of `file` and `secondary`.

use std::{fmt, net::IpAddr, sync::Arc, time::SystemTime};

use arc_swap::ArcSwapOption;
use hickory_server::proto::{
    op::{Query, ResponseCode},
    rr::{LowerName, RecordType},
};
use tracing::warn;

use super::directive::LocalPlugin;
use crate::{
    config::Zones,
    observe::metrics::Plugin,
    resolve::reply::Reply,
    zone_data::{Found, Invalid, Outcome, Zone},
};

/// A zone with its setting.
pub(super) trait KeptZone: fmt::Debug + Send + Sync + 'static {
    /// The metrics label.
    const PLUGIN: Plugin;

    fn origin(&self) -> &LowerName;

    /// `None` while there is none: SERVFAIL.
    fn zone(&self) -> &ArcSwapOption<Zone>;

    /// Zones in which a missing name falls through to the next plugin. Empty: none.
    fn fallthrough(&self) -> &Zones;

    /// As [`LocalPlugin::notified`].
    fn notified(&self, _client: IpAddr) -> Option<bool> {
        None
    }
}

/// The zones of all settings of one block.
#[derive(Debug)]
pub(super) struct KeptZones<Z>(pub(super) Vec<Arc<Z>>);

impl<Z> KeptZones<Z> {
    /// One zone for each origin of a setting.
    pub(super) fn start<S>(
        settings: &[S],
        origins: impl Fn(&S) -> &Zones,
        start: impl Fn(&S, &LowerName) -> Arc<Z>,
    ) -> Self {
        let of_setting = |setting| {
            let all = origins(setting).0.iter().map(|origin| start(setting, origin));
            all.collect::<Vec<_>>()
        };
        Self(settings.iter().flat_map(of_setting).collect())
    }
}

impl<Z: KeptZone> KeptZones<Z> {
    /// Of two settings with one zone, the last is used, as in CoreDNS.
    fn with_origin(&self, origin: &LowerName) -> Option<&Arc<Z>> {
        self.0.iter().rfind(|kept| kept.origin() == origin)
    }
}

impl<Z: KeptZone> KeptZones<Z> {
    fn reply(&self, question: &Query, wants_dnssec: bool) -> Option<Reply> {
        let name = LowerName::new(question.name());
        let matching = self.0.iter().filter(|kept| kept.origin().zone_of(&name));
        // The parent has the DS records of a zone (RFC 4035, section 3.1.4.1).
        let is_parent = |kept: &Arc<Z>| question.query_type() != RecordType::DS || *kept.origin() != name;
        let kept = matching.max_by_key(|kept| (is_parent(kept), kept.origin().iter().count()))?;
        let Some(zone) = &*kept.zone().load() else {
            return Some(Reply::from_plugin(ResponseCode::ServFail, Z::PLUGIN));
        };
        let found = zone.lookup(question.name(), question.query_type(), wants_dnssec);
        let is_missing = found.outcome == Outcome::NxDomain && found.answers.is_empty();
        if is_missing && kept.fallthrough().contains(&name) {
            return None;
        }
        Some(reply(found, Z::PLUGIN))
    }
}

impl<Z: KeptZone> LocalPlugin for KeptZones<Z> {
    fn answer(&self, question: &Query) -> Option<Reply> {
        self.reply(question, false)
    }

    fn answer_with_dnssec(&self, question: &Query) -> Option<Reply> {
        self.reply(question, true)
    }

    fn follows_cluster(&self) -> bool {
        true
    }

    fn zone(&self, origin: &LowerName) -> Option<Arc<Zone>> {
        self.with_origin(origin)?.zone().load_full()
    }

    fn serials(&self) -> Vec<(LowerName, u32)> {
        let serial = |kept: &Arc<Z>| Some((kept.origin().clone(), kept.zone().load().as_ref()?.serial()));
        self.0.iter().filter_map(serial).collect()
    }

    fn notified(&self, origin: &LowerName, client: IpAddr) -> Option<bool> {
        self.with_origin(origin)?.notified(client)
    }
}

/// Logs, once for each version of a zone, that some of its signatures are not valid: validators refuse the answers.
pub(super) fn check_signatures(zone: &Zone, origin: &LowerName) {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    // Times of signatures are modulo 2^32 (RFC 4034, section 3.1.5).
    let now = u32::try_from(since_1970 & u64::from(u32::MAX)).unwrap_or_default();
    let serial = zone.serial();
    match zone.invalid_signatures(now) {
        None => {}
        Some(Invalid::Expired) => warn!(zone = %origin, serial, "signatures of the zone have expired"),
        Some(Invalid::NotYetValid) => {
            warn!(zone = %origin, serial, "signatures of the zone are not yet valid")
        }
    }
}

/// The reply with these records.
pub(super) fn reply(found: Found, plugin: Plugin) -> Reply {
    let Found { outcome, answers, authorities, additionals } = found;
    let rcode = match outcome {
        Outcome::Answer | Outcome::Referral | Outcome::NoData => ResponseCode::NoError,
        Outcome::NxDomain => ResponseCode::NXDomain,
        Outcome::TooLong => ResponseCode::YXDomain,
        Outcome::Loop => return Reply::from_plugin(ResponseCode::ServFail, plugin),
    };
    // A referral is not authoritative, but an alias before it is.
    let authoritative = outcome != Outcome::Referral || !answers.is_empty();
    Reply { authoritative, answers, authorities, additionals, ..Reply::from_plugin(rcode, plugin) }
}
