//! Contents and evictions of the stores.

use std::time::Duration;

use hickory_server::proto::{
    op::{Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{SOA, TXT},
    },
};
use tokio::time::advance;

use super::*;
use crate::{observe::metrics::Metrics, resolve::forward::fake::a};

fn cache(config: &config::Cache) -> Cache {
    Cache::new(config, LastKnownGood::Off, Metrics::default().cache("dns://:53", "."))
}

fn question(text: &str) -> Query {
    Query::query(Name::from_ascii(text).unwrap(), RecordType::A)
}

fn address(question: &Query) -> Reply {
    let answers = vec![a(question.name().clone(), 60, [192, 0, 2, 1])];
    Reply { rcode: ResponseCode::NoError, answers, errors: Vec::new(), ..Reply::servfail() }
}

fn denial() -> Reply {
    let name = || Name::from_ascii("example.").unwrap();
    let soa = RData::SOA(SOA::new(name(), name(), 1, 2, 3, 4, 60));
    let authorities = vec![Record::from_rdata(name(), 60, soa)];
    Reply { rcode: ResponseCode::NXDomain, authorities, errors: Vec::new(), ..Reply::servfail() }
}

/// Response code and TTL of the fresh answer.
fn found(cache: &Cache, question: &Query) -> Option<(ResponseCode, u32)> {
    match cache.lookup(question, &QueryFlags::default(), None) {
        CacheLookup::Fresh(reply) | CacheLookup::Due(reply, _) => {
            let first = reply.answers.first().or(reply.authorities.first());
            Some((reply.rcode, first.map_or(0, |record| record.ttl)))
        }
        CacheLookup::Stale(_) | CacheLookup::Miss => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_later_answer_replaces_the_earlier_and_a_failure_replaces_nothing() {
    use ResponseCode::{NXDomain, NoError, ServFail};
    let (cache, question) = (cache(&config::Cache::default()), question("www.example."));
    let store = |reply| cache.store(&question, &QueryFlags::default(), reply);
    store(Reply::servfail());
    assert_eq!(found(&cache, &question), Some((ServFail, 0)));
    store(address(&question));
    assert_eq!(found(&cache, &question), Some((NoError, 60)));
    store(denial());
    assert_eq!(found(&cache, &question), Some((NXDomain, 60)));
    store(address(&question));
    store(Reply::servfail());
    assert_eq!(found(&cache, &question), Some((NoError, 60)), "a failure does not replace an answer");
    advance(Duration::from_secs(59)).await;
    assert_eq!(found(&cache, &question), Some((NoError, 1)));
    advance(Duration::from_secs(1)).await;
    assert_eq!(found(&cache, &question), None);
    store(Reply::servfail());
    assert_eq!(found(&cache, &question), Some((ServFail, 0)), "a failure replaces an expired answer");
    advance(Duration::from_secs(5)).await;
    assert_eq!(found(&cache, &question), None);
}

/// The TTL and the MINIMUM of the SOA of a denial.
fn soa_of(reply: &Reply) -> (u32, u32) {
    match &reply.authorities[0] {
        Record { ttl, data: RData::SOA(soa), .. } => (*ttl, soa.minimum),
        other => panic!("{other}"),
    }
}

/// RDATA is signed (RFC 4034, section 3.1.8.1); a TTL may be lowered (RFC 2308, section 5).
#[tokio::test(start_paused = true)]
async fn only_the_ttls_of_a_denial_are_lowered() {
    // TTL and MINIMUM of the upstream, and the TTL of the denial.
    for (ttl, minimum, want) in [(900, 3600, 900), (3600, 60, 60), (9999, 86400, 1800), (900, 60, 60)] {
        let (cache, question) = (cache(&config::Cache::default()), question("www.example."));
        let mut reply = denial();
        reply.authorities[0].ttl = ttl;
        let RData::SOA(soa) = &mut reply.authorities[0].data else { panic!("no SOA") };
        soa.minimum = minimum;
        let first = cache.store(&question, &QueryFlags::default(), reply);
        assert_eq!(soa_of(&first), (want, minimum), "first reply, {ttl} {minimum}");
        advance(Duration::from_secs(10)).await;
        let CacheLookup::Fresh(cached) = cache.lookup(&question, &QueryFlags::default(), None) else {
            panic!("not cached")
        };
        assert_eq!(soa_of(&cached), (want - 10, minimum), "cached reply, {ttl} {minimum}");
    }
}

#[tokio::test(start_paused = true)]
async fn zones_and_exceptions_limit_the_cache() {
    let zone = |text: &str| Zones(vec![LowerName::new(&Name::from_ascii(text).unwrap())]);
    let mut config = config::Cache { zones: zone("example."), keep_ttl: true, ..config::Cache::default() };
    config.success.except = zone("not.example.");
    let cache = cache(&config);
    for (name, want) in [("www.example.", true), ("www.not.example.", false), ("www.elsewhere.", false)] {
        let question = question(name);
        cache.store(&question, &QueryFlags::default(), address(&question));
        advance(Duration::from_secs(10)).await;
        let want = want.then_some((ResponseCode::NoError, 60));
        assert_eq!(found(&cache, &question), want, "{name}");
    }
}

#[test]
fn memory_is_bounded() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _inside = runtime.enter();
    let mut config = config::Cache::default();
    config.success.capacity = 1000;
    let cache = cache(&config);
    let large = |question: &Query| {
        let text = TXT::new(vec!["x".repeat(255); 8]);
        let answers = vec![Record::from_rdata(question.name().clone(), 60, RData::TXT(text))];
        Reply { answers, ..address(question) }
    };
    for number in 0..10_000 {
        let mut question = question(&format!("n{number}.example."));
        let reply = if number % 2 == 0 { address(&question) } else { large(&question) };
        if number % 2 == 1 {
            question.query_type = RecordType::TXT;
        }
        cache.store(&question, &QueryFlags::default(), reply);
    }
    let store = cache.metrics.store(StoreKind::Success);
    let (entries, bytes) = (store.entries.get(), store.bytes.get());
    assert!((200..=1000).contains(&entries), "{entries} answers");
    assert!(bytes <= 1000 * i64::try_from(UNIT).unwrap(), "{bytes} bytes");
    assert!(store.evictions.get() >= 9000, "{}", store.evictions.get());
}
