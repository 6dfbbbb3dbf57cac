//! Requests over UDP.

use std::{
    future::ready,
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use tokio::{sync::mpsc, time::interval};
use tracing::{debug, warn};

use super::{
    serving::{MAX_REQUEST, Serving, canonical, is_answerable},
    socket::{ControlBuffer, Datagram, ServerSocket},
    turns::{Arrival, Turns},
};
use crate::{
    observe::{
        heartbeat::{INTERVAL, TaskHeartbeat},
        metrics::{Loss, Transport},
    },
    serve::handler::{Client, Handled, Pending},
};

/// Requests that are received at a time.
const BATCH: usize = 64;
/// Slices of waiting requests in a turn, before the task yields to others on its worker.
const SLICES: usize = 8;
/// Limit of requests received after the stop: more than a socket buffer holds.
const MAX_FINAL: usize = 1 << 16;

pub async fn serve(socket: ServerSocket, serving: Serving, heartbeat: TaskHeartbeat) {
    let (pending_tx, pending_rx) = mpsc::channel(1);
    let local = socket.address().map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip().to_canonical());
    let mut requests = Requests {
        local,
        socket: Arc::new(socket),
        serving,
        pending_tx,
        pending_rx,
        control: ControlBuffer::default(),
        turns: Turns::default(),
        held: Held::default(),
        overflows: 0,
    };
    let mut stop = requests.serving.stop.clone();
    let mut interval = interval(INTERVAL);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            _ = interval.tick() => heartbeat.record(),
            readable = requests.socket.readable() => if let Err(error) = readable {
                warn!(%error, "UDP socket failed, no longer used");
                break;
            },
            () = ready(()), if requests.turns.has_waiting() => {}
        }
        requests.turn();
        tokio::task::yield_now().await;
    }
    if let Err(error) = requests.socket.retire() {
        debug!(%error, "cannot stop receiving on a UDP socket before it is closed");
    }
    // Requests received before the stop are answered. One that another CPU was queueing at that moment is received
    // after the first wait.
    requests.receive_last();
    requests.finish().await;
    requests.receive_last();
    requests.finish().await;
}

/// The requests of one socket.
struct Requests {
    /// The address of the socket, which may be the wildcard.
    local: IpAddr,
    socket: Arc<ServerSocket>,
    serving: Serving,
    /// A sender is held by each pending request; the receiver is closed when there are none.
    pending_tx: mpsc::Sender<()>,
    pending_rx: mpsc::Receiver<()>,
    control: ControlBuffer,
    turns: Turns,
    held: Held,
    /// The socket's drop counter (`SO_RXQ_OVFL`) as far as it is counted in the metrics.
    overflows: u32,
}

/// Replies to a client that sends several requests at a time, to be sent together. A client's first reply in a turn is
/// sent at once, so that a single query does not wait.
#[derive(Default)]
struct Held {
    /// The last request of this turn.
    last: Option<Datagram>,
    replies: Vec<Vec<u8>>,
}

/// Limit of held replies.
const MAX_HELD: usize = 64;

impl Requests {
    /// Receives queued requests, and handles those whose turn it is.
    fn turn(&mut self) {
        self.turns.begin();
        let mut buffer = [0; MAX_REQUEST];
        for _ in 0..SLICES {
            self.receive_queued(&mut buffer);
            for waiting in self.turns.slice() {
                self.handle(&waiting.datagram, &waiting.request);
                self.turns.recycle(waiting);
            }
            if !self.turns.has_waiting() {
                break;
            }
        }
        self.end_turn();
    }

    fn receive_queued(&mut self, buffer: &mut [u8]) {
        for _ in 0..BATCH {
            let Some((datagram, client)) = self.receive(buffer, ServerSocket::receive) else { break };
            let request = buffer.get(..datagram.len).unwrap_or_default();
            match client.map(|client| self.turns.arrives(client, &datagram, request)) {
                Some(Arrival::Now) => self.handle(&datagram, request),
                Some(Arrival::Dropped) => self.serving.losses.count(Loss::Excess, 1),
                Some(Arrival::Waits) | None => {}
            }
        }
    }

