//! Looks names up by the C library that it is linked to, and prints their addresses.

use std::{env, net::ToSocketAddrs as _};

fn main() {
    for name in env::args().skip(1) {
        let found = (name.as_str(), 0).to_socket_addrs().unwrap_or_else(|error| panic!("{name}: {error}"));
        found.for_each(|address| println!("{}", address.ip()));
    }
}
