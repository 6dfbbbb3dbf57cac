//! Clients of a story: connections, single sockets, HTTP requests and tables of flows.

pub mod dials;
pub mod flows;
pub mod http;
pub mod udp;
