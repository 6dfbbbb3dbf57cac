//! Requests over TCP: pipelined on a connection, and answered out of order (RFC 7766).

use std::{
    io, iter,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, split},
    net::{TcpListener, TcpStream},
    sync::{
        mpsc::{self, OwnedPermit},
        watch,
    },
    task::yield_now,
    time::{interval, sleep, timeout},
};
use tracing::debug;

use super::{
    connections::{ConnectionSlot, QueuedReply},
    https,
    serving::{MAX_REQUEST, Serving, canonical, is_answerable},
};
use crate::{
    observe::{
        heartbeat::{INTERVAL, TaskHeartbeat},
        metrics::{Loss, Losses, Transport},
    },
    serve::handler::{Client, Handled, Transfer},
};

/// The idle timeout of a connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// The timeout for the rest of a request after its first octet.
const READ_TIMEOUT: Duration = Duration::from_secs(3);
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// The idle timeout of a connection while the server stops.
const STOP_IDLE_TIMEOUT: Duration = Duration::from_millis(250);
/// The limit of a transfer: a client that reads slowly must not keep others from theirs.
const MAX_TRANSFER: Duration = Duration::from_secs(600);
/// Limit of pending requests of one connection. At the limit, the connection is not read.
const MAX_IN_FLIGHT: usize = 64;
/// Octets of requests that are read at a time.
const READ_AHEAD: usize = 1 << 10;
/// The work of a turn: requests, and units of octets of their replies.
const TURN: usize = 16;
const TURN_OCTETS: usize = 2 << 10;
/// The size at which replies are written without collecting more.
const WRITE_CHUNK: usize = 64 << 10;
/// The pause after a failed `accept`, for lack of file descriptors: other connections must close first.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

