//! Requests over UDP.

use std::sync::Arc;

use tracing::{debug, warn};

use super::{
    MAX_REQUEST, Serving, canonical, is_answerable,
    socket::{Arrival, Datagrams},
};
use crate::{
    handler::{Client, Handled, Pending},
    metrics::{Loss, Protocol},
};

/// After so many requests others get their turn on the worker.
const BATCH: usize = 64;

pub async fn serve(socket: Datagrams, serving: Serving) {
    let socket = Arc::new(socket);
    let mut buffer = [0; MAX_REQUEST];
    let mut stop = serving.stop.clone();
    let mut overflows = 0;
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
                Ok(Some(arrival)) => {
                    let more = arrival.overflows.saturating_sub(overflows);
                    if more > 0 {
                        serving.losses.count(Loss::Request, more.into());
                        overflows = arrival.overflows;
                    }
                    take(&socket, &serving, &buffer, arrival);
                }
                Ok(None) => break,
                // A client that does not listen any more shows as an error of the socket.
                Err(error) => debug!(%error, "not received"),
            }
        }
        tokio::task::yield_now().await;
    }
    finish(&serving).await;
}

fn take(socket: &Arc<Datagrams>, serving: &Serving, buffer: &[u8], arrival: Arrival) {
    let request = buffer.get(..arrival.len).unwrap_or_default();
    if !is_answerable(arrival.client) {
        return;
    }
    let client = Client { protocol: Protocol::Udp, address: canonical(arrival.client) };
    match serving.handler.handle(request, client) {
        Handled::Dropped => {}
        Handled::Reply(reply) => send(socket, serving, &reply, &arrival),
        Handled::Pending(pending) => wait(socket, serving, pending, arrival),
    }
}

fn wait(socket: &Arc<Datagrams>, serving: &Serving, pending: Box<Pending>, arrival: Arrival) {
    let Some(waits) = serving.wait() else {
        let reply = pending.refuse();
        return send(socket, serving, &reply, &arrival);
    };
    let (socket, serving) = (socket.clone(), serving.clone());
    tokio::spawn(async move {
        let reply = pending.finish().await;
        send(&socket, &serving, &reply, &arrival);
        drop(waits);
    });
}

/// The client of a reply that cannot be sent asks again; waiting would hold up all others.
fn send(socket: &Datagrams, serving: &Serving, reply: &[u8], arrival: &Arrival) {
    if let Err(error) = socket.send(reply, arrival) {
        debug!(client = %arrival.client, %error, "reply not sent");
        serving.losses.count(Loss::Reply, 1);
    }
}

/// Waits for the answers that others owe.
async fn finish(serving: &Serving) {
    let all = u32::try_from(super::MAX_WAITING).unwrap_or(u32::MAX);
    // The semaphore is never closed.
    drop(serving.waiting.acquire_many(all).await);
}
