//! Requests over TCP: many on one connection, answered as soon as each is ready.

use std::{
    collections::{HashMap, hash_map::Entry},
    io, iter,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{interval, sleep, timeout},
};
use tracing::debug;

use super::{MAX_REQUEST, Serving, canonical, is_answerable};
use crate::{
    observe::{
        heartbeat::{INTERVAL, TaskHeartbeat},
        metrics::{Loss, Losses, Transport},
    },
    serve::handler::{Client, Handled},
};

/// How long a connection may rest between requests.
const IDLE: Duration = Duration::from_secs(10);
/// How long a request that has begun may take to arrive.
const READ: Duration = Duration::from_secs(3);
const WRITE: Duration = Duration::from_secs(5);
/// How long a connection may rest before its first or next request, once the server stops.
const LAST: Duration = Duration::from_millis(250);
/// Requests of one connection that wait for their answers. Who sends more is not read until some have them.
const MAX_IN_FLIGHT: usize = 64;
const MAX_CONNECTIONS: usize = 2048;
const MAX_PER_CLIENT: usize = 256;
/// Octets of replies that wait to be written. Who lets more of them wait is not reading, and loses its connection: a
/// few connections with large answers would fill the memory of the node.
const MAX_UNREAD: usize = 64 << 20;
const MAX_UNREAD_PER_CLIENT: usize = 4 << 20;
/// So much is written at a time.
const WRITE_CHUNK: usize = 64 << 10;
/// When accepting fails, it is for want of file descriptors: others must close theirs first.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Who is connected, so that nobody can keep others out.
#[derive(Debug)]
pub struct Connections {
    clients: Mutex<Clients>,
    /// Octets that may still wait, of all clients together.
    room: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Clients {
    connections: usize,
    each: HashMap<IpAddr, ClientUsage>,
}

/// What one client takes of what there is.
#[derive(Debug)]
struct ClientUsage {
    connections: usize,
    room: Arc<Semaphore>,
}

impl Default for Connections {
    fn default() -> Self {
        Self { clients: Mutex::default(), room: Arc::new(Semaphore::new(MAX_UNREAD)) }
    }
}

impl Connections {
    fn admit(self: &Arc<Self>, client: IpAddr) -> Option<ConnectionSlot> {
        let mut clients = self.lock();
        if clients.connections >= MAX_CONNECTIONS {
            return None;
        }
        let share = clients.each.entry(client).or_insert_with(|| ClientUsage {
            connections: 0,
            room: Arc::new(Semaphore::new(MAX_UNREAD_PER_CLIENT)),
        });
        if share.connections >= MAX_PER_CLIENT {
            return None;
        }
        share.connections += 1;
        let room = share.room.clone();
        clients.connections += 1;
        Some(ConnectionSlot { connections: self.clone(), client, room })
    }

