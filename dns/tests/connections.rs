//! Clients over TCP that mean no good, or have little time: what they get, and what others still get.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd as _,
    sync::Arc,
    time::{Duration, Instant},
};

use dns::{
    config::{Config, Forward, Kubernetes, Listen, Protocol, ServerBlock, Tls, Upstream},
    forward::Surroundings,
    name::domain,
    run,
    server::Server,
    snapshot::{Index, Published},
    zone::{Change, Endpoints, Key, ObjectName, Service, ServiceKind, Slice},
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream, UdpSocket},
    time::{sleep, timeout},
};

/// An answer about them nearly fills a message.
const ENDPOINTS: u32 = 4000;
const HUGE: &str = "huge.shop.svc.cluster.local";
const PATIENCE: Duration = Duration::from_secs(20);
/// Where the first label of a question stands.
const NAME: usize = 13;

struct Started {
    server: Server,
    address: SocketAddr,
    surroundings: Surroundings,
    upstream: UdpSocket,
}

impl Started {
    async fn new() -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    async fn at(address: SocketAddr) -> Self {
        let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let published = Arc::new(Published::default());
        published.publish(cluster().snapshot(1));
        let surroundings = Surroundings::default();
        let config = forwarding(Forward::to(vec![Upstream::plain(upstream.local_addr().unwrap())]));
        let server = run::start(&config, &[address], &published, &surroundings).unwrap();
        let address = server.addresses()[0];
        Self { server, address, surroundings, upstream }
    }

