//! Sockets, the handler of one request, and the server's life from a configuration to its end.

pub mod handler;
pub mod node_addresses;
pub mod rate_limit;
pub mod run;
pub mod server;
mod shares;
pub mod socket_observer;
pub mod supervisor;
