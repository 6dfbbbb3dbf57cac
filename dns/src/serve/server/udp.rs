//! Requests over UDP.

use std::{io, sync::Arc};

use tokio::{sync::mpsc, time::interval};
use tracing::{debug, warn};

use super::{
    MAX_REQUEST, Serving, canonical, is_answerable,
    socket::{Arrival, Datagrams},
};
use crate::{
    observe::{
        heartbeat::{Beat, INTERVAL},
        metrics::{Loss, Protocol},
    },
    serve::handler::{Client, Handled, Pending},
};

/// After so many requests others get their turn on the worker.
const BATCH: usize = 64;
/// More cannot have arrived before the end than the kernel keeps for a socket.
const LAST: usize = 1 << 16;

pub async fn serve(socket: Datagrams, serving: Serving, beat: Beat) {
    let (owing, owed) = mpsc::channel(1);
    let mut requests =
        Requests { socket: Arc::new(socket), serving, owing, owed, buffer: [0; MAX_REQUEST], overflows: 0 };
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
    requests.finish().await;
    requests.take(LAST, Datagrams::receive_last);
    requests.finish().await;
}

/// What comes to one socket.
struct Requests {
    socket: Arc<Datagrams>,
    serving: Serving,
    /// Held by each answer that others owe; the other end sees when nobody holds it any more.
    owing: mpsc::Sender<()>,
    owed: mpsc::Receiver<()>,
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
                    self.handle(arrival);
                }
                Ok(None) => break,
                // A client that does not listen any more shows as an error of the socket.
                Err(error) => debug!(%error, "not received"),
            }
        }
    }

    fn handle(&self, arrival: Arrival) {
        let request = self.buffer.get(..arrival.len).unwrap_or_default();
        if !is_answerable(arrival.client) {
            return;
        }
        let client = Client { protocol: Protocol::Udp, address: canonical(arrival.client) };
        match self.serving.handler.handle(request, client) {
            Handled::Dropped => {}
            Handled::Reply(reply) => send(&self.socket, &self.serving, &reply, &arrival),
            Handled::Pending(pending) => self.wait(pending, arrival),
        }
    }

    fn wait(&self, pending: Box<Pending>, arrival: Arrival) {
        let Some(waits) = self.serving.wait() else {
            let reply = pending.refuse();
            return send(&self.socket, &self.serving, &reply, &arrival);
        };
        let (socket, serving, owing) = (self.socket.clone(), self.serving.clone(), self.owing.clone());
        tokio::spawn(async move {
            let reply = pending.finish().await;
            send(&socket, &serving, &reply, &arrival);
            drop((waits, owing));
        });
    }

    /// Until nobody owes an answer to what came to this socket. What came to others takes its places meanwhile: to wait
    /// for all places at once would leave those none.
    async fn finish(&mut self) {
        let (owing, owed) = mpsc::channel(1);
        self.owing = owing;
        let mut before = std::mem::replace(&mut self.owed, owed);
        let _ = before.recv().await;
    }
}

/// The client of a reply that cannot be sent asks again; waiting would hold up all others.
fn send(socket: &Datagrams, serving: &Serving, reply: &[u8], arrival: &Arrival) {
    if let Err(error) = socket.send(reply, arrival) {
        debug!(client = %arrival.client, %error, "reply not sent");
        serving.losses.count(Loss::Reply, 1);
    }
}
