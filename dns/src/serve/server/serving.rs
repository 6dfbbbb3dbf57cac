//! State shared by the tasks of a listener, and checks of requests over both protocols.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{admission::Admission, connections::Connections};
use crate::{
    observe::metrics::{Loss, Losses},
    serve::handler::Handler,
};

/// The largest request over either protocol: a question fits in 300 octets, and EDNS options are small.
pub const MAX_REQUEST: usize = 4096;

/// The state that the tasks of one listener share; all but the handler is shared by all listeners.
#[derive(Clone)]
pub struct Serving {
    pub handler: Arc<Handler>,
    pub pending: Arc<Semaphore>,
    pub connections: Arc<Connections>,
    pub admission: Arc<Admission>,
    pub losses: Losses,
    /// Becomes true when the server stops receiving requests.
    pub stop: watch::Receiver<bool>,
}

impl Serving {
    /// Whether a client is served. Checked before its request is read; counts the loss.
    pub fn admits(&self, client: IpAddr) -> bool {
        let admitted = self.admission.admits(client);
        if !admitted {
            self.admission.log_refusal(client);
            self.losses.count(Loss::Client, 1);
        }
        admitted
    }

    /// Acquires a slot for a pending request. Returns `None` at the limit.
    pub fn acquire_slot(&self) -> Option<OwnedSemaphorePermit> {
        self.pending.clone().try_acquire_owned().ok()
    }
}

/// Whether a reply can be sent: not to port 0, which is only used by malformed packets.
pub fn is_answerable(client: SocketAddr) -> bool {
    client.port() != 0
}

pub fn canonical(address: SocketAddr) -> IpAddr {
    address.ip().to_canonical()
}
