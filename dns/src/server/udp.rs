//! Requests over UDP.

use std::{io, sync::Arc};

use tokio::time::interval;
use tracing::{debug, warn};

use super::{
    MAX_REQUEST, Serving, canonical, is_answerable,
    socket::{Arrival, Datagrams},
};
use crate::{
    handler::{Client, Handled, Pending},
    metrics::{Loss, Protocol},
    pulse::{Beat, INTERVAL},
};

/// After so many requests others get their turn on the worker.
const BATCH: usize = 64;
/// More cannot have arrived before the end than the kernel keeps for a socket.
const LAST: usize = 1 << 16;

pub async fn serve(socket: Datagrams, serving: Serving, beat: Beat) {
    let mut requests = Requests { socket: Arc::new(socket), serving, buffer: [0; MAX_REQUEST], overflows: 0 };
    let mut stop = requests.serving.stop.clone();
    let mut interval = interval(INTERVAL);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            _ = interval.tick() => beat.beat(),
            ready = requests.socket.readable() => if let Err(error) = ready {
                warn!(%error, "a UDP socket failed, and is given up");
                break;
            },
        }
        requests.take(BATCH, Datagrams::receive);
        tokio::task::yield_now().await;
    }
    if let Err(error) = requests.socket.retire() {
        debug!(%error, "a UDP socket goes on receiving until it is closed");
    }
    // What came before that is answered; what another processor was just putting there is found after the wait.
    requests.take(LAST, Datagrams::receive_last);
    finish(&requests.serving).await;
    requests.take(LAST, Datagrams::receive_last);
    finish(&requests.serving).await;
}

/// What comes to one socket.
struct Requests {
    socket: Arc<Datagrams>,
    serving: Serving,
    buffer: [u8; MAX_REQUEST],
    /// How many the kernel had no room for, as far as they are counted.
    overflows: u32,
}

impl Requests {
    /// As many as have arrived, and no more than `most`.
    fn take(&mut self, most: usize, receive: impl Fn(&Datagrams, &mut [u8]) -> io::Result<Option<Arrival>>) {
        for _ in 0..most {
            match receive(&self.socket, &mut self.buffer) {
                Ok(Some(arrival)) => {
                    let more = arrival.overflows.saturating_sub(self.overflows);
                    if more > 0 {
                        self.serving.losses.count(Loss::Request, more.into());
                        self.overflows = arrival.overflows;
                    }
                    take(&self.socket, &self.serving, &self.buffer, arrival);
                }
                Ok(None) => break,
                // A client that does not listen any more shows as an error of the socket.
                Err(error) => debug!(%error, "not received"),
            }
        }
    }
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
