//! Forwarding to upstreams that are slow, silent, faulty or spoofed.

mod connections;
mod https;
mod last_known_good;

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::join_all;
use hickory_server::proto::{
    op::{Message, Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{SOA, opt::EdnsOption},
    },
};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use tokio::time::{Instant, advance, pause, resume};
use tokio_rustls::TlsAcceptor;

use super::{
    Forwarder, OwnAddresses, QueryFlags, Reply, ServerContext,
    fake::{Fake, Via, a, address_for, reply_to, wire},
};
use crate::{
    config::{
        self, Forward, HealthCheck, Policy, Prefetch, ServeStale, Tls, Upstream, UpstreamProtocol, Verify,
    },
    observe::metrics::Metrics,
};

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn question(text: &str) -> Query {
    Query::query(name(text), RecordType::A)
}

/// A rule with policy `sequential`, so that tests know which upstream is queried first.
fn rule(upstreams: &[&Fake]) -> Forward {
    let to = upstreams.iter().map(|upstream| Upstream::plain(upstream.address)).collect();
    Forward { policy: Policy::Sequential, ..Forward::to(to) }
}

fn start(rules: &[Forward]) -> Forwarder {
    Forwarder::start((rules, &[]), None, &ServerContext::default()).unwrap()
}

fn caching(rule: Forward, cache: &config::Cache) -> Forwarder {
    let metrics = Metrics::default().cache("dns://:53", ".");
    Forwarder::start((&[rule], &[]), Some((cache, metrics)), &ServerContext::default()).unwrap()
}

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn resolve(forwarder: &Forwarder, text: &str) -> Reply {
    resolve_for(CLIENT, forwarder, text).await
}

async fn resolve_for(client: IpAddr, forwarder: &Forwarder, text: &str) -> Reply {
    let (question, flags) = (question(text), &QueryFlags::default());
    match forwarder.cached(&question, flags, client) {
        Some(reply) => reply,
        None => {
            let reply = forwarder.resolve(&question, flags).await;
            forwarder.record_client(&question, flags, client);
            reply
        }
    }
}

fn addresses(reply: &Reply) -> Vec<String> {
    reply.answers.iter().map(|record| format!("{} {} {}", record.name, record.ttl, record.data)).collect()
}

const FOUND: &str = "Example.ORG. 60 192.0.2.1";

/// Advances the clock; no timer may be pending.
async fn pass(time: Duration) {
    pause();
    advance(time).await;
    resume();
}

#[tokio::test]
async fn a_reply_is_returned_complete() {
    let upstream = Fake::start(|query, _| {
        let mut reply = reply_to(query);
        reply.metadata.response_code = ResponseCode::NXDomain;
        reply.metadata.authentic_data = true;
        let soa = SOA::new(name("ns.org."), name("root.org."), 1, 2, 3, 4, 5);
        reply.add_authority(Record::from_rdata(name("org."), 9, RData::SOA(soa)));
        reply.add_additional(a(name("ns.org."), 1 << 31, [192, 0, 2, 9]));
        let edns = reply.edns.as_mut().unwrap();
        edns.options_mut().insert(EdnsOption::Unknown(15, vec![0, 9]));
        vec![wire(&reply)]
    })
    .await;
    let forwarder = start(&[rule(&[&upstream])]);
    let reply = resolve(&forwarder, "Example.ORG.").await;
    assert_eq!(reply.rcode, ResponseCode::NXDomain);
    assert!(!reply.authentic_data, "AD was not requested");
    assert_eq!((reply.authorities.len(), reply.additionals.len()), (1, 1));
    assert_eq!([reply.authorities[0].ttl, reply.additionals[0].ttl], [9, 0], "no TTL is negative");
    assert_eq!(reply.errors, [EdnsOption::Unknown(15, vec![0, 9])]);
    let flags = QueryFlags { authentic_data: true, ..QueryFlags::default() };
    assert!(forwarder.resolve(&question("Example.ORG."), &flags).await.authentic_data);
}

/// The answer of one record, owned by the question's name.
fn answer_with(query: &Message, qtype: u16, data: &[u8]) -> Vec<u8> {
    let mut reply = reply_to(query);
    reply.edns = None;
    let mut wire = wire(&reply);
    wire[7] = 1;
    wire.extend([0xc0, 12]);
    wire.extend(qtype.to_be_bytes());
    wire.extend([0, 1, 0, 0, 0, 60]);
    wire.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    wire.extend(data);
    wire
}

