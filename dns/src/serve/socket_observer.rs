//! Notification of the listening sockets of a server, for a caller that holds them open during its lifetime, and of
//! their addresses.

use std::{fmt, net::SocketAddr, os::fd::RawFd, sync::Arc};

/// A callback that receives the sockets of each server and their addresses: of the first when it starts, of a later one before any
/// socket of its predecessor is closed.
#[derive(Clone, Default)]
pub struct SocketObserver(Option<Arc<Notify>>);

type Notify = dyn Fn(&[RawFd], &[SocketAddr]) + Send + Sync;

impl SocketObserver {
    /// The descriptors are valid until the next call, or until the server is stopped.
    pub fn new(notify: impl Fn(&[RawFd], &[SocketAddr]) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(notify)))
    }

    pub(crate) fn notify(&self, sockets: &[RawFd], addresses: &[SocketAddr]) {
        if let Some(notify) = &self.0 {
            notify(sockets, addresses);
        }
    }
}

impl fmt::Debug for SocketObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "set" } else { "unset" })
    }
}
