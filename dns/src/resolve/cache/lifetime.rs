//! The lifetime of an answer in the cache.

use std::time::Duration;

use hickory_server::proto::{
    op::{Query, ResponseCode},
    rr::{RData, Record},
};

use crate::resolve::reply::Reply;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AnswerKind {
    Success,
    Denial,
    /// SERVFAIL or NOTIMP: the upstream could not resolve the name.
    Failure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lifetime {
    pub kind: AnswerKind,
    /// Seconds.
    pub ttl: u32,
}

/// Minimum and maximum lifetimes.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub success: (Duration, Duration),
    pub denial: (Duration, Duration),
    pub failure: Duration,
}

/// The lifetime of an answer. Clamps its TTLs to the limits, so clients see the clamped ones; RDATA is not changed, as
/// it may be signed (RFC 4034, section 3.1.8.1). Returns `None` when the answer is not cacheable.
pub(super) fn lifetime(reply: &mut Reply, question: &Query, limits: &Limits) -> Option<Lifetime> {
    if reply.truncated || question.query_type().is_any() {
        return None;
    }
    let kind = kind(reply, question)?;
    let ttl = match kind {
        AnswerKind::Failure => seconds(limits.failure),
        AnswerKind::Denial => {
            let (ttl, limits) = (denial_ttl(&reply.authorities)?, limits.denial);
            let ttl = clamp(ttl, limits);
            clamp_all(reply, limits);
            // Downstream caches must not keep the denial longer than this one (RFC 2308, section 5).
            reply.authorities.iter_mut().for_each(|record| record.ttl = record.ttl.min(ttl));
            ttl
        }
        AnswerKind::Success => {
            clamp_all(reply, limits.success);
            min_ttl(reply)?
        }
    };
    (ttl > 0).then_some(Lifetime { kind, ttl })
}

/// Returns `None` for a response code that is not cacheable.
fn kind(reply: &Reply, question: &Query) -> Option<AnswerKind> {
    let rcode = reply.rcode;
    if rcode == ResponseCode::NoError {
        return Some(if reply.is_nodata(question) { AnswerKind::Denial } else { AnswerKind::Success });
    }
    if rcode == ResponseCode::NXDomain {
        // With a CNAME chain, it is not clear which name of the chain does not exist.
        return reply.answers.is_empty().then_some(AnswerKind::Denial);
    }
    let has_failed = [ResponseCode::ServFail, ResponseCode::NotImp].contains(&rcode);
    has_failed.then_some(AnswerKind::Failure)
}

/// The TTL of a denial (RFC 2308, section 5). Returns `None` without a SOA: the denial is not cacheable.
fn denial_ttl(authorities: &[Record]) -> Option<u32> {
    authorities.iter().find_map(|record| {
        let RData::SOA(soa) = &record.data else { return None };
        Some(record.ttl.min(soa.minimum))
    })
}

fn min_ttl(reply: &Reply) -> Option<u32> {
    records(reply).map(|record| record.ttl).min()
}

fn records(reply: &Reply) -> impl Iterator<Item = &Record> {
    reply.answers.iter().chain(&reply.authorities).chain(&reply.additionals)
}

fn clamp_all(reply: &mut Reply, limits: (Duration, Duration)) {
    let Reply { answers, authorities, additionals, .. } = reply;
    for record in answers.iter_mut().chain(authorities).chain(additionals) {
        record.ttl = clamp(record.ttl, limits);
    }
}

fn clamp(ttl: u32, (min, max): (Duration, Duration)) -> u32 {
    // A maximum below the minimum wins: `cache 3` means 3.
    ttl.max(seconds(min)).min(seconds(max))
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_server::proto::rr::{
        Name, RecordType,
        rdata::{A, CNAME, SOA},
    };

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn a(ttl: u32) -> Record {
        Record::from_rdata(name("www.example.org."), ttl, RData::A(A(Ipv4Addr::LOCALHOST)))
    }

    fn cname(ttl: u32) -> Record {
        Record::from_rdata(name("www.example.org."), ttl, RData::CNAME(CNAME(name("x.example.org."))))
    }

    fn soa(ttl: u32, minimum: u32) -> Record {
        let data = SOA::new(name("ns.example.org."), name("root.example.org."), 1, 2, 3, 4, minimum);
        Record::from_rdata(name("example.org."), ttl, RData::SOA(data))
    }

    #[test]
    fn lifetimes_are_clamped_ttls() {
        use AnswerKind::{Denial, Failure, Success};
        use ResponseCode as R;
        let limits = Limits {
            success: (Duration::from_secs(5), Duration::from_secs(3600)),
            denial: (Duration::from_secs(5), Duration::from_secs(1800)),
            failure: Duration::from_secs(7),
        };
        type Case = (&'static str, ResponseCode, Vec<Record>, Vec<Record>, Option<(AnswerKind, u32)>);
        let cases: Vec<Case> = vec![
            ("an address", R::NoError, vec![a(60)], vec![], Some((Success, 60))),
            ("the minimum of a chain", R::NoError, vec![cname(50), a(60)], vec![], Some((Success, 50))),
            ("below the minimum", R::NoError, vec![a(0)], vec![], Some((Success, 5))),
            ("above the maximum", R::NoError, vec![a(9999)], vec![], Some((Success, 3600))),
            ("NXDOMAIN", R::NXDomain, vec![], vec![soa(900, 60)], Some((Denial, 60))),
            ("the TTL of the SOA is less", R::NXDomain, vec![], vec![soa(30, 60)], Some((Denial, 30))),
            ("NODATA", R::NoError, vec![], vec![soa(900, 60)], Some((Denial, 60))),
            ("a chain with NODATA", R::NoError, vec![cname(20)], vec![soa(900, 60)], Some((Denial, 60))),
            ("a long denial", R::NXDomain, vec![], vec![soa(9999, 9999)], Some((Denial, 1800))),
            ("a denial without SOA", R::NXDomain, vec![], vec![], None),
            ("NODATA without SOA", R::NoError, vec![], vec![], None),
            ("NXDOMAIN at the end of a chain", R::NXDomain, vec![cname(20)], vec![soa(9, 9)], None),
            ("a failure", R::ServFail, vec![], vec![], Some((Failure, 7))),
            ("not implemented", R::NotImp, vec![], vec![], Some((Failure, 7))),
            ("a refusal", R::Refused, vec![], vec![], None),
        ];
        let question = Query::query(name("www.example.org."), RecordType::A);
        for (case, rcode, answers, authorities, want) in cases {
            let mut reply = Reply { rcode, answers, authorities, ..Reply::servfail() };
            let truncated = Reply { truncated: true, ..reply.clone() };
            let got = lifetime(&mut reply, &question, &limits).map(|lifetime| (lifetime.kind, lifetime.ttl));
            assert_eq!(got, want, "{case}");
            assert_eq!(lifetime(&mut { truncated }, &question, &limits), None, "{case}, truncated");
        }
    }
}
