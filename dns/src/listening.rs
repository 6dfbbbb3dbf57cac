//! Word of the sockets that a server listens at, for whoever has to hold them open as long as it lives.

use std::{fmt, os::fd::RawFd, sync::Arc};

/// Who is told of every socket of a server that is about to take over from another, or to be the first: before any of the
/// predecessor's is closed, and again each time.
#[derive(Clone, Default)]
pub struct Listening(Option<Arc<Tell>>);

type Tell = dyn Fn(&[RawFd]) + Send + Sync;

impl Listening {
    /// The descriptors are good until it is told again, or the server is stopped.
    pub fn new(tell: impl Fn(&[RawFd]) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    pub(crate) fn tell(&self, sockets: &[RawFd]) {
        if let Some(tell) = &self.0 {
            tell(sockets);
        }
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "told" } else { "told to nobody" })
    }
}