pub async fn serve(listener: TcpListener, serving: Serving, heartbeat: TaskHeartbeat) {
    let mut stop = serving.stop.clone();
    let mut interval = interval(INTERVAL);
    // Closed when all connections have ended.
    let (conversing, mut ended) = mpsc::channel::<()>(1);
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            _ = interval.tick() => {
                heartbeat.record();
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => accept(stream, client, &serving, &conversing),
            Err(error) => {
                debug!(%error, "connection not accepted");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
    // Connections in the listener's backlog are served, too.
    for (stream, client) in accept_backlog(listener) {
        accept(stream, client, &serving, &conversing);
    }
    drop(conversing);
    let _ = ended.recv().await;
}

/// The connections in the backlog of a listener that ends, accepted without the runtime: it may not have polled
/// them yet, and its cooperative budget limits the number per poll.
fn accept_backlog(listener: TcpListener) -> impl Iterator<Item = (TcpStream, SocketAddr)> {
    let listener = listener.into_std().ok();
    let accepted = iter::from_fn(move || listener.as_ref()?.accept().ok());
    accepted.filter_map(|(stream, client)| {
        stream.set_nonblocking(true).ok()?;
        Some((TcpStream::from_std(stream).ok()?, client))
    })
}

fn accept(stream: TcpStream, client: SocketAddr, serving: &Serving, conversing: &mpsc::Sender<()>) {
    if !is_answerable(client) {
        return;
    }
    let client = canonical(client);
    if !serving.admits(client) {
        return;
    }
    let Some(slot) = serving.connections.admit(client) else {
        debug!(%client, "connection refused, limit reached");
        serving.losses.count(Loss::Connection, 1);
        return;
    };
    let (serving, conversing) = (serving.clone(), conversing.clone());
    tokio::spawn(async move {
        serve_connection(stream, slot, serving).await;
        drop(conversing);
    });
}

async fn serve_connection(stream: TcpStream, slot: ConnectionSlot, serving: Serving) {
    // Replies are written in one piece, so Nagle's algorithm only delays them.
    let _ = stream.set_nodelay(true);
    let port = stream.peer_addr().map_or(0, |peer| peer.port());
    let local = stream.local_addr().map_or(Ipv4Addr::UNSPECIFIED.into(), |local| local.ip().to_canonical());
    let is_encrypted = serving.security.is_some();
    let is_http = serving.security.as_ref().is_some_and(|security| security.is_https);
    let client =
        Client { transport: Transport::Tcp, address: slot.client, port, local, is_encrypted, is_http };
    let slot = Arc::new(slot);
    let Some(security) = serving.security.clone() else {
        let (read, write) = stream.into_split();
        return converse((read, write), (slot, client), serving).await;
    };
    match timeout(READ_TIMEOUT, security.certificate.acceptor().accept(stream)).await {
        Ok(Ok(stream)) if security.is_https => https::converse(stream, (slot, client), serving).await,
        Ok(Ok(stream)) => converse(split(stream), (slot, client), serving).await,
        Ok(Err(_)) | Err(_) => {
            debug!(client = %client.address, "no TLS connection");
            serving.losses.count(Loss::Handshake, 1);
        }
    }
}

/// Serves one connection until it is closed, idle for too long, or too slow.
async fn converse(
    (read, write): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin + Send + 'static),
    (slot, client): (Arc<ConnectionSlot>, Client),
    serving: Serving,
) {
    let (replies, waiting) = mpsc::channel(MAX_IN_FLIGHT);
    let writer = tokio::spawn(reply(write, waiting, serving.losses.clone()));
    let mut read = BufReader::with_capacity(READ_AHEAD, read);
    let mut stop = serving.stop.clone();
    // Limit of requests received after the stop, so that a busy client cannot delay it.
    let mut remaining = MAX_IN_FLIGHT;
    // The work since others had their turns.
    let mut work = 0;
    'connection: while remaining > 0 {
        let request = tokio::select! {
            biased;
            request = read_request(&mut read) => request,
            () = stop_grace(&mut stop) => break,
        };
        if *stop.borrow() {
            remaining = remaining.saturating_sub(1);
        }
        // Reserves the reply's queue slot first: a client that does not read replies is not read either.
        let (Ok(mut request), Ok(mut queue_slot)) = (request, replies.clone().reserve_owned().await) else {
            break;
        };
        let turn = slot.turn().await;
        // The requests that are there; a turn waits neither for the client's next ones nor for its reading.
        loop {
            let Some(done) = handle(&request, client, (queue_slot, &replies), (&slot, &serving)) else {
                break 'connection;
            };
            work += done;
            let next =
                replies.clone().try_reserve_owned().ok().filter(|_| starts_with_request(read.buffer()));
            let has_more = work < TURN && !*stop.borrow();
            let Some(next_slot) = next.filter(|_| has_more) else { break };
            let Ok(next_request) = read_request(&mut read).await else { break 'connection };
            (request, queue_slot) = (next_request, next_slot);
        }
        if work >= TURN {
            work = 0;
            yield_now().await;
        }
        drop(turn);
    }
    drop(replies);
    // The writer ends with the last reply.
    let _ = writer.await;
}

/// Handles a request, whose reply has a place in the queue. Returns its work; `None`: the connection is to be closed.
fn handle(
    request: &[u8],
    client: Client,
    (queue_slot, replies): (OwnedPermit<Option<QueuedReply>>, &mpsc::Sender<Option<QueuedReply>>),
    (slot, serving): (&Arc<ConnectionSlot>, &Serving),
) -> Option<usize> {
    let reply = match serving.handler.handle(request, client) {
        Handled::Dropped => return None,
        Handled::Transfer(transfer) => {
            let queue = (queue_slot, replies.clone());
            tokio::spawn(timeout(MAX_TRANSFER, send_zone(transfer, slot.clone(), queue)));
            return Some(1);
        }
        Handled::Reply(reply) => reply,
        Handled::Pending(pending) => match serving.acquire_slot() {
            None => pending.refuse(),
            Some(pending_slot) => {
                let (slot, losses) = (slot.clone(), serving.losses.clone());
                tokio::spawn(async move {
                    let reply = pending.finish().await;
                    queue_slot.send(slot.reserve(reply, &losses));
                    drop(pending_slot);
                });
                return Some(1);
            }
        },
    };
    let work = 1 + reply.len() / TURN_OCTETS;
    queue_slot.send(slot.reserve(reply, &serving.losses));
    Some(work)
}

/// Whether the next request is there whole. One that is too long is, as its length is enough to refuse it.
fn starts_with_request(octets: &[u8]) -> bool {
    let Some((length, rest)) = octets.split_first_chunk() else { return false };
    let length = usize::from(u16::from_be_bytes(*length));
    length <= rest.len() || length > MAX_REQUEST
}

/// Sends the messages of a transfer, until the client goes away.
async fn send_zone(
    transfer: Box<Transfer>,
    slot: Arc<ConnectionSlot>,
    (first, replies): (OwnedPermit<Option<QueuedReply>>, mpsc::Sender<Option<QueuedReply>>),
) {
    let mut place = Some(first);
    for message in transfer.messages() {
        let next = match place.take() {
            Some(first) => first,
            None => match replies.clone().reserve_owned().await {
                Ok(next) => next,
                Err(_) => return,
            },
        };
        let reply = slot.reserve_when_free(message).await;
        let is_cut = reply.is_none();
        next.send(reply);
        if is_cut {
            return;
        }
    }
}

/// Waits until the server stops, and then for requests that may be in transit.
async fn stop_grace(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender was dropped: the same as a stop.
    let _ = stop.wait_for(|stop| *stop).await;
    sleep(STOP_IDLE_TIMEOUT).await;
}

async fn read_request(read: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut len = [0; 2];
    let first = timeout(IDLE_TIMEOUT, read.read(&mut len[..1])).await??;
    if first == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    timeout(READ_TIMEOUT, async {
        read.read_exact(&mut len[1..]).await?;
        let len = usize::from(u16::from_be_bytes(len));
        if len > MAX_REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut request = vec![0; len];
        read.read_exact(&mut request).await?;
        Ok(request)
    })
    .await?
}

/// Writes replies as they become ready, until the last one, or until `None`, which closes the connection.
async fn reply(
    mut write: impl AsyncWrite + Unpin,
    mut waiting: mpsc::Receiver<Option<QueuedReply>>,
    losses: Losses,
) {
    let mut out = Vec::new();
    let mut held = Vec::new();
    while let Some(next) = waiting.recv().await {
        let mut next = Some(next);
        // Collects the replies that are ready.
        while let Some(unread) = next {
            let Some(QueuedReply { reply, permits }) = unread else { return };
            append(&mut out, &reply);
            held.push(permits);
            next = if out.len() < WRITE_CHUNK { waiting.try_recv().ok() } else { None };
        }
        // Over TLS, octets may wait in its buffer.
        let written = async {
            write.write_all(&out).await?;
            write.flush().await
        };
        match timeout(WRITE_TIMEOUT, written).await {
            Ok(Ok(())) => {}
            // Closed by the client.
            Ok(Err(_)) => return,
            Err(_) => return losses.count(Loss::Unread, 1),
        }
        out.clear();
        held.clear();
    }
}

fn append(out: &mut Vec<u8>, reply: &[u8]) {
    // A reply is at most 65,535 octets.
    let len = u16::try_from(reply.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(reply);
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use futures_util::FutureExt as _;
    use tokio::io::DuplexStream;

    use super::*;
    use crate::{
        observe::metrics::Metrics,
        serve::server::{connections::Connections, serving::refusing},
    };

    /// A question for the root, with its length.
    const REQUEST: [u8; 19] = [0, 17, 0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1];
    const ROOM: usize = 1 << 16;

    /// A connection to a server that refuses every query, with so many queries sent.
    fn connect(serving: &Serving, address: impl Into<IpAddr>, queries: usize) -> DuplexStream {
        let address = address.into();
        let (server, mut own) = tokio::io::duplex(ROOM);
        let slot = Arc::new(serving.connections.admit(address).unwrap());
        let client = Client {
            transport: Transport::Tcp,
            address,
            port: 4242,
            local: Ipv4Addr::LOCALHOST.into(),
            is_encrypted: false,
            is_http: false,
        };
        let queries = REQUEST.repeat(queries);
        assert!(own.write_all(&queries).now_or_never().is_some_and(|written| written.is_ok()));
        tokio::spawn(converse(split(server), (slot, client), serving.clone()));
        own
    }

    fn refused(metrics: &Metrics) -> u64 {
        let text = metrics.text();
        let counts = text.lines().filter(|line| line.starts_with("coredns_dns_responses_total"));
        counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    #[tokio::test]
    async fn a_client_that_sends_many_queries_on_many_connections_does_not_delay_others() {
        let one = [Ipv4Addr::new(10, 0, 0, 1).into(); 64];
        let of_network = |network, host| IpAddr::from([0xfd00, 0, 0, network, 0, 0, 0, host]);
        let many = std::array::from_fn(|host| of_network(1, host as u16 + 1));
        for (case, flooders, other) in [
            ("one address", one, Ipv4Addr::new(10, 0, 0, 2).into()),
            ("many addresses of one network", many, of_network(2, 1)),
        ] {
            let metrics = Metrics::default();
            let serving = refusing(&metrics);
            let queries = ROOM / REQUEST.len();
            let flood = flooders.map(|flooder| connect(&serving, flooder, queries));
            let mut other = connect(&serving, other, 1);
            let mut reply = [0; REQUEST.len()];
            other.read_exact(&mut reply).await.unwrap();
            // One turn until it is handled, and another one until its reply is written.
            let before = refused(&metrics);
            assert!(before <= 3 * TURN as u64, "{case}: {before} queries of the others were handled first");
            drop(flood);
        }
    }

    #[tokio::test]
    async fn requests_are_read_whole_whatever_their_segments() {
        for pieces in [1, 2, 3, 18, 19, 20, 500] {
            let metrics = Metrics::default();
            let mut client = connect(&refusing(&metrics), Ipv4Addr::LOCALHOST, 0);
            let sent = REQUEST.repeat(200);
            for piece in sent.chunks(pieces) {
                client.write_all(piece).await.unwrap();
                yield_now().await;
            }
            let mut replies = vec![0; sent.len()];
            client.read_exact(&mut replies).await.unwrap();
            assert_eq!(refused(&metrics), 200, "in pieces of {pieces}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_closed_and_counted() {
        for (case, reads, lost) in [("a client that reads", true, 0), ("one that does not", false, 1)] {
            let (metrics, connections) = (Metrics::default(), Arc::<Connections>::default());
            let slot = connections.admit(Ipv4Addr::LOCALHOST.into()).unwrap();
            let unread = QueuedReply { reply: vec![0; 100], permits: slot.acquire(100).unwrap() };
            let (write, mut read) = tokio::io::duplex(16);
            let (replies, waiting) = mpsc::channel(1);
            replies.send(Some(unread)).await.unwrap();
            drop(replies);
            let client = async {
                let mut buffer = Vec::new();
                if reads {
                    read.read_to_end(&mut buffer).await.unwrap();
                } else {
                    sleep(WRITE_TIMEOUT * 2).await;
                }
            };
            tokio::join!(reply(write, waiting, metrics.losses()), client);
            let line = format!("portreeve_dns_lost_total{{kind=\"unread\"}} {lost}");
            assert!(metrics.text().contains(&line), "{case}");
        }
    }
}
