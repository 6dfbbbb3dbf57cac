//! Sockets: the contexts of cgroup hooks, and what is stored with each socket: its translations, and what was counted of it.

pub mod connected;
pub mod context;
mod lookup;
pub mod operation;
pub mod tcp;
pub mod unconnected;

pub use lookup::{Incoming, SocketLookup};
