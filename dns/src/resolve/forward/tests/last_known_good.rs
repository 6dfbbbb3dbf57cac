//! Names that were resolved before, and that the upstreams cannot resolve any more, or deny.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::*;
use crate::config::LastKnownGood;

/// An upstream that denies every name while the flag is set.
async fn denying() -> (Fake, Arc<AtomicBool>) {
    let denies = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&denies);
    let fake = Fake::start(move |query, _| {
        let mut reply = address_for(query);
        if shared.load(Relaxed) {
            reply = reply_to(query);
            reply.metadata.response_code = ResponseCode::NXDomain;
            let soa = SOA::new(name("ns.org."), name("root.org."), 1, 2, 3, 4, 300);
            reply.add_authority(Record::from_rdata(name("org."), 300, RData::SOA(soa)));
        }
        vec![wire(&reply)]
    })
    .await;
    (fake, denies)
}

fn with_policy(
    last_known_good: LastKnownGood,
    rule: Forward,
    cache: &config::Cache,
) -> (Forwarder, ServerContext) {
    let context = ServerContext { last_known_good, ..ServerContext::default() };
    let metrics = context.metrics.cache("dns://:53", ".");
    (Forwarder::start((&[rule], &[]), Some((cache, metrics)), &context).unwrap(), context)
}

fn client(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 244, 0, last).into()
}

/// The name is resolved for several clients, and expires.
async fn resolve_and_expire(forwarder: &Forwarder) {
    for last in 1..=8 {
        resolve_for(client(last), forwarder, "example.org.").await;
    }
    pass(Duration::from_secs(65)).await;
}

fn counted(context: &ServerContext, outcome: &str, count: u64) -> bool {
    let labels = format!("{{outcome=\"{outcome}\",server=\"dns://:53\",view=\"\",zones=\".\"}}");
    context.metrics.text().contains(&format!("portreeve_dns_cache_last_known_good_total{labels} {count}"))
}

const STALE: [&str; 1] = ["example.org. 30 192.0.2.1"];
const FRESH: [&str; 1] = ["example.org. 60 192.0.2.1"];

#[tokio::test]
async fn expired_answers_are_served_while_the_upstreams_fail_by_default() {
    let off = ServeStale { duration: Duration::ZERO, ..stale_for_an_hour(Verify::Immediate) };
    for (case, policy, serve_stale, want) in [
        ("by default", LastKnownGood::default(), None, true),
        ("failures only", LastKnownGood::Failures, None, true),
        ("off", LastKnownGood::Off, None, false),
        ("`serve_stale 0s` in the Corefile", LastKnownGood::default(), Some(off), false),
    ] {
        let (upstream, fails) = fallible().await;
        let cache = config::Cache { serve_stale, ..config::Cache::default() };
        let (forwarder, context) = with_policy(policy, rule(&[&upstream]), &cache);
        resolve_and_expire(&forwarder).await;
        fails.store(true, Relaxed);
        for _ in 0..3 {
            let reply = resolve(&forwarder, "example.org.").await;
            assert_eq!(addresses(&reply), if want { &STALE[..] } else { &[] }, "{case}");
        }
        assert_eq!(counted(&context, "stale", 1), want, "{case}: the upstream is spared for seconds");
        let alarms = context.metrics.alarms().present();
        assert_eq!(alarms.len(), usize::from(want), "{case}: {alarms:?}");
        assert!(alarms.iter().all(|alarm| alarm.sentence.contains("example.org.")), "{alarms:?}");
        fails.store(false, Relaxed);
        pass(Duration::from_secs(5)).await;
        assert_eq!(addresses(&resolve(&forwarder, "example.org.").await), FRESH, "{case}: back again");
        fails.store(true, Relaxed);
        pass(Duration::from_secs(60 + 3600)).await;
        assert_eq!(
            resolve(&forwarder, "example.org.").await.rcode,
            ResponseCode::ServFail,
            "{case}: too old"
        );
    }
}

#[tokio::test]
async fn a_denial_that_another_upstream_contradicts_does_not_replace_an_answer() {
    for (policy, want) in [(LastKnownGood::default(), &FRESH[..]), (LastKnownGood::Failures, &[])] {
        let ((lying, denies), good) = (denying().await, Fake::plain().await);
        let (forwarder, context) = with_policy(policy, rule(&[&lying, &good]), &config::Cache::default());
        resolve_and_expire(&forwarder).await;
        denies.store(true, Relaxed);
        assert_eq!(addresses(&resolve(&forwarder, "example.org.").await), want, "{policy:?}");
        assert_eq!(counted(&context, "contradicted", 1), !want.is_empty(), "{policy:?}");
        assert_eq!(context.metrics.alarms().present().len(), want.len(), "{policy:?}");
        assert_eq!(
            resolve(&forwarder, "new.example.org.").await.rcode,
            ResponseCode::NXDomain,
            "never resolved"
        );
    }
}

#[tokio::test]
async fn only_a_name_that_several_clients_have_just_resolved_is_asked_for_again() {
    for (case, clients, expired, is_doubted) in
        [("several clients", 8, 5, true), ("one client", 1, 5, false), ("long ago", 8, 61, false)]
    {
        let (upstream, denies) = denying().await;
        let policy = LastKnownGood::default();
        let (forwarder, context) = with_policy(policy, rule(&[&upstream]), &config::Cache::default());
        for last in 1..=clients {
            resolve_for(client(last), &forwarder, "example.org.").await;
        }
        pass(Duration::from_secs(60 + expired)).await;
        denies.store(true, Relaxed);
        let reply = resolve(&forwarder, "example.org.").await;
        assert_eq!(reply.rcode, ResponseCode::NXDomain, "{case}: no deletion is masked");
        assert_eq!(reply.authorities[0].ttl, if is_doubted { 5 } else { 300 }, "{case}");
        assert_eq!(counted(&context, "denied", 1), is_doubted, "{case}");
        assert_eq!(context.metrics.alarms().present(), [], "{case}: a deletion is nothing unusual");
        denies.store(false, Relaxed);
        pass(Duration::from_secs(6)).await;
        let want = if is_doubted { &FRESH[..] } else { &[] };
        assert_eq!(addresses(&resolve(&forwarder, "example.org.").await), want, "{case}: known again");
    }
}

#[tokio::test]
async fn held_answers_outlive_a_denial_for_minutes() {
    let (upstream, denies) = denying().await;
    let (forwarder, context) =
        with_policy(LastKnownGood::Hold, rule(&[&upstream]), &config::Cache::default());
    resolve_and_expire(&forwarder).await;
    denies.store(true, Relaxed);
    for _ in 0..3 {
        assert_eq!(addresses(&resolve(&forwarder, "example.org.").await), STALE);
    }
    assert!(counted(&context, "held", 1), "the upstream is spared for seconds");
    assert_eq!(context.metrics.alarms().present().len(), 1);
    pass(Duration::from_secs(300)).await;
    assert_eq!(resolve(&forwarder, "example.org.").await.rcode, ResponseCode::NXDomain, "too long");
}
