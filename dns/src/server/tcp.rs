//! Requests over TCP: many on one connection, answered as soon as each is ready.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::timeout,
};
use tracing::debug;

use super::{Serving, canonical, is_answerable};
use crate::{
    handler::{Client, Handled},
    metrics::Protocol,
};

/// How long a connection may rest between requests.
const IDLE: Duration = Duration::from_secs(10);
/// How long a request that has begun may take to arrive.
const READ: Duration = Duration::from_secs(3);
const WRITE: Duration = Duration::from_secs(5);
/// Requests of one connection that wait for their answers. Who sends more is not read until some have them.
const MAX_IN_FLIGHT: usize = 64;
const MAX_CONNECTIONS: usize = 2048;
const MAX_PER_CLIENT: usize = 256;
/// When accepting fails, it is for want of file descriptors: others must close theirs first.
const PAUSE: Duration = Duration::from_millis(50);

/// Who is connected, so that nobody can keep others out.
#[derive(Debug, Default)]
pub struct Connections(Mutex<HashMap<IpAddr, usize>>);

impl Connections {
    fn enter(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = clients.values().sum();
        let own = clients.entry(client).or_default();
        if all >= MAX_CONNECTIONS || *own >= MAX_PER_CLIENT {
            return None;
        }
        *own += 1;
        Some(Place { connections: self.clone(), client })
    }

    fn leave(&self, client: IpAddr) {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = clients.get_mut(&client) {
            *own -= 1;
            if *own == 0 {
                clients.remove(&client);
            }
        }
    }
}

/// A connection that counts.
struct Place {
    connections: Arc<Connections>,
    client: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.leave(self.client);
    }
}

pub async fn serve(listener: TcpListener, serving: Serving) {
    let mut stop = serving.stop.clone();
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) if is_answerable(client) => {
                let client = canonical(client);
                let Some(place) = serving.connections.enter(client) else {
                    debug!(%client, "connection refused, there are too many");
                    continue;
                };
                let serving = serving.clone();
                tokio::spawn(async move {
                    converse(stream, client, serving).await;
                    drop(place);
                });
            }
            Ok(_) => {}
            Err(error) => {
                debug!(%error, "connection not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Serves one client until it ends, rests too long, or is too slow.
async fn converse(stream: TcpStream, client: IpAddr, serving: Serving) {
    // Replies are written whole.
    let _ = stream.set_nodelay(true);
    let (mut read, write) = stream.into_split();
    let (replies, waiting) = mpsc::channel(MAX_IN_FLIGHT);
    let writer = tokio::spawn(reply(write, waiting));
    let mut stop = serving.stop.clone();
    loop {
        let request = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            request = next(&mut read) => request,
        };
        // A place for the reply first: a client that does not read its answers is not read either.
        let (Ok(request), Ok(place)) = (request, replies.clone().reserve_owned().await) else { break };
        match serving.handler.handle(&request, Client { protocol: Protocol::Tcp, address: client }) {
            Handled::Dropped => break,
            Handled::Reply(reply) => drop(place.send(reply)),
            Handled::Pending(pending) => {
                tokio::spawn(async move { drop(place.send(pending.finish().await)) });
            }
        }
    }
    drop(replies);
    // It ends when the last answer is written.
    let _ = writer.await;
}

async fn next(read: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let mut len = [0; 2];
    let first = timeout(IDLE, read.read(&mut len[..1])).await??;
    if first == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    timeout(READ, async {
        read.read_exact(&mut len[1..]).await?;
        let mut request = vec![0; usize::from(u16::from_be_bytes(len))];
        read.read_exact(&mut request).await?;
        Ok(request)
    })
    .await?
}

async fn reply(mut write: OwnedWriteHalf, mut waiting: mpsc::Receiver<Vec<u8>>) {
    let mut out = Vec::new();
    while let Some(reply) = waiting.recv().await {
        out.clear();
        append(&mut out, &reply);
        // What is ready by now goes with it.
        while let Ok(reply) = waiting.try_recv() {
            append(&mut out, &reply);
        }
        match timeout(WRITE, write.write_all(&out)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

fn append(out: &mut Vec<u8>, reply: &[u8]) {
    // No reply is longer than a message can be.
    let len = u16::try_from(reply.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(reply);
}
