//! The kernel beside eBPF objects: system calls that aya lacks, its network state over netlink, and
//! requirements on the machine.

mod addresses;
pub mod bpf;
mod btf;
mod cgroup_scope;
mod clock;
mod echo;
mod environment;
pub mod fd_table;
mod jiffies;
mod listing;
mod neighbours;
mod netlink;
mod netns;
mod network;
mod next_hop;
mod route_to;
mod routes;
mod xfrm;

pub use addresses::local_addresses;
pub use bpf::grace_period;
pub use btf::{SocketFields, iterator_btf};
pub use cgroup_scope::{CgroupScope, cgroup_scope};
pub use clock::now;
pub use echo::{PathSize, path_size};
pub use environment::{EnvironmentError, cgroup_root, require_capabilities, require_cgroup};
pub use jiffies::Jiffies;
pub use listing::NetworkListing;
pub use neighbours::refresh_neighbours;
pub use netlink::{NetlinkError, read_notification};
pub use netns::{netns_addresses, netns_cookie};
pub use network::{Address, Link, LinkKind, Network, PeerNetns, watch_network};
pub use next_hop::{Neighbour, NextHop, next_hop, resolved_next_hop};
pub use route_to::device_towards;
#[cfg(test)]
pub use routes::Route;
pub use routes::{Routes, watch_routes};
pub use xfrm::ipsec_policies;
