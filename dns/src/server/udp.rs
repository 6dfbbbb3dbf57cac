//! Requests over UDP.

use std::{io, sync::Arc};

use tracing::{debug, warn};

use super::{
    Serving, canonical, is_answerable,
    socket::{Arrival, Datagrams},
};
use crate::{
    handler::{Client, Handled, Pending},
    metrics::Protocol,
};

/// No request is larger: what is cut off could not be read anyway.
const MAX_REQUEST: usize = 4096;
/// After so many requests others get their turn on the worker.
const BATCH: usize = 64;

pub async fn serve(socket: Datagrams, mut serving: Serving) {
    let socket = Arc::new(socket);
    let mut buffer = [0; MAX_REQUEST];
    let mut stop = serving.stop.clone();
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            ready = socket.readable() => if let Err(error) = ready {
                warn!(%error, "a UDP socket failed, and is given up");
                break;
            },
        }
        for _ in 0..BATCH {
            match socket.receive(&mut buffer) {
                Ok(Some(arrival)) => take(&socket, &mut serving, &buffer, arrival),
                Ok(None) => break,
                // A client that does not listen any more shows as an error of the socket.
                Err(error) => debug!(%error, "not received"),
            }
        }
        tokio::task::yield_now().await;
    }
    finish(&serving).await;
}

fn take(socket: &Arc<Datagrams>, serving: &mut Serving, buffer: &[u8], arrival: Arrival) {
    let request = buffer.get(..arrival.len).unwrap_or_default();
    if !is_answerable(arrival.client) {
        return;
    }
    let client = Client { protocol: Protocol::Udp, address: canonical(arrival.client) };
    match serving.handler.handle(request, client) {
        Handled::Dropped => {}
        Handled::Reply(reply) => send(socket, &reply, &arrival),
        Handled::Pending(pending) => wait(socket, serving, pending, arrival),
    }
}

fn wait(socket: &Arc<Datagrams>, serving: &Serving, pending: Box<Pending>, arrival: Arrival) {
    let Ok(permit) = serving.waiting.clone().try_acquire_owned() else {
        let reply = pending.refuse();
        return send(socket, &reply, &arrival);
    };
    let socket = socket.clone();
    tokio::spawn(async move {
        let reply = pending.finish().await;
        send(&socket, &reply, &arrival);
        drop(permit);
    });
}

fn send(socket: &Datagrams, reply: &[u8], arrival: &Arrival) {
    match socket.send(reply, arrival) {
        Ok(()) => {}
        // The client asks again; waiting would hold up all others.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            debug!(client = %arrival.client, "reply dropped, the socket is full");
        }
        Err(error) => debug!(client = %arrival.client, %error, "reply not sent"),
    }
}

/// Waits for the answers that others owe.
async fn finish(serving: &Serving) {
    let all = u32::try_from(super::MAX_WAITING).unwrap_or(u32::MAX);
    // The semaphore is never closed.
    drop(serving.waiting.acquire_many(all).await);
}