    fn remove(&self, client: IpAddr) {
        let mut clients = self.lock();
        let Entry::Occupied(mut share) = clients.each.entry(client) else { return };
        share.get_mut().connections -= 1;
        if share.get().connections == 0 {
            share.remove();
        }
        clients.connections -= 1;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that counts.
struct ConnectionSlot {
    connections: Arc<Connections>,
    client: IpAddr,
    room: Arc<Semaphore>,
}

impl ConnectionSlot {
    /// `None`: too much of what was answered is not read, and that is the end.
    fn reserve(&self, reply: Vec<u8>, serving: &Serving) -> Option<QueuedReply> {
        let room = self.room(reply.len());
        if room.is_none() {
            debug!(client = %self.client, "connection given up, its replies are not read");
            serving.losses.count(Loss::Unread, 1);
        }
        room.map(|room| QueuedReply { reply, room })
    }

    fn room(&self, octets: usize) -> Option<BufferPermits> {
        let octets = u32::try_from(octets).ok()?;
        let own = self.room.clone().try_acquire_many_owned(octets).ok()?;
        let shared = self.connections.room.clone().try_acquire_many_owned(octets).ok()?;
        Some([own, shared])
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.connections.remove(self.client);
    }
}

/// A reply that waits to be written, and the room it takes until it is.
struct QueuedReply {
    reply: Vec<u8>,
    room: BufferPermits,
}

/// The client's own, and its part of everybody's.
type BufferPermits = [OwnedSemaphorePermit; 2];

pub async fn serve(listener: TcpListener, serving: Serving, heartbeat: TaskHeartbeat) {
    let mut stop = serving.stop.clone();
    let mut interval = interval(INTERVAL);
    // Closed once nobody converses any more.
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
    // Who was connected by the kernel already is heard, too.
    for (stream, client) in accept_backlog(listener) {
        accept(stream, client, &serving, &conversing);
    }
    drop(conversing);
    let _ = ended.recv().await;
}

/// Whoever waits for a listener that ends, straight from the kernel: the runtime may not have heard of them yet, and lets
/// nobody take many at a time.
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
    let Some(slot) = serving.connections.admit(client) else {
        debug!(%client, "connection refused, there are too many");
        serving.losses.count(Loss::Connection, 1);
        return;
    };
    let (serving, conversing) = (serving.clone(), conversing.clone());
    tokio::spawn(async move {
        serve_connection(stream, slot, serving).await;
        drop(conversing);
    });
}

/// Serves one client until it ends, rests too long, or is too slow.
async fn serve_connection(stream: TcpStream, slot: ConnectionSlot, serving: Serving) {
    // Replies are written whole.
    let _ = stream.set_nodelay(true);
    let (mut read, write) = stream.into_split();
    let (replies, waiting) = mpsc::channel(MAX_IN_FLIGHT);
    let writer = tokio::spawn(reply(write, waiting, serving.losses.clone()));
    let client = Client { transport: Transport::Tcp, address: slot.client };
    let slot = Arc::new(slot);
    let mut stop = serving.stop.clone();
    // Requests that are taken after the end has begun: what arrived before it, and no more.
    let mut last = MAX_IN_FLIGHT;
    while last > 0 {
        let request = tokio::select! {
            biased;
            request = next(&mut read) => request,
            () = stop_grace(&mut stop) => break,
        };
        if *stop.borrow() {
            last = last.saturating_sub(1);
        }
        // A turn for the reply first: a client that does not read its answers is not read either.
        let (Ok(request), Ok(turn)) = (request, replies.clone().reserve_owned().await) else { break };
        let answered = match serving.handler.handle(&request, client) {
            Handled::Dropped => break,
            Handled::Reply(reply) => reply,
            Handled::Pending(pending) => match serving.wait() {
                None => pending.refuse(),
                Some(waits) => {
                    let (slot, serving) = (slot.clone(), serving.clone());
                    tokio::spawn(async move {
                        let reply = pending.finish().await;
                        turn.send(slot.reserve(reply, &serving));
                        drop(waits);
                    });
                    continue;
                }
            },
        };
        turn.send(slot.reserve(answered, &serving));
    }
    drop(replies);
    // It ends when the last answer is written.
    let _ = writer.await;
}

/// Until the server stops, and then as long as a request may be on its way.
async fn stop_grace(stop: &mut watch::Receiver<bool>) {
    // Who could stop it is gone: as good as stopped.
    let _ = stop.wait_for(|stop| *stop).await;
    sleep(LAST).await;
}

async fn next(read: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let mut len = [0; 2];
    let first = timeout(IDLE, read.read(&mut len[..1])).await??;
    if first == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    timeout(READ, async {
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

/// Writes replies as they come, until there are no more, or the client is given up (`None`).
async fn reply(
    mut write: impl AsyncWrite + Unpin,
    mut waiting: mpsc::Receiver<Option<QueuedReply>>,
    losses: Losses,
) {
    let mut out = Vec::new();
    let mut rooms = Vec::new();
    while let Some(next) = waiting.recv().await {
        let mut next = Some(next);
        // What is ready by now goes with it.
        while let Some(unread) = next {
            let Some(QueuedReply { reply, room }) = unread else { return };
            append(&mut out, &reply);
            rooms.push(room);
            next = if out.len() < WRITE_CHUNK { waiting.try_recv().ok() } else { None };
        }
        match timeout(WRITE, write.write_all(&out)).await {
            Ok(Ok(())) => {}
            // It is the client who has left.
            Ok(Err(_)) => return,
            Err(_) => return losses.count(Loss::Unread, 1),
        }
        out.clear();
        rooms.clear();
    }
}

fn append(out: &mut Vec<u8>, reply: &[u8]) {
    // No reply is longer than a message can be.
    let len = u16::try_from(reply.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(reply);
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::observe::metrics::Metrics;

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_is_given_up_and_counted() {
        for (what, reads, lost) in [("a client that reads", true, 0), ("one that does not", false, 1)] {
            let (metrics, connections) = (Metrics::default(), Arc::<Connections>::default());
            let slot = connections.admit(Ipv4Addr::LOCALHOST.into()).unwrap();
            let unread = QueuedReply { reply: vec![0; 100], room: slot.room(100).unwrap() };
            let (write, mut read) = tokio::io::duplex(16);
            let (replies, waiting) = mpsc::channel(1);
            replies.send(Some(unread)).await.unwrap();
            drop(replies);
            let client = async {
                let mut buffer = Vec::new();
                if reads {
                    read.read_to_end(&mut buffer).await.unwrap();
                } else {
                    sleep(WRITE * 2).await;
                }
            };
            tokio::join!(reply(write, waiting, metrics.losses()), client);
            let line = format!("portreeve_dns_lost_total{{what=\"unread\"}} {lost}");
            assert!(metrics.text().contains(&line), "{what}");
        }
    }
}
