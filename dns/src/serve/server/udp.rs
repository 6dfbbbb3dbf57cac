//! Requests over UDP.

use std::{io, sync::Arc};

use tokio::{sync::mpsc, time::interval};
use tracing::{debug, warn};

use super::{
    MAX_REQUEST, Serving, canonical, is_answerable,
    socket::{Datagram, ServerSocket},
};
use crate::{
    observe::{
        heartbeat::{INTERVAL, TaskHeartbeat},
        metrics::{Loss, Transport},
    },
    serve::handler::{Client, Handled, Pending},
};

/// After so many requests others get their turn on the worker.
const BATCH: usize = 64;
/// More cannot have arrived before the end than the kernel keeps for a socket.
const LAST: usize = 1 << 16;

pub async fn serve(socket: ServerSocket, serving: Serving, heartbeat: TaskHeartbeat) {
    let (pending_tx, pending_rx) = mpsc::channel(1);
    let mut requests = Requests {
        socket: Arc::new(socket),
        serving,
        pending_tx,
        pending_rx,
        buffer: [0; MAX_REQUEST],
        overflows: 0,
    };
    let mut stop = requests.serving.stop.clone();
    let mut interval = interval(INTERVAL);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            _ = interval.tick() => heartbeat.record(),
            ready = requests.socket.readable() => if let Err(error) = ready {
                warn!(%error, "a UDP socket failed, and is given up");
                break;
            },
        }
        requests.take(BATCH, ServerSocket::receive);
        tokio::task::yield_now().await;
    }
    if let Err(error) = requests.socket.retire() {
        debug!(%error, "a UDP socket goes on receiving until it is closed");
    }
    // What came before that is answered; what another processor was just putting there is found after the wait.
    requests.take(LAST, ServerSocket::receive_last);
    requests.finish().await;
    requests.take(LAST, ServerSocket::receive_last);
    requests.finish().await;
}

/// What comes to one socket.
struct Requests {
    socket: Arc<ServerSocket>,
    serving: Serving,
    /// Held by each answer that others owe; the other end sees when nobody holds it any more.
    pending_tx: mpsc::Sender<()>,
    pending_rx: mpsc::Receiver<()>,
    buffer: [u8; MAX_REQUEST],
    /// How many the kernel had no room for, as far as they are counted.
    overflows: u32,
}

impl Requests {
    /// As many as have arrived, and no more than `most`.
    fn take(
        &mut self,
        most: usize,
        receive: impl Fn(&ServerSocket, &mut [u8]) -> io::Result<Option<Datagram>>,
    ) {
        for _ in 0..most {
            match receive(&self.socket, &mut self.buffer) {
                Ok(Some(datagram)) => {
                    let more = datagram.overflows.saturating_sub(self.overflows);
                    if more > 0 {
                        self.serving.losses.count(Loss::Request, more.into());
                        self.overflows = datagram.overflows;
                    }
                    self.handle(datagram);
                }
                Ok(None) => break,
                // A client that does not listen any more shows as an error of the socket.
                Err(error) => debug!(%error, "not received"),
            }
        }
    }

    fn handle(&self, datagram: Datagram) {
        let request = self.buffer.get(..datagram.len).unwrap_or_default();
        if !is_answerable(datagram.client) {
            return;
        }
        let client = Client { transport: Transport::Udp, address: canonical(datagram.client) };
        match self.serving.handler.handle(request, client) {
            Handled::Dropped => {}
            Handled::Reply(reply) => send(&self.socket, &self.serving, &reply, &datagram),
            Handled::Pending(pending) => self.wait(pending, datagram),
        }
    }

    fn wait(&self, pending: Box<Pending>, datagram: Datagram) {
        let Some(waits) = self.serving.wait() else {
            let reply = pending.refuse();
            return send(&self.socket, &self.serving, &reply, &datagram);
        };
        let (socket, serving, pending_tx) =
            (self.socket.clone(), self.serving.clone(), self.pending_tx.clone());
        tokio::spawn(async move {
            let reply = pending.finish().await;
            send(&socket, &serving, &reply, &datagram);
            drop((waits, pending_tx));
        });
    }

    /// Until nobody owes an answer to what came to this socket. What came to others takes its places meanwhile: to wait
    /// for all places at once would leave those none.
    async fn finish(&mut self) {
        let (pending_tx, pending_rx) = mpsc::channel(1);
        self.pending_tx = pending_tx;
        let mut before = std::mem::replace(&mut self.pending_rx, pending_rx);
        let _ = before.recv().await;
    }
}

/// The client of a reply that cannot be sent asks again; waiting would hold up all others.
fn send(socket: &ServerSocket, serving: &Serving, reply: &[u8], datagram: &Datagram) {
    if let Err(error) = socket.send(reply, datagram) {
        debug!(client = %datagram.client, %error, "reply not sent");
        serving.losses.count(Loss::Reply, 1);
    }
}
