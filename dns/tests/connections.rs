//! Misbehaving and slow TCP clients, and connections during a stop or a restart: other clients must still be
//! answered.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd as _,
    sync::Arc,
    time::{Duration, Instant},
};

use dns::{
    cluster::{
        name::domain,
        snapshot::{Index, Published},
        zone::{Change, Endpoints, ObjectName, Service, ServiceKey, ServiceKind, Slice},
    },
    config::{Forward, Kubernetes, Listen, Tls, Upstream, UpstreamProtocol},
    plugins::{Config, ServerBlock},
    resolve::forward::ServerContext,
    serve::{run, server::Server},
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream, UdpSocket},
    time::{sleep, timeout},
};

/// Enough for an answer of nearly 65,535 octets.
const ENDPOINTS: u32 = 4000;
const HUGE: &str = "huge.shop.svc.cluster.local";
const TIMEOUT: Duration = Duration::from_secs(20);
/// Offset of the first label of a question: the header and the label's length octet.
const NAME: usize = 13;

struct Started {
    server: Server,
    address: SocketAddr,
    context: ServerContext,
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
        let context = ServerContext::default();
        let to = vec![Upstream::plain(upstream.local_addr().unwrap())];
        let config = forwarding(Forward { max_concurrent: Some(1000), ..Forward::to(to) });
        let server = run::start(&config, &[address], &published, &context).unwrap();
        let address = server.addresses()[0];
        Self { server, address, context, upstream }
    }

    /// Connects from the given loopback address.
    async fn connect(&self, from: [u8; 4]) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::from(from), 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// Waits until the server has counted a loss.
    async fn counts_loss(&self, kind: &str) {
        let line = format!("portreeve_dns_lost_total{{kind=\"{kind}\"}} 0");
        let began = Instant::now();
        while self.context.metrics.text().contains(&line) {
            assert!(began.elapsed() < TIMEOUT, "no {kind} was lost");
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
    let key = ServiceKey::new("shop", "huge").unwrap();
    let service = Service { kind: ServiceKind::Headless, has_selector: true, external: None };
    index.apply(Change::Service(key.clone(), Some(Arc::new(service))));
    let id = ObjectName { namespace: "shop".into(), name: "huge-1".into() };
    let unnamed = (0..ENDPOINTS).map(|n| Ipv4Addr::from(0x0a00_0000 + n)).collect();
    let slice = Slice {
        id: id.clone(),
        service: key,
        ports: [].into(),
        v4: Endpoints { unnamed, named: [].into() },
        v6: Endpoints { unnamed: [].into(), named: [].into() },
        cluster: None,
        imported: None,
        zones: [].into(),
        triggered: None,
        local_pods: None,
    };
    index.apply(Change::Slice(id, Some(Arc::new(slice))));
    index
}

/// A query with its length in front, as sent over TCP.
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

/// The number of answers in the next reply. Returns `None` when the connection is closed.
async fn next_reply(stream: &mut TcpStream) -> Option<u16> {
    let read = async {
        let len = stream.read_u16().await.ok()?;
        let mut reply = vec![0; len.into()];
        stream.read_exact(&mut reply).await.ok()?;
        Some(u16::from_be_bytes([reply[6], reply[7]]))
    };
    timeout(TIMEOUT, read).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_queries_are_all_answered() {
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
async fn a_connection_with_an_incomplete_or_malformed_query_is_closed() {
    let started = Started::new().await;
    for (case, sent, within) in [
        ("a partial query", &[0_u8, 40, 1, 2][..], 5),
        ("a partial length", &[0], 5),
        ("a length above the limit", &[0xff, 0xff], 1),
        ("a message without a header", &[0, 3, 1, 2, 3], 1),
    ] {
        let mut stream = started.connect([127, 0, 0, 1]).await;
        stream.write_all(sent).await.unwrap();
        let began = Instant::now();
        assert_eq!(next_reply(&mut stream).await, None, "{case}");
        assert!(began.elapsed() < Duration::from_secs(within), "{case}: {:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_replies_do_not_block_others() {
    let started = Started::new().await;
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let mut stream = started.connect([127, 0, 0, 1]).await;
        // A short write is expected: the server stops reading.
        let _ = stream.try_write(&question(HUGE).repeat(500)).unwrap();
        stream.flush().await.unwrap();
        stalled.push(stream);
    }
    started.counts_loss("unread").await;
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
    started.counts_loss("connection").await;
    let mut other = started.connect([127, 0, 0, 2]).await;
    other.write_all(&question("missing.shop.svc.cluster.local")).await.unwrap();
    assert_eq!(next_reply(&mut other).await, Some(0));
}

/// The upstream is silent, except for the other client.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_floods_does_not_affect_others() {
    let started = Started::new().await;
    let flood = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let count = |name: &str| {
        let text = started.context.metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        line.unwrap_or_default()
    };
    let refused = "portreeve_dns_refused_total{reason=\"client\"}";
    let mut sent = 0;
    while count(refused) == 0 {
        for _ in 0..50 {
            let name = format!("n{sent}.silent.example.org");
            flood.send_to(&question(&name)[2..], started.address).await.unwrap();
            sent += 1;
        }
        assert!(sent < 20_000, "no query was refused");
        sleep(Duration::from_millis(5)).await;
    }
    let mut other = started.connect([127, 0, 0, 2]).await;
    other.write_all(&question("www.example.net")).await.unwrap();
    let (query, server) = receive(&started.upstream, b"www").await;
    echo(&started.upstream, &query, server).await;
    assert_eq!(next_reply(&mut other).await, Some(0));
    assert_eq!(count("portreeve_dns_refused_total{reason=\"pending\"}"), 0);
}

/// Servers replace each other, as on a configuration change: a socket always listens, and each received query is
/// answered.
#[tokio::test(flavor = "multi_thread")]
async fn no_query_is_lost_while_servers_replace_each_other() {
    let mut started = Started::new().await;
    let querying = tokio::spawn(query_for(Duration::from_secs(3), started.address));
    while !querying.is_finished() {
        let next = Started::at(started.address).await;
        std::mem::replace(&mut started, next).server.stop().await;
    }
    assert!(querying.await.unwrap() > 1000);
}

/// Sends one query after another, each of which must be answered. Returns their number.
async fn query_for(time: Duration, server: SocketAddr) -> u32 {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    let question = question("missing.shop.svc.cluster.local");
    let (mut reply, mut answered) = ([0; 512], 0);
    let began = Instant::now();
    while began.elapsed() < time {
        socket.send(&question[2..]).await.unwrap();
        timeout(TIMEOUT, socket.recv(&mut reply)).await.expect("a query was lost").unwrap();
        answered += 1;
    }
    answered
}

/// The configuration changes to one that cannot be started, and the start is retried.
#[tokio::test(flavor = "multi_thread")]
async fn no_query_is_lost_to_a_server_that_cannot_start() {
    let started = Started::new().await;
    let upstream = started.upstream.local_addr().unwrap();
    let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let taken = other.local_addr().unwrap();
    let to = Upstream::Server { address: upstream, protocol: UpstreamProtocol::Tls, server_name: None };
    let tls = Tls { authority: Some("/nonexistent".into()), ..Tls::default() };
    let unusable = [
        (forwarding(Forward { tls, ..Forward::to(vec![to]) }), vec![started.address]),
        (forwarding(Forward::to(vec![Upstream::plain(upstream)])), vec![started.address, taken]),
    ];
    let querying = tokio::spawn(query_for(Duration::from_secs(2), started.address));
    while !querying.is_finished() {
        for (config, listen) in &unusable {
            run::start(config, listen, &Arc::default(), &started.context).unwrap_err();
        }
        tokio::task::yield_now().await;
    }
    assert!(querying.await.unwrap() > 100);
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_received_before_the_stop_is_answered() {
    let started = Started::new().await;
    let mut stream = started.connect([127, 0, 0, 1]).await;
    stream.write_all(&question("www.example.org")).await.unwrap();
    let mut query = [0; 512];
    let (length, server) = started.upstream.recv_from(&mut query).await.unwrap();
    let stopping = tokio::spawn(started.server.stop());
    // A refused connection shows that the stop has begun.
    while TcpStream::connect(started.address).await.is_ok() {
        sleep(Duration::from_millis(10)).await;
    }
    echo(&started.upstream, &query[..length], server).await;
    assert_eq!(next_reply(&mut stream).await, Some(0));
    assert_eq!(next_reply(&mut stream).await, None);
    timeout(TIMEOUT, stopping).await.unwrap().unwrap();
}

/// Sends the query back as a reply without records (NODATA).
async fn echo(upstream: &UdpSocket, question: &[u8], server: SocketAddr) {
    let mut reply = question.to_vec();
    reply[2] |= 0x80;
    upstream.send_to(&reply, server).await.unwrap();
}

/// The server's tasks do not run between the connections and the stop: all of this is on one thread, and blocks it.
#[tokio::test]
async fn connections_in_the_backlog_are_served_before_the_stop() {
    let started = Started::new().await;
    let mut streams = Vec::new();
    for n in (0..2).cycle().take(300) {
        // Two clients, because of the limit of connections per client.
        let mut stream = connected([127, 0, 0, 1 + n], started.address);
        stream.write_all(&question("missing.shop.svc.cluster.local")).unwrap();
        streams.push(stream);
    }
    let stopping = tokio::spawn(started.server.stop());
    for (n, stream) in streams.into_iter().enumerate() {
        stream.set_nonblocking(true).unwrap();
        assert_eq!(next_reply(&mut TcpStream::from_std(stream).unwrap()).await, Some(0), "connection {n}");
    }
    timeout(TIMEOUT, stopping).await.unwrap().unwrap();
}

/// Connects without yielding to other tasks.
fn connected(from: [u8; 4], to: SocketAddr) -> std::net::TcpStream {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
    let from = SocketAddr::from((from, 0));
    bind(socket.as_raw_fd(), &SockaddrStorage::from(from)).unwrap();
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).unwrap();
    socket.into()
}

/// A query that waits for an upstream during the stop leaves a slot for a query that arrives during the stop.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_during_the_stop_is_not_refused() {
    // On a busy machine the query may arrive after the connection is closed, which proves nothing.
    for _ in 0..10 {
        if is_answered_during_the_stop().await {
            return;
        }
    }
    panic!("the connection was always closed before the query");
}

/// Returns `false` when the connection was closed first.
async fn is_answered_during_the_stop() -> bool {
    let started = Started::new().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut stream = started.connect([127, 0, 0, 1]).await;
    socket.send_to(&question("first.example.org")[2..], started.address).await.unwrap();
    let (first, server) = receive(&started.upstream, b"first").await;
    let stopping = tokio::spawn(started.server.stop());
    sleep(Duration::from_millis(50)).await;
    let _ = stream.write_all(&question("second.example.org")).await;
    let (second, again) = tokio::select! {
        received = receive(&started.upstream, b"second") => received,
        reply = next_reply(&mut stream) => {
            assert_eq!(reply, None, "refused");
            return false;
        }
    };
    echo(&started.upstream, &second, again).await;
    echo(&started.upstream, &first, server).await;
    assert_eq!(next_reply(&mut stream).await, Some(0));
    timeout(TIMEOUT, socket.recv(&mut [0; 512])).await.unwrap().unwrap();
    timeout(TIMEOUT, stopping).await.unwrap().unwrap();
    true
}

/// Receives the query with this prefix of its first label, and skips others, which may be retransmitted meanwhile.
async fn receive(upstream: &UdpSocket, label: &[u8]) -> (Vec<u8>, SocketAddr) {
    let mut query = [0; 512];
    loop {
        let (length, server) = upstream.recv_from(&mut query).await.unwrap();
        if query[NAME..].to_ascii_lowercase().starts_with(label) {
            return (query[..length].to_vec(), server);
        }
    }
}