/// RFC 3597: including RDATA that is empty, and RDATA that the library cannot parse.
#[tokio::test]
async fn rdata_is_returned_as_it_came() {
    let cases: &[(u16, &[u8])] = &[
        (42, b""),
        (42, b"\x00\x01\x08\x01\x0a"),
        (10, b""),
        (10, b"\x01\x02\x03"),
        (65_280, b""),
        (65_280, b"\x01\x02"),
        (62_345, b""),
        (62_345, b"\x00"),
        (257, b"\x00\x09un-usual!value"),
        (257, b"\x80\x03tbsUnknown"),
        (257, b"\x00\x00value"),
        // Public keys of another protocol, and of another length.
        (48, b"\x01\x00\x04\x08key"),
        (43, b"\x00\x01\x08"),
        (44, b""),
        (52, b""),
        (64, b"\x00\x01\x00\x00\x03\x00\x02\x01\xbb\x00\x01\x00\x03\x02h2"),
        (13, b"\x01"),
    ];
    for (qtype, data) in cases {
        let (code, rdata) = (*qtype, data.to_vec());
        let upstream = Fake::start(move |query, _| vec![answer_with(query, code, &rdata)]).await;
        let forwarder = caching(rule(&[&upstream]), &config::Cache::default());
        let question = Query::query(name("www.example."), RecordType::from(*qtype));
        for source in ["upstream", "cache"] {
            let reply = match forwarder.cached(&question, &QueryFlags::default(), CLIENT) {
                Some(reply) => reply,
                None => forwarder.resolve(&question, &QueryFlags::default()).await,
            };
            let mut message = Message::response(0, hickory_server::proto::op::OpCode::Query);
            message.answers = reply.answers;
            let sent = wire(&message);
            assert_eq!(reply.rcode, ResponseCode::NoError, "{source}: {qtype} {data:?}");
            assert!(sent.ends_with(data), "{source}: {qtype} {data:?}: {sent:?}");
            assert_eq!(sent.len(), 12 + 13 + 10 + data.len(), "{source}: {qtype} {data:?}");
            assert_eq!(sent[25..27], qtype.to_be_bytes(), "{source}: {qtype} {data:?}");
        }
        assert_eq!(upstream.questions(), 1, "{qtype} {data:?} is cached");
    }
}

#[tokio::test]
async fn query_flags_are_forwarded() {
    let seen: Arc<Mutex<Vec<(bool, bool)>>> = Arc::default();
    let recorded = Arc::clone(&seen);
    let upstream = Fake::start(move |query, _| {
        let dnssec_ok = query.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        recorded.lock().unwrap().push((dnssec_ok, query.metadata.checking_disabled));
        vec![wire(&address_for(query))]
    })
    .await;
    let forwarder = start(&[rule(&[&upstream])]);
    for (dnssec_ok, checking_disabled) in [(false, false), (true, false), (false, true)] {
        let flags = QueryFlags { dnssec_ok, checking_disabled, ..QueryFlags::default() };
        forwarder.resolve(&question("example.org."), &flags).await;
        assert_eq!(seen.lock().unwrap().pop(), Some((dnssec_ok, checking_disabled)));
    }
}

#[tokio::test]
async fn forged_replies_are_ignored() {
    type Forge = fn(&Message) -> Message;
    let cases: &[(&str, Forge)] = &[
        ("another id", |right| {
            let mut wrong = right.clone();
            wrong.metadata.id ^= 1;
            wrong
        }),
        ("another question", |right| {
            let mut wrong = right.clone();
            wrong.queries = vec![question("example.net.")];
            wrong
        }),
        ("another type", |right| {
            let mut wrong = right.clone();
            wrong.queries[0].query_type = RecordType::AAAA;
            wrong
        }),
        ("no question", |right| {
            let mut wrong = right.clone();
            wrong.queries.clear();
            wrong
        }),
        ("no question, and an error with an answer", |right| {
            let mut wrong = right.clone();
            wrong.queries.clear();
            wrong.metadata.response_code = ResponseCode::FormErr;
            wrong
        }),
        ("no name without a question", |right| {
            let mut wrong = right.clone();
            wrong.queries.clear();
            wrong.metadata.response_code = ResponseCode::NXDomain;
            wrong
        }),
        ("no response", |right| {
            let mut wrong = right.clone();
            wrong.metadata.message_type = hickory_server::proto::op::MessageType::Query;
            wrong
        }),
    ];
    for (case, forge) in cases {
        let upstream = Fake::start(|query, _| {
            let right = address_for(query);
            let mut wrong = forge(&right);
            wrong.answers = vec![a(query.queries[0].name().clone(), 60, [6, 6, 6, 6])];
            vec![wire(&wrong), vec![], b"garbage".to_vec(), wire(&right)]
        })
        .await;
        let reply = resolve(&start(&[rule(&[&upstream])]), "Example.ORG.").await;
        assert_eq!(addresses(&reply), [FOUND], "{case}");
    }
}

#[tokio::test]
async fn an_upstream_that_changes_the_case_gets_queries_without_0x20() {
    let upstream = Fake::start(|query, _| {
        let mut reply = address_for(query);
        reply.queries[0].name = reply.queries[0].name.to_lowercase();
        vec![wire(&reply)]
    })
    .await;
    let udp = rule(&[&upstream]);
    let forwarder = start(std::slice::from_ref(&udp));
    // The upstream also loses the client's own case.
    assert_eq!(addresses(&resolve(&forwarder, "Example.ORG.").await), [FOUND]);
    let before = upstream.questions();
    resolve(&forwarder, "Example.ORG.").await;
    assert_eq!(upstream.questions(), before + 1, "the capability is recorded");
    let tcp = start(&[Forward { force_tcp: true, ..udp }]);
    assert_eq!(addresses(&resolve(&tcp, "Example.ORG.").await), [FOUND], "over TCP");
}