    /// From one of the addresses of this machine.
    async fn connect(&self, from: [u8; 4]) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::from(from), 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    async fn comes_to_count(&self, what: &str) {
        let line = format!("portreeve_dns_lost_total{{what=\"{what}\"}} 0");
        let began = Instant::now();
        while self.surroundings.metrics.text().contains(&line) {
            assert!(began.elapsed() < PATIENCE, "no {what} was lost");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

fn forwarding(forward: Forward) -> Config {
    let block = ServerBlock {
        kubernetes: Some(Kubernetes::shipped(&domain("cluster.local").unwrap())),
        forwards: vec![forward],
        ..ServerBlock::new(vec![Listen::plain(domain(".").unwrap_or_default())])
    };
    Config { servers: vec![block] }
}

fn cluster() -> Index {
    let mut index = Index::default();
    let key = Key::new("shop", "huge").unwrap();
    let service = Service { kind: ServiceKind::Headless, has_selector: true };
    index.apply(Change::Service(key.clone(), Some(Arc::new(service))));
    let id = ObjectName { namespace: "shop".into(), name: "huge-1".into() };
    let unnamed = (0..ENDPOINTS).map(|n| Ipv4Addr::from(0x0a00_0000 + n)).collect();
    let slice = Slice {
        id: id.clone(),
        service: key,
        ports: [].into(),
        v4: Endpoints { unnamed, named: [].into() },
        v6: Endpoints { unnamed: [].into(), named: [].into() },
        zones: [].into(),
        triggered: None,
        local_pods: None,
    };
    index.apply(Change::Slice(id, Some(Arc::new(slice))));
    index
}

/// With its length in front.
fn question(name: &str) -> Vec<u8> {
    let mut question = vec![0, 0, 0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend(label.bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    let len = u16::try_from(question.len() - 2).unwrap();
    question[..2].copy_from_slice(&len.to_be_bytes());
    question
}

/// How many answers the next reply has; `None`: the connection has ended.
async fn next_reply(stream: &mut TcpStream) -> Option<u16> {
    let read = async {
        let len = stream.read_u16().await.ok()?;
        let mut reply = vec![0; len.into()];
        stream.read_exact(&mut reply).await.ok()?;
        Some(u16::from_be_bytes([reply[6], reply[7]]))
    };
    timeout(PATIENCE, read).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_on_one_connection_are_all_answered() {
    let started = Started::new().await;
    let mut stream = started.connect([127, 0, 0, 1]).await;
    stream.write_all(&question("missing.shop.svc.cluster.local").repeat(500)).await.unwrap();
    for n in 0..500 {
        assert_eq!(next_reply(&mut stream).await, Some(0), "reply {n}");
    }
    stream.write_all(&question(HUGE)).await.unwrap();
    assert_eq!(next_reply(&mut stream).await, Some(4000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_of_no_use_is_ended() {
    let started = Started::new().await;
    for (what, sent, within) in [
        ("a part of a question", &[0_u8, 40, 1, 2][..], 5),
        ("the length alone", &[0], 5),
        ("a question longer than any", &[0xff, 0xff], 1),
        ("no question", &[0, 3, 1, 2, 3], 1),
    ] {
        let mut stream = started.connect([127, 0, 0, 1]).await;
        stream.write_all(sent).await.unwrap();
        let began = Instant::now();
        assert_eq!(next_reply(&mut stream).await, None, "{what}");
        assert!(began.elapsed() < Duration::from_secs(within), "{what}: {:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_answers_keeps_nobody_else_from_them() {
    let started = Started::new().await;
    let mut deaf = Vec::new();
    for _ in 0..8 {
        let mut stream = started.connect([127, 0, 0, 1]).await;
        // What the server does not take stays behind.
        let _ = stream.try_write(&question(HUGE).repeat(500)).unwrap();
        stream.flush().await.unwrap();
        deaf.push(stream);
    }
    started.comes_to_count("unread").await;
    let mut other = started.connect([127, 0, 0, 2]).await;
    other.write_all(&question(HUGE)).await.unwrap();
    assert_eq!(next_reply(&mut other).await, Some(4000));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_cannot_take_all_connections() {
    let started = Started::new().await;
    let mut many = Vec::new();
    for _ in 0..257 {
        many.push(started.connect([127, 0, 0, 1]).await);
    }
    started.comes_to_count("connection").await;
    let mut other = started.connect([127, 0, 0, 2]).await;
    other.write_all(&question("missing.shop.svc.cluster.local")).await.unwrap();
    assert_eq!(next_reply(&mut other).await, Some(0));
}

/// One server after another, as when a configuration changes: somebody always listens, and whoever it was answers.
#[tokio::test(flavor = "multi_thread")]
async fn no_question_is_lost_while_servers_take_turns() {
    let mut started = Started::new().await;
    let asking = tokio::spawn(ask_for(Duration::from_secs(3), started.address));
    while !asking.is_finished() {
        let next = Started::at(started.address).await;
        std::mem::replace(&mut started, next).server.stop().await;
    }
    assert!(asking.await.unwrap() > 1000);
}

/// One question after another, and how many were answered: all.
async fn ask_for(time: Duration, server: SocketAddr) -> u32 {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    let question = question("missing.shop.svc.cluster.local");
    let (mut reply, mut answered) = ([0; 512], 0);
    let began = Instant::now();
    while began.elapsed() < time {
        socket.send(&question[2..]).await.unwrap();
        timeout(PATIENCE, socket.recv(&mut reply)).await.expect("a question was lost").unwrap();
        answered += 1;
    }
    answered
}

/// As when a configuration changes to one that is of no use, and is tried again and again.
#[tokio::test(flavor = "multi_thread")]
async fn no_question_is_lost_to_a_server_that_cannot_start() {
    let started = Started::new().await;
    let upstream = started.upstream.local_addr().unwrap();
    let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let taken = other.local_addr().unwrap();
    let to = Upstream::Server { address: upstream, protocol: Protocol::Tls, server_name: None };
    let tls = Tls { authority: Some("/nonexistent".into()), ..Tls::default() };
    let unusable = [
        (forwarding(Forward { tls, ..Forward::to(vec![to]) }), vec![started.address]),
        (forwarding(Forward::to(vec![Upstream::plain(upstream)])), vec![started.address, taken]),
    ];
    let asking = tokio::spawn(ask_for(Duration::from_secs(2), started.address));
    while !asking.is_finished() {
        for (config, listen) in &unusable {
            run::start(config, listen, &Arc::default(), &started.surroundings).unwrap_err();
        }
        tokio::task::yield_now().await;
    }
    assert!(asking.await.unwrap() > 100);
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_before_the_end_is_answered() {
    let started = Started::new().await;
    let mut stream = started.connect([127, 0, 0, 1]).await;
    stream.write_all(&question("www.example.org")).await.unwrap();
    let mut asked = [0; 512];
    let (length, server) = started.upstream.recv_from(&mut asked).await.unwrap();
    let stopping = tokio::spawn(started.server.stop());
    // Nobody new is heard any more, which is how one sees that it has begun to stop.
    while TcpStream::connect(started.address).await.is_ok() {
        sleep(Duration::from_millis(10)).await;
    }
    echo(&started.upstream, &asked[..length], server).await;
    assert_eq!(next_reply(&mut stream).await, Some(0));
    assert_eq!(next_reply(&mut stream).await, None);
    timeout(PATIENCE, stopping).await.unwrap().unwrap();
}

/// Nothing is known of the name.
async fn echo(upstream: &UdpSocket, question: &[u8], server: SocketAddr) {
    let mut reply = question.to_vec();
    reply[2] |= 0x80;
    upstream.send_to(&reply, server).await.unwrap();
}

/// The server has no turn between the connections and its end.
#[tokio::test]
async fn who_has_just_connected_is_heard_at_the_end() {
    let started = Started::new().await;
    let mut streams = Vec::new();
    for n in (0..2).cycle().take(300) {
        // One client may not have them all.
        let mut stream = connected([127, 0, 0, 1 + n], started.address);
        stream.write_all(&question("missing.shop.svc.cluster.local")).unwrap();
        streams.push(stream);
    }
    let stopping = tokio::spawn(started.server.stop());
    for (n, stream) in streams.into_iter().enumerate() {
        stream.set_nonblocking(true).unwrap();
        assert_eq!(next_reply(&mut TcpStream::from_std(stream).unwrap()).await, Some(0), "connection {n}");
    }
    timeout(PATIENCE, stopping).await.unwrap().unwrap();
}

/// Without giving anybody else a turn.
fn connected(from: [u8; 4], to: SocketAddr) -> std::net::TcpStream {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
    let from = SocketAddr::from((from, 0));
    bind(socket.as_raw_fd(), &SockaddrStorage::from(from)).unwrap();
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).unwrap();
    socket.into()
}

/// Who waits at the end leaves room for who asks at the end.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_at_the_end_is_not_refused() {
    // On a busy machine the question may come when the connection has ended, and shows nothing then.
    for _ in 0..10 {
        if is_heard_at_the_end().await {
            return;
        }
    }
    panic!("the end always came before the question");
}

async fn is_heard_at_the_end() -> bool {
    let started = Started::new().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut stream = started.connect([127, 0, 0, 1]).await;
    socket.send_to(&question("first.example.org")[2..], started.address).await.unwrap();
    let (first, server) = hears(&started.upstream, b"first").await;
    let stopping = tokio::spawn(started.server.stop());
    sleep(Duration::from_millis(50)).await;
    let _ = stream.write_all(&question("second.example.org")).await;
    let (second, again) = tokio::select! {
        heard = hears(&started.upstream, b"second") => heard,
        reply = next_reply(&mut stream) => {
            assert_eq!(reply, None, "refused");
            return false;
        }
    };
    echo(&started.upstream, &second, again).await;
    echo(&started.upstream, &first, server).await;
    assert_eq!(next_reply(&mut stream).await, Some(0));
    timeout(PATIENCE, socket.recv(&mut [0; 512])).await.unwrap().unwrap();
    timeout(PATIENCE, stopping).await.unwrap().unwrap();
    true
}

/// The question whose first label begins so; others may be asked again meanwhile.
async fn hears(upstream: &UdpSocket, label: &[u8]) -> (Vec<u8>, SocketAddr) {
    let mut asked = [0; 512];
    loop {
        let (length, server) = upstream.recv_from(&mut asked).await.unwrap();
        if asked[NAME..].to_ascii_lowercase().starts_with(label) {
            return (asked[..length].to_vec(), server);
        }
    }
}
