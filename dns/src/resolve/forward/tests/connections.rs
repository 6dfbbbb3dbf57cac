//! Options of single upstreams: names, source addresses, timeouts, and the age and number of connections.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::*;

fn over_tcp(upstream: &Fake) -> Forward {
    Forward { force_tcp: true, ..rule(&[upstream]) }
}

#[tokio::test]
async fn connections_are_replaced_at_their_maximum_age() {
    let upstream = Fake::plain().await;
    let max_age = Some(Duration::from_secs(30));
    let forwarder = start(&[Forward { max_age, expire: Duration::from_secs(20), ..over_tcp(&upstream) }]);
    for (passed, connections) in [(0, 1), (14, 1), (14, 1), (14, 2)] {
        pass(Duration::from_secs(passed)).await;
        resolve(&forwarder, "example.org.").await;
        assert_eq!(upstream.connections(), connections);
    }
}

#[tokio::test]
async fn idle_connections_are_limited() {
    let upstream = Fake::plain().await;
    let forwarder = start(&[Forward { max_idle: 2, ..over_tcp(&upstream) }]);
    let names: Vec<String> = (0..5).map(|number| format!("n{number}.example.")).collect();
    join_all(names.iter().map(|name| resolve(&forwarder, name))).await;
    assert_eq!(upstream.connections(), 5);
    let closed = async {
        while upstream.open_connections() > 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(30), closed).await;
    assert_eq!(upstream.open_connections(), 2);
}

#[tokio::test]
async fn queries_are_sent_from_the_source_address() {
    let source: IpAddr = Ipv4Addr::new(127, 0, 0, 53).into();
    for force_tcp in [false, true] {
        let upstream = Fake::plain().await;
        for source in [Some(source), None] {
            let forwarder = start(&[Forward { source, force_tcp, ..rule(&[&upstream]) }]);
            resolve(&forwarder, "example.org.").await;
            assert_eq!(upstream.last_client(), source.or(Some(CLIENT)), "{force_tcp}");
        }
    }
}

#[tokio::test]
async fn the_read_timeout_is_that_of_each_upstream() {
    for (read_timeout, want) in [(200, ResponseCode::ServFail), (5000, ResponseCode::NoError)] {
        for force_tcp in [false, true] {
            let upstream = Fake::slow(Duration::from_millis(700)).await;
            let read_timeout = Duration::from_millis(read_timeout);
            let max_attempts = Some(1);
            let rule = Forward { read_timeout, max_attempts, force_tcp, ..rule(&[&upstream]) };
            let (began, reply) = (Instant::now(), resolve(&start(&[rule]), "example.org.").await);
            assert_eq!(reply.rcode, want, "{read_timeout:?} {force_tcp}");
            assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        }
    }
}

#[tokio::test]
async fn attempts_are_limited_and_answers_with_a_failover_code_are_none() {
    for (max_attempts, want) in [(None, 2), (Some(1), 1), (Some(3), 3), (Some(0), 7)] {
        let attempts = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&attempts);
        // Closes each connection.
        let closing = Fake::start(move |query, _| {
            if query.queries[0].query_type() == RecordType::A {
                counted.fetch_add(1, Relaxed);
            }
            vec![vec![]]
        })
        .await;
        let rule = Forward { max_attempts, ..over_tcp(&closing) };
        resolve(&start(&[rule]), "example.org.").await;
        let got = attempts.load(Relaxed);
        if max_attempts == Some(0) {
            assert!(got >= want, "{got} attempts");
        } else {
            assert_eq!(got, want, "{max_attempts:?}");
        }
    }
    let (one, other, good) = (Fake::refusing().await, Fake::refusing().await, Fake::plain().await);
    let failover = vec![ResponseCode::Refused];
    let rule = Forward { failover, max_attempts: Some(1), ..rule(&[&one, &other, &good]) };
    assert_eq!(addresses(&resolve(&start(&[rule]), "Example.ORG.").await), [FOUND]);
}

/// A server that knows one name, at the address in the mutex.
async fn resolver(address: Arc<Mutex<Option<Ipv4Addr>>>) -> Fake {
    Fake::start(move |query, _| {
        let question = &query.queries[0];
        let mut reply = reply_to(query);
        let is_known = *question.name() == name("dns.example.") && question.query_type() == RecordType::A;
        match *address.lock().unwrap() {
            None => reply.metadata.response_code = ResponseCode::ServFail,
            Some(address) if is_known => {
                reply.add_answer(a(question.name().clone(), 1, address.octets()));
            }
            Some(_) => {}
        }
        vec![wire(&reply)]
    })
    .await
}

#[tokio::test]
async fn an_upstream_is_found_by_its_name() {
    let known = Arc::new(Mutex::new(None));
    let (resolver, upstream) = (resolver(Arc::clone(&known)).await, Fake::plain().await);
    let to = |text: &str| Upstream::Host {
        name: name(text).into(),
        port: upstream.address.port(),
        protocol: UpstreamProtocol::Dns,
        server_name: None,
    };
    let rule = |text| Forward { resolvers: vec![resolver.address], ..Forward::to(vec![to(text)]) };
    *known.lock().unwrap() = Some(Ipv4Addr::LOCALHOST);
    let forwarder = start(&[rule("dns.example.")]);
    assert_eq!(addresses(&resolve(&forwarder, "Example.ORG.").await), [FOUND], "the first query waits");
    *known.lock().unwrap() = None;
    pass(Duration::from_secs(400)).await;
    assert_eq!(addresses(&resolve(&forwarder, "Example.ORG.").await), [FOUND], "its last address stays");

    // The start does not depend on the resolver.
    let forwarder = start(&[rule("dns.example.")]);
    assert_eq!(resolve(&forwarder, "example.org.").await.rcode, ResponseCode::ServFail);
    *known.lock().unwrap() = Some(Ipv4Addr::LOCALHOST);
    let began = Instant::now();
    while addresses(&resolve(&forwarder, "Example.ORG.").await) != [FOUND] {
        assert!(began.elapsed() < Duration::from_secs(10), "not found");
    }
    let absent = start(&[rule("absent.example.")]);
    assert_eq!(resolve(&absent, "example.org.").await.rcode, ResponseCode::ServFail);
}