#[tokio::test]
async fn a_case_mismatch_of_an_upstream_that_preserves_case_is_ignored() {
    let upstream = Fake::start(|query, _| {
        let right = address_for(query);
        let mut forged = wire(&right);
        // The first letter of the name, and the last octet of the address.
        forged[13] ^= 0x20;
        *forged.last_mut().unwrap() = 66;
        let is_second = query.queries[0].name().to_string().to_lowercase().starts_with("second");
        if is_second { vec![forged, wire(&right)] } else { vec![wire(&right)] }
    })
    .await;
    let forwarder = start(&[rule(&[&upstream])]);
    resolve(&forwarder, "first.example.").await;
    assert_eq!(addresses(&resolve(&forwarder, "second.example.").await), ["second.example. 60 192.0.2.1"]);
}

#[tokio::test]
async fn an_upstream_that_stops_preserving_the_case_gets_queries_without_0x20() {
    let upstream = Fake::start(|query, _| {
        let mut reply = address_for(query);
        let is_first = query.queries[0].name().to_string().to_lowercase().starts_with("first");
        if !is_first {
            reply.queries[0].name = reply.queries[0].name.to_lowercase();
        }
        vec![wire(&reply)]
    })
    .await;
    let forwarder = start(&[rule(&[&upstream])]);
    resolve(&forwarder, "first-name-with-many-letters.example.").await;
    // Several letters, so that a random case is hardly ever all lower.
    const SECOND: &str = "Second-Name-With-Many-Letters.Example.";
    let want = ["Second-Name-With-Many-Letters.Example. 60 192.0.2.1"];
    let began = Instant::now();
    assert_eq!(addresses(&resolve(&forwarder, SECOND).await), want);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let before = upstream.questions();
    assert_eq!(addresses(&resolve(&forwarder, SECOND).await), want);
    assert_eq!(upstream.questions(), before + 1, "the capability is recorded");
}

