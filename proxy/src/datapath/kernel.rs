//! The kernel beside eBPF objects: system calls that aya lacks, its network state over netlink, and requirements on the
//! machine.

mod addresses;
mod clock;
mod environment;
mod neighbours;
mod netlink;
mod network;
pub mod sys;

pub use addresses::local_addresses;
pub use clock::now;
pub use environment::{EnvironmentError, cgroup_root, require_capabilities, require_cgroup};
pub use neighbours::refresh_neighbours;
pub use netlink::NetlinkError;
pub use network::{Address, Link, LinkKind, Network, PeerNetns, watch_network};
pub use sys::{grace_period, netns_cookie};
