//! Word of the sockets that a server listens at, for whoever has to hold them open as long as it lives.

use std::{fmt, os::fd::RawFd, sync::Arc};

/// Who is told of the sockets of each server: of the first one's when it begins, of a later one's before any socket of its
/// predecessor is closed.
#[derive(Clone, Default)]
pub struct SocketObserver(Option<Arc<Notify>>);

type Notify = dyn Fn(&[RawFd]) + Send + Sync;

impl SocketObserver {
    /// The descriptors are good until it is told again, or the server is stopped.
    pub fn new(notify: impl Fn(&[RawFd]) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(notify)))
    }

    pub(crate) fn notify(&self, sockets: &[RawFd]) {
        if let Some(notify) = &self.0 {
            notify(sockets);
        }
    }
}

impl fmt::Debug for SocketObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "told" } else { "told to nobody" })
    }
}