#[tokio::test]
async fn an_upstream_that_drops_queries_with_edns_gets_queries_without_opt() {
    let upstream = Fake::start(|query, _| match query.edns {
        Some(_) => Vec::new(),
        None => vec![wire(&address_for(query))],
    })
    .await;
    let forwarder = start(&[rule(&[&upstream])]);
    assert_eq!(addresses(&resolve(&forwarder, "Example.ORG.").await), [FOUND]);
    let (before, began) = (upstream.questions(), Instant::now());
    assert_eq!(addresses(&resolve(&forwarder, "Example.ORG.").await), [FOUND]);
    assert_eq!(upstream.questions(), before + 1, "the capability is recorded");
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_upstream_that_comes_to_drop_queries_with_edns_gets_queries_without_opt() {
    let drops = Arc::new(AtomicBool::new(false));
    let now = Arc::clone(&drops);
    let upstream = Fake::start(move |query, _| match query.edns {
        Some(_) if now.load(Relaxed) => Vec::new(),
        Some(_) | None => vec![wire(&address_for(query))],
    })
    .await;
    let forwarder = start(&[rule(&[&upstream])]);
    assert_eq!(addresses(&resolve(&forwarder, "Example.ORG.").await), [FOUND]);
    drops.store(true, Relaxed);
    assert_eq!(resolve(&forwarder, "Example.ORG.").await.rcode, ResponseCode::ServFail);
    assert_eq!(addresses(&resolve(&forwarder, "Example.ORG.").await), [FOUND], "asked plainly, too");
    let before = upstream.questions();
    assert_eq!(addresses(&resolve(&forwarder, "Example.ORG.").await), [FOUND]);
    assert_eq!(upstream.questions(), before + 1, "the capability is recorded");
}

#[tokio::test]
async fn a_slow_upstream_keeps_edns() {
    let questions = std::sync::atomic::AtomicU32::new(0);
    let seen: Arc<Mutex<Vec<bool>>> = Arc::default();
    let recorded = Arc::clone(&seen);
    let upstream = Fake::start(move |query, _| {
        recorded.lock().unwrap().push(query.edns.is_some());
        // The first query is lost.
        let is_first = questions.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        if is_first { Vec::new() } else { vec![wire(&address_for(query))] }
    })
    .await;
    let forwarder = start(&[rule(&[&upstream])]);
    assert_eq!(addresses(&resolve(&forwarder, "Example.ORG.").await), [FOUND]);
    assert_eq!(addresses(&resolve(&forwarder, "Example.ORG.").await), [FOUND]);
    assert!(seen.lock().unwrap().iter().all(|edns| *edns), "the hedged query had EDNS, too");
}

#[tokio::test]
async fn an_upstream_without_edns_gets_queries_without_opt() {
    let upstream = Fake::start(|query, _| {
        if query.edns.is_none() {
            return vec![wire(&address_for(query))];
        }
        let mut reply = reply_to(query);
        reply.edns = None;
        reply.metadata.response_code = ResponseCode::FormErr;
        vec![wire(&reply)]
    })
    .await;
    assert_eq!(addresses(&resolve(&start(&[rule(&[&upstream])]), "Example.ORG.").await), [FOUND]);
}

#[tokio::test]
async fn a_formerr_for_one_name_does_not_disable_edns() {
    // A server that answers one name with FORMERR and without OPT.
    let upstream = Fake::start(|query, _| {
        let mut reply = address_for(query);
        if query.queries[0].name().to_string().to_lowercase().starts_with("bad") {
            reply.edns = None;
            reply.metadata.response_code = ResponseCode::FormErr;
        } else if query.edns.is_none() {
            reply.answers.clear();
        }
        vec![wire(&reply)]
    })
    .await;
    let forwarder = start(&[rule(&[&upstream])]);
    assert_eq!(resolve(&forwarder, "bad.example.org.").await.rcode, ResponseCode::FormErr);
    assert_eq!(addresses(&resolve(&forwarder, "Example.ORG.").await), [FOUND]);
}

#[tokio::test]
async fn the_next_upstream_is_queried_when_one_is_silent_or_gone() {
    let (silent, good) = (Fake::silent().await, Fake::plain().await);
    let began = Instant::now();
    assert_eq!(addresses(&resolve(&start(&[rule(&[&silent, &good])]), "Example.ORG.").await), [FOUND]);
    assert!(began.elapsed() < Duration::from_millis(1500), "too slow: {:?}", began.elapsed());

    let mut gone = rule(&[&good]);
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    gone.to.insert(0, Upstream::plain(closed));
    assert_eq!(addresses(&resolve(&start(&[gone]), "Example.ORG.").await), [FOUND]);
}

#[tokio::test]
async fn a_query_stays_within_its_packet_budget() {
    let silent = Fake::silent().await;
    let began = Instant::now();
    let reply = resolve(&start(&[rule(&[&silent])]), "example.org.").await;
    assert_eq!(reply.rcode, ResponseCode::ServFail);
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    // Two tries, each with and without EDNS, and the health probes.
    assert!(silent.questions() <= 4 + 4, "{}", silent.questions());
}

#[tokio::test]
async fn response_codes_are_final_unless_configured_otherwise() {
    let failing = Fake::start(|query, _| {
        let mut reply = reply_to(query);
        reply.metadata.response_code = ResponseCode::ServFail;
        vec![wire(&reply)]
    })
    .await;
    let good = Fake::plain().await;
    let both = rule(&[&failing, &good]);
    assert_eq!(
        resolve(&start(std::slice::from_ref(&both)), "Example.ORG.").await.rcode,
        ResponseCode::ServFail
    );
    let failover = Forward { failover: vec![ResponseCode::ServFail], ..both };
    assert_eq!(addresses(&resolve(&start(&[failover]), "Example.ORG.").await), [FOUND]);
    let alone = Forward { failover: vec![ResponseCode::ServFail], ..rule(&[&failing]) };
    assert_eq!(resolve(&start(&[alone]), "Example.ORG.").await.rcode, ResponseCode::ServFail);
    let next = Forward { next: vec![ResponseCode::ServFail], ..rule(&[&failing]) };
    assert_eq!(addresses(&resolve(&start(&[next, rule(&[&good])]), "Example.ORG.").await), [FOUND]);
}

#[tokio::test]
async fn names_are_forwarded_by_the_matching_rule() {
    let (stub_upstream, other) = (Fake::plain().await, Fake::plain().await);
    let stub = Forward {
        from: name("acme.local.").into(),
        except: config::Zones(vec![name("not.acme.local.").into()]),
        ..rule(&[&stub_upstream])
    };
    let forwarder = start(&[stub.clone(), rule(&[&other])]);
    for (text, wants_stub) in [
        ("acme.local.", true),
        ("www.ACME.local.", true),
        ("notacme.local.", false),
        ("www.not.acme.local.", false),
    ] {
        let before = stub_upstream.questions();
        resolve(&forwarder, text).await;
        assert_eq!(stub_upstream.questions() > before, wants_stub, "{text}");
    }
    assert_eq!(resolve(&start(&[stub]), "example.org.").await.rcode, ResponseCode::Refused, "no rule");
}

#[tokio::test]
async fn truncated_answers_are_retried_over_tcp() {
    let truncated = |query: &Message| {
        let mut reply = address_for(query);
        reply.metadata.truncation = true;
        vec![wire(&reply)]
    };
    let whole = Fake::start(move |query, via| match via {
        Via::Udp => truncated(query),
        Via::Tcp => {
            let mut reply = address_for(query);
            reply.add_answer(a(query.queries[0].name().clone(), 60, [192, 0, 2, 2]));
            vec![wire(&reply)]
        }
    })
    .await;
    let reply = resolve(&start(&[rule(&[&whole])]), "example.org.").await;
    assert_eq!((reply.truncated, reply.answers.len()), (false, 2));

    let partial = Fake::start(move |query, via| match via {
        Via::Udp => truncated(query),
        Via::Tcp => vec![vec![]],
    })
    .await;
    let forwarder = caching(rule(&[&partial]), &config::Cache::default());
    let reply = resolve(&forwarder, "example.org.").await;
    assert_eq!(
        (reply.truncated, reply.answers.len()),
        (true, 1),
        "the client gets TC and the partial answer"
    );
    assert_eq!(forwarder.cached(&question("example.org."), &QueryFlags::default(), CLIENT), None);
}

#[tokio::test]
async fn connections_are_reused_and_replaced_after_a_close() {
    let upstream = Fake::plain().await;
    let tcp = Forward { force_tcp: true, ..rule(&[&upstream]) };
    let forwarder = start(std::slice::from_ref(&tcp));
    for _ in 0..3 {
        assert_eq!(addresses(&resolve(&forwarder, "Example.ORG.").await), [FOUND]);
    }
    assert_eq!((upstream.questions(), upstream.connections()), (3, 1));

    let closing = Fake::start(|query, _| vec![wire(&address_for(query)), vec![]]).await;
    let forwarder = start(&[Forward { force_tcp: true, ..rule(&[&closing]) }]);
    for _ in 0..3 {
        assert_eq!(addresses(&resolve(&forwarder, "Example.ORG.").await), [FOUND]);
    }
    assert_eq!(closing.connections(), 3);
}

#[tokio::test]
async fn only_one_dead_pooled_connection_is_tried() {
    let queries = std::sync::atomic::AtomicU32::new(0);
    let upstream = Fake::start(move |query, _| {
        // The first two queries open connections, which then do not answer.
        let number = queries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if matches!(number, 2 | 3) { Vec::new() } else { vec![wire(&address_for(query))] }
    })
    .await;
    let forwarder = start(&[Forward { force_tcp: true, ..rule(&[&upstream]) }]);
    join_all(["a.example.", "b.example."].map(|name| resolve(&forwarder, name))).await;
    assert_eq!(upstream.connections(), 2);
    assert_eq!(addresses(&resolve(&forwarder, "Example.ORG.").await), [FOUND]);
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let upstream = Fake::plain().await;
    let rule = Forward { force_tcp: true, expire: Duration::from_millis(50), ..rule(&[&upstream]) };
    let forwarder = start(&[rule]);
    resolve(&forwarder, "example.org.").await;
    assert_eq!(upstream.open_connections(), 1);
    while upstream.open_connections() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn tls_upstreams_are_verified_by_name() {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["dns.example".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let authority = directory.path().join("ca.pem");
    std::fs::write(&authority, cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let upstream = Fake::with_tls(Some(acceptor), |query, _| vec![wire(&address_for(query))]).await;
    let to = |server_name: Option<&str>| Upstream::Server {
        address: upstream.address,
        protocol: UpstreamProtocol::Tls,
        server_name: server_name.map(str::to_owned),
    };
    let tls = Tls { authority: Some(authority), ..Tls::default() };
    let rule = |to| Forward { tls: tls.clone(), ..Forward::to(vec![to]) };

    let forwarder = start(&[rule(to(Some("dns.example")))]);
    assert_eq!(addresses(&resolve(&forwarder, "Example.ORG.").await), [FOUND]);
    resolve(&forwarder, "Example.ORG.").await;
    assert_eq!(upstream.connections(), 1, "the connection is reused");
    for (case, to) in [("another name", to(Some("other.example"))), ("no name", to(None))] {
        assert_eq!(
            resolve(&start(&[rule(to)]), "example.org.").await.rcode,
            ResponseCode::ServFail,
            "{case}"
        );
    }
}

#[tokio::test]
async fn identical_queries_are_coalesced_and_excess_queries_refused() {
    let upstream = Fake::plain().await;
    let forwarder = start(&[Forward { max_concurrent: Some(1), ..rule(&[&upstream]) }]);
    let same = join_all((0..20).map(|_| resolve(&forwarder, "Example.ORG."))).await;
    assert!(same.iter().all(|reply| addresses(reply) == [FOUND]));
    assert_eq!(upstream.questions(), 1);

    let names = ["a.example.", "b.example.", "c.example."];
    let rcodes: Vec<_> =
        join_all(names.map(|name| resolve(&forwarder, name))).await.iter().map(|reply| reply.rcode).collect();
    assert_eq!(rcodes, [ResponseCode::NoError, ResponseCode::Refused, ResponseCode::Refused]);
    assert_eq!(resolve(&forwarder, "c.example.").await.rcode, ResponseCode::NoError, "below the limit again");
}

#[tokio::test]
async fn a_failed_upstream_is_skipped_until_it_answers() {
    let silent = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let is_silent = Arc::clone(&silent);
    let flaky = Fake::start(move |query, _| {
        let is_silent = is_silent.load(std::sync::atomic::Ordering::Relaxed);
        if is_silent { Vec::new() } else { vec![wire(&address_for(query))] }
    })
    .await;
    let good = Fake::plain().await;
    let forwarder = start(&[Forward { max_fails: 1, ..rule(&[&flaky, &good]) }]);
    let quickly = Duration::from_millis(200);
    let until = |wants_flaky: bool| {
        let (forwarder, flaky, good) = (&forwarder, &flaky, &good);
        async move {
            for attempt in 0..100 {
                let (began, before) = (Instant::now(), (flaky.questions(), good.questions()));
                resolve(forwarder, &format!("n{attempt}.example.")).await;
                let by_good = good.questions() > before.1;
                if began.elapsed() < quickly && by_good != wants_flaky {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            panic!("the upstream is not switched");
        }
    };
    until(false).await;
    silent.store(false, std::sync::atomic::Ordering::Relaxed);
    until(true).await;
}

#[tokio::test]
async fn probes_use_the_configured_name_and_rd() {
    for recursion_desired in [true, false] {
        let (sender, mut probes) = tokio::sync::mpsc::unbounded_channel();
        let upstream = Fake::start(move |query, _| {
            let is_probe = query.queries[0].query_type() == RecordType::NS;
            if is_probe {
                sender
                    .send((query.queries[0].name().to_lowercase(), query.metadata.recursion_desired))
                    .unwrap();
            }
            Vec::new()
        })
        .await;
        let domain = name("probe.example.").into();
        let health_check = HealthCheck { domain, recursion_desired, ..HealthCheck::default() };
        let forwarder = start(&[Forward { health_check, ..rule(&[&upstream]) }]);
        resolve(&forwarder, "example.org.").await;
        assert_eq!(probes.recv().await, Some((name("probe.example."), recursion_desired)));
    }
}

#[tokio::test]
async fn with_all_upstreams_down_queries_are_sent_unless_failfast() {
    let upstream = Fake::plain().await;
    for (fail_fast, want) in [(false, ResponseCode::NoError), (true, ResponseCode::ServFail)] {
        let rule = super::rule::Rule::start(
            &Forward { fail_fast, max_fails: 1, ..rule(&[&upstream]) },
            &ServerContext::default(),
        )
        .unwrap();
        rule.fail_all();
        let (super::RuleResult::Final(reply) | super::RuleResult::Next(reply)) =
            rule.query(&question("example.org."), &QueryFlags::default()).await;
        assert_eq!(reply.rcode, want, "fail_fast: {fail_fast}");
    }
}

#[tokio::test]
async fn a_looping_upstream_is_excluded() {
    let good = Fake::plain().await;
    // An upstream that forwards to this server, as a host's stub resolver does that is configured with the
    // cluster's DNS.
    let (sender, receiver) = std::sync::mpsc::channel::<Forwarder>();
    let (queries, mut queried) = tokio::sync::mpsc::unbounded_channel::<Query>();
    let mirror = Fake::start(move |question, _| {
        let _ = queries.send(question.queries[0].clone());
        Vec::new()
    })
    .await;
    let context = ServerContext { detect_loops: true, ..ServerContext::default() };
    let forwarder = Forwarder::start((&[rule(&[&mirror, &good])], &[]), None, &context).unwrap();
    sender.send(forwarder.clone()).unwrap();
    tokio::spawn(async move {
        let forwarder = receiver.recv().unwrap();
        while let Some(question) = queried.recv().await {
            let forwarder = forwarder.clone();
            tokio::spawn(async move { forwarder.resolve(&question, &QueryFlags::default()).await });
        }
    });
    let text = || context.metrics.text();
    let found = format!("portreeve_dns_forward_loops_total{{to=\"{}\"}} 1", mirror.address);
    while !text().contains(&found) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = mirror.questions();
    assert_eq!(addresses(&resolve(&forwarder, "Example.ORG.").await), [FOUND]);
    assert_eq!(mirror.questions(), before);
}

#[tokio::test]
async fn an_upstream_that_becomes_an_own_address_is_excluded() {
    let upstream = Fake::plain().await;
    let context = ServerContext::default();
    let forwarder = Forwarder::start((&[rule(&[&upstream])], &[]), None, &context).unwrap();
    assert_eq!(resolve(&forwarder, "example.org.").await.rcode, ResponseCode::NoError);
    context.own.store(Arc::new(OwnAddresses::from([upstream.address])));
    while resolve(&forwarder, "example.org.").await.rcode == ResponseCode::NoError {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn answers_are_cached_with_capped_ttls() {
    let upstream = Fake::plain().await;
    let forwarder = caching(rule(&[&upstream]), &config::Cache::capped_at(Duration::from_secs(30)));
    assert_eq!(
        addresses(&resolve(&forwarder, "example.org.").await),
        ["example.org. 30 192.0.2.1"],
        "capped"
    );
    pass(Duration::from_secs(10)).await;
    assert_eq!(addresses(&resolve(&forwarder, "EXAMPLE.org.").await), ["EXAMPLE.org. 20 192.0.2.1"]);
    assert_eq!(upstream.questions(), 1);
    let flags = QueryFlags { dnssec_ok: true, ..QueryFlags::default() };
    forwarder.resolve(&question("example.org."), &flags).await;
    assert_eq!(upstream.questions(), 2, "DO is part of the cache key");
    pass(Duration::from_secs(20)).await;
    resolve(&forwarder, "example.org.").await;
    assert_eq!(upstream.questions(), 3, "expired");
}

/// An upstream that answers until the flag is set, and SERVFAIL then.
async fn fallible() -> (Fake, Arc<std::sync::atomic::AtomicBool>) {
    let fails = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let shared = Arc::clone(&fails);
    let fake = Fake::start(move |query, _| {
        let mut reply = address_for(query);
        if shared.load(std::sync::atomic::Ordering::Relaxed) {
            reply = reply_to(query);
            reply.metadata.response_code = ResponseCode::ServFail;
        }
        vec![wire(&reply)]
    })
    .await;
    (fake, fails)
}

/// Resolves until a refresh in the background has led to these addresses.
async fn until_resolved_to(forwarder: &Forwarder, want: &[&str]) {
    let began = Instant::now();
    while addresses(&resolve(forwarder, "example.org.").await) != want {
        assert!(began.elapsed() < Duration::from_secs(10), "not resolved to {want:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn stale_for_an_hour(verify: Verify) -> ServeStale {
    ServeStale { duration: Duration::from_secs(3600), verify, ttl: 0, recheck: Duration::ZERO }
}

#[tokio::test]
async fn a_fresh_answer_follows_as_soon_as_the_upstream_is_back() {
    const STALE: [&str; 1] = ["example.org. 0 192.0.2.1"];
    const FRESH: [&str; 1] = ["example.org. 60 192.0.2.1"];
    for verify in [Verify::Immediate, Verify::First(None), Verify::First(Some(Duration::from_secs(1)))] {
        let (upstream, fails) = fallible().await;
        let serve_stale = Some(stale_for_an_hour(verify.clone()));
        let forwarder =
            caching(rule(&[&upstream]), &config::Cache { serve_stale, ..config::Cache::default() });
        resolve(&forwarder, "example.org.").await;
        fails.store(true, std::sync::atomic::Ordering::Relaxed);
        pass(Duration::from_secs(100)).await;
        for _ in 0..2 {
            // Lookups during a refresh of `immediate` start no other.
            let before = upstream.questions();
            while upstream.questions() == before {
                assert_eq!(addresses(&resolve(&forwarder, "example.org.").await), STALE, "{verify:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        fails.store(false, std::sync::atomic::Ordering::Relaxed);
        if verify == Verify::Immediate {
            until_resolved_to(&forwarder, &FRESH).await;
        }
        assert_eq!(addresses(&resolve(&forwarder, "example.org.").await), FRESH, "{verify:?}");
    }
}

#[tokio::test]
async fn a_preferred_positive_answer_is_replaced_by_a_positive_one_only() {
    const FRESH: [&str; 1] = ["example.org. 60 192.0.2.1"];
    const STALE: [&str; 1] = ["example.org. 0 192.0.2.1"];
    for prefer_positive in [false, true] {
        for verify in [Verify::Immediate, Verify::First(None)] {
            let denies = Arc::new(std::sync::atomic::AtomicBool::new(false));
            let shared = Arc::clone(&denies);
            let upstream = Fake::start(move |query, _| {
                let mut reply = address_for(query);
                if shared.load(std::sync::atomic::Ordering::Relaxed) {
                    reply = reply_to(query);
                    reply.metadata.response_code = ResponseCode::NXDomain;
                    let soa = SOA::new(name("ns.org."), name("root.org."), 1, 2, 3, 4, 300);
                    reply.add_authority(Record::from_rdata(name("org."), 300, RData::SOA(soa)));
                }
                vec![wire(&reply)]
            })
            .await;
            let serve_stale = Some(stale_for_an_hour(verify.clone()));
            let cache = config::Cache { serve_stale, prefer_positive, ..config::Cache::default() };
            let forwarder = caching(rule(&[&upstream]), &cache);
            resolve(&forwarder, "example.org.").await;
            denies.store(true, std::sync::atomic::Ordering::Relaxed);
            pass(Duration::from_secs(100)).await;
            if prefer_positive {
                // A second refresh starts after the denial that ended the first one.
                let second = upstream.questions() + 2;
                while upstream.questions() < second {
                    let reply = resolve(&forwarder, "example.org.").await;
                    assert_eq!(addresses(&reply), STALE, "{verify:?}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            } else {
                until_resolved_to(&forwarder, &[]).await;
            }
            denies.store(false, std::sync::atomic::Ordering::Relaxed);
            let want = if prefer_positive { &FRESH[..] } else { &[] };
            until_resolved_to(&forwarder, want).await;
            let reply = resolve(&forwarder, "example.org.").await;
            assert_eq!(addresses(&reply), want, "{prefer_positive} {verify:?}, positive again");
        }
    }
}

#[tokio::test]
async fn stale_answers_are_served_while_the_upstream_fails() {
    for verify in [Verify::Immediate, Verify::First(None), Verify::First(Some(Duration::from_secs(1)))] {
        let (upstream, fails) = fallible().await;
        let recheck = Duration::from_secs(30);
        let serve_stale = Some(ServeStale { ttl: 30, recheck, ..stale_for_an_hour(verify.clone()) });
        let cache = config::Cache { serve_stale, ..config::Cache::default() };
        let forwarder = caching(rule(&[&upstream]), &cache);
        resolve(&forwarder, "example.org.").await;
        fails.store(true, std::sync::atomic::Ordering::Relaxed);
        pass(Duration::from_secs(100)).await;
        for _ in 0..5 {
            let stale = ["example.org. 30 192.0.2.1"];
            assert_eq!(addresses(&resolve(&forwarder, "example.org.").await), stale, "{verify:?}");
        }
        while upstream.questions() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(upstream.questions(), 2, "{verify:?}: no query until the recheck is due");
        pass(Duration::from_secs(3600)).await;
        assert_eq!(
            resolve(&forwarder, "example.org.").await.rcode,
            ResponseCode::ServFail,
            "{verify:?}: too old"
        );
    }
}

#[tokio::test]
async fn an_answer_after_the_verify_timeout_still_refreshes_the_cache() {
    let questions = std::sync::atomic::AtomicU32::new(0);
    let upstream = Fake::start(move |query, _| {
        // The second query gets no answer, so that the answer comes with the next try.
        let is_second = questions.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 1;
        if is_second { Vec::new() } else { vec![wire(&address_for(query))] }
    })
    .await;
    let verify = Verify::First(Some(Duration::from_millis(10)));
    let serve_stale = Some(stale_for_an_hour(verify));
    let forwarder = caching(rule(&[&upstream]), &config::Cache { serve_stale, ..config::Cache::default() });
    resolve(&forwarder, "example.org.").await;
    pass(Duration::from_secs(100)).await;
    assert_eq!(addresses(&resolve(&forwarder, "example.org.").await), ["example.org. 0 192.0.2.1"], "stale");
    let began = Instant::now();
    while addresses(&resolve(&forwarder, "example.org.").await) != ["example.org. 60 192.0.2.1"] {
        assert!(began.elapsed() < Duration::from_secs(10), "still stale");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_refused_query_does_not_replace_a_cached_answer() {
    let upstream = Fake::plain().await;
    let serve_stale = Some(stale_for_an_hour(Verify::First(None)));
    let cache = config::Cache { serve_stale, ..config::Cache::default() };
    let limited = Forward { max_concurrent: Some(1), ..rule(&[&upstream]) };
    let forwarder = caching(limited, &cache);
    let names = ["a.example.", "b.example."];
    for name in names {
        resolve(&forwarder, name).await;
    }
    pass(Duration::from_secs(100)).await;
    let both = join_all(names.map(|name| resolve(&forwarder, name))).await;
    assert!(both.iter().all(|reply| reply.rcode == ResponseCode::NoError), "{both:?}");
}

#[tokio::test]
async fn a_failed_prefetch_is_retried_later() {
    let (upstream, fails) = fallible().await;
    let prefetch = Some(Prefetch { amount: 1, duration: Duration::from_secs(60), percentage: 10 });
    let serve_stale = Some(stale_for_an_hour(Verify::Immediate));
    let cache = config::Cache { prefetch, serve_stale, ..config::Cache::default() };
    let context = ServerContext::default();
    let metrics = context.metrics.cache("dns://:53", ".");
    let forwarder =
        Forwarder::start((&[rule(&[&upstream])], &[]), Some((&cache, metrics)), &context).unwrap();
    resolve(&forwarder, "example.org.").await;
    pass(Duration::from_secs(55)).await;
    fails.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(addresses(&resolve(&forwarder, "example.org.").await), ["example.org. 5 192.0.2.1"]);
    let count_failure = || context.metrics.text().contains("rcode=\"SERVFAIL\"");
    while !count_failure() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    fails.store(false, std::sync::atomic::Ordering::Relaxed);
    pass(Duration::from_secs(60)).await;
    let began = Instant::now();
    while addresses(&resolve(&forwarder, "example.org.").await) != ["example.org. 60 192.0.2.1"] {
        assert!(began.elapsed() < Duration::from_secs(10), "still stale");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn popular_answers_are_prefetched() {
    let upstream = Fake::plain().await;
    let prefetch = Some(Prefetch { amount: 3, duration: Duration::from_secs(60), percentage: 10 });
    let cache = config::Cache { prefetch, ..config::Cache::default() };
    let forwarder = caching(rule(&[&upstream]), &cache);
    resolve(&forwarder, "popular.example.").await;
    resolve(&forwarder, "rare.example.").await;
    for _ in 0..3 {
        resolve(&forwarder, "popular.example.").await;
    }
    pass(Duration::from_secs(55)).await;
    resolve(&forwarder, "rare.example.").await;
    assert_eq!(addresses(&resolve(&forwarder, "popular.example.").await), ["popular.example. 5 192.0.2.1"]);
    while upstream.questions() < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    while addresses(&resolve(&forwarder, "popular.example.").await) != ["popular.example. 60 192.0.2.1"] {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(upstream.questions(), 3);
}

#[tokio::test]
async fn concurrent_queries_are_spread_over_the_upstreams() {
    let upstreams = [Fake::plain().await, Fake::plain().await, Fake::plain().await];
    let all: Vec<&Fake> = upstreams.iter().collect();
    for policy in [Policy::RoundRobin, Policy::Random] {
        let before: u32 = upstreams.iter().map(Fake::questions).sum();
        let forwarder = start(&[Forward { policy, ..rule(&all) }]);
        let names: HashSet<String> = (0..60).map(|number| format!("n{number}.example.")).collect();
        join_all(names.iter().map(|name| resolve(&forwarder, name))).await;
        assert!(upstreams.iter().all(|upstream| upstream.questions() > 0), "{policy:?}");
        let queries = upstreams.iter().map(Fake::questions).sum::<u32>() - before;
        assert!((60..=70).contains(&queries), "{policy:?}: {queries}");
    }
}
