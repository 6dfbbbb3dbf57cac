//! Load balancing: from the destination address and port of a client to a backend.

mod access;
pub mod affinity;
mod backend;
pub mod client;
mod decide;
pub mod frontend;
pub mod health;
mod name_server;
pub mod networks;

pub use access::{Access, Live, ReadOnly};
pub use affinity::AffinityTable;
pub use backend::{Backend, Backends};
pub use client::{Client, ClientInfo, Scope};
pub use decide::{Choice, Decision, decide, silent_refusal};
pub use frontend::Frontends;
pub use networks::Networks;

/// The maps of one address family that a decision reads.
pub trait Tables: Frontends + Backends + AffinityTable + Networks {}

impl<F: Frontends + Backends + AffinityTable + Networks> Tables for F {}
