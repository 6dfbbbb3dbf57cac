//! Sockets: the context of cgroup hooks, and the translations stored with each socket.

pub mod connected;
pub mod context;
mod lookup;
pub mod unconnected;

pub use lookup::{Incoming, SocketLookup};
