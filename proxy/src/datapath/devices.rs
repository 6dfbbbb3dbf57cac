//! The network devices that the packet plane works on, now and after every change.
//!
//! netlink → `Network` (what there is) → `choose` (which of it matters, and as what) → `Device`
//!
//! Reading is thin and choosing is a function of plain values, so what a bond or a tunnel is to us is a line in a table
//! of tests.

use std::net::{Ipv4Addr, Ipv6Addr};

use proxy_ebpf::abi::DeviceRole;
use tokio::sync::watch;

use super::netlink::{NetlinkError, follow};

mod choose;
mod network;

pub use choose::choose;
pub use network::{Address, Kind, Link, Network, Place};

/// A device with work for the packet plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub index: u32,
    pub name: String,
    pub role: DeviceRole,
    /// Packets begin with an Ethernet header; those of tunnels begin with the network's.
    pub has_link_header: bool,
    /// The Ethernet address under which what enters here is routed.
    pub router: Option<[u8; 6]>,
    /// Which address masquerading takes for packets that leave here.
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

/// What there is in this network namespace. The receiver sees every later state; it may skip one that was replaced at
/// once.
pub async fn follow_network() -> Result<watch::Receiver<Network>, NetlinkError> {
    follow().await
}