    /// Receives and handles all requests that are left.
    fn receive_last(&mut self) {
        for waiting in self.turns.rest() {
            self.handle(&waiting.datagram, &waiting.request);
        }
        let mut buffer = [0; MAX_REQUEST];
        for _ in 0..MAX_FINAL {
            match self.receive(&mut buffer, ServerSocket::receive_last) {
                Some((datagram, Some(_))) => {
                    self.handle(&datagram, buffer.get(..datagram.len).unwrap_or_default());
                }
                Some((_, None)) => {}
                None => break,
            }
        }
        self.end_turn();
    }

    fn end_turn(&mut self) {
        self.send_held();
        self.held.last = None;
    }

    /// Receives a request, and its client if that is served. `None`: no request is queued, or there are only errors.
    fn receive(
        &mut self,
        buffer: &mut [u8],
        receive: impl Fn(&ServerSocket, &mut [u8], &mut ControlBuffer) -> io::Result<Option<Datagram>>,
    ) -> Option<(Datagram, Option<IpAddr>)> {
        for _ in 0..BATCH {
            match receive(&self.socket, buffer, &mut self.control) {
                Ok(datagram) => {
                    let datagram = datagram?;
                    let more = datagram.overflows.saturating_sub(self.overflows);
                    if more > 0 {
                        self.serving.losses.count(Loss::Request, more.into());
                        self.overflows = datagram.overflows;
                    }
                    let client = canonical(datagram.client);
                    let is_served = is_answerable(datagram.client) && self.serving.admits(client);
                    return Some((datagram, is_served.then_some(client)));
                }
                // A client that has closed its socket causes an error on this one (ICMP port unreachable).
                Err(error) => debug!(%error, "receive failed"),
            }
        }
        None
    }

    fn handle(&mut self, datagram: &Datagram, request: &[u8]) {
        let is_repeated = self.held.last.is_some_and(|last| last.is_of_same_client(datagram));
        if !is_repeated {
            self.send_held();
        }
        self.held.last = Some(*datagram);
        let address = canonical(datagram.client);
        let client = Client {
            transport: Transport::Udp,
            address,
            port: datagram.client.port(),
            local: datagram.to.map_or(self.local, |to| to.to_canonical()),
            is_encrypted: false,
            is_http: false,
        };
        match self.serving.handler.handle(request, client) {
            Handled::Dropped => {}
            Handled::Reply(reply) if is_repeated => self.hold(reply, address),
            Handled::Reply(reply) => send(&self.socket, &self.serving, reply, datagram),
            Handled::Pending(pending) => self.spawn(pending, *datagram),
            // Refused by the handler over UDP.
            Handled::Transfer(_) => {}
        }
    }

    fn hold(&mut self, reply: Vec<u8>, client: IpAddr) {
        self.held.replies.extend(self.serving.limited(client, reply));
        if self.held.replies.len() >= MAX_HELD {
            self.send_held();
        }
    }

    fn send_held(&mut self) {
        let Held { last: Some(datagram), replies } = &mut self.held else { return };
        if replies.is_empty() {
            return;
        }
        for error in self.socket.send_all(replies, datagram) {
            debug!(client = %datagram.client, %error, "reply not sent");
            self.serving.losses.count(Loss::Reply, 1);
        }
    }

    fn spawn(&self, pending: Box<Pending>, datagram: Datagram) {
        let Some(slot) = self.serving.acquire_slot() else {
            let reply = pending.refuse();
            return send(&self.socket, &self.serving, reply, &datagram);
        };
        let (socket, serving, pending_tx) =
            (self.socket.clone(), self.serving.clone(), self.pending_tx.clone());
        tokio::spawn(async move {
            let reply = pending.finish().await;
            send(&socket, &serving, reply, &datagram);
            drop((slot, pending_tx));
        });
    }

    /// Waits until the pending requests of this socket are answered. It does not acquire all slots of the server
    /// for that: requests of other sockets need slots meanwhile.
    async fn finish(&mut self) {
        let (pending_tx, pending_rx) = mpsc::channel(1);
        self.pending_tx = pending_tx;
        let mut before = std::mem::replace(&mut self.pending_rx, pending_rx);
        let _ = before.recv().await;
    }
}

/// Sends a reply without blocking. If that fails, the client retries; waiting would delay all others.
fn send(socket: &ServerSocket, serving: &Serving, reply: Vec<u8>, datagram: &Datagram) {
    let Some(reply) = serving.limited(canonical(datagram.client), reply) else { return };
    if let Err(error) = socket.send(&reply, datagram) {
        debug!(client = %datagram.client, %error, "reply not sent");
        serving.losses.count(Loss::Reply, 1);
    }
}
