//! The client of a request.

use std::net::IpAddr;

use crate::observe::metrics::Transport;

#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub transport: Transport,
    pub address: IpAddr,
    pub port: u16,
    /// The address that the request came to.
    pub local: IpAddr,
    /// TLS or HTTPS.
    pub is_encrypted: bool,
    /// A request that may have one message as its reply.
    pub is_http: bool,
}
