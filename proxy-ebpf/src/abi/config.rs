//! What is fixed when the programs are loaded. The verifier removes the branches that cannot be taken.

use super::{Timeouts, flags, map_type};

/// The read-only global `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Cookie of the network namespace the agent runs in, the node's.
    pub host_netns: u64,
    pub flags: ConfigFlags,
    /// Records in `FLOWS_V4` and in `FLOWS_V6`.
    pub flows: u32,
    pub timeouts: Timeouts,
    /// The ports that masqueraded flows get, in host order, both included: outside of those the node's own sockets are
    /// given.
    pub first_port: u16,
    pub last_port: u16,
    /// How many ICMP errors each CPU sends in a tick (0.27 s) at most.
    pub icmp_errors: u32,
}
map_type!(Config, 8 + 4 + 4 + 32 + 2 + 2 + 4);

impl Config {
    /// What holds unless the agent knows better.
    pub const DEFAULT: Self = Self {
        host_netns: 0,
        flags: ConfigFlags(0),
        flows: super::map::MAX_FLOWS,
        timeouts: Timeouts::DEFAULT,
        first_port: 1024,
        last_port: 32_767,
        // About a thousand a second, as Linux allows itself (`net.ipv4.icmp_msgs_per_sec`).
        icmp_errors: 268,
    };
}

impl Default for Config {
    fn default() -> Self {
        Self::DEFAULT
    }
}

flags! {
    /// The switches of the configuration.
    ConfigFlags(u32) {
        /// Sockets in pods are left to the packet plane (`--socket-lb host-only`).
        HOST_ONLY = 0;
        /// Nothing tells pods from other clients, so they get the external view (kube-proxy's rule E6).
        PODS_ARE_EXTERNAL_V4 = 1;
        PODS_ARE_EXTERNAL_V6 = 2;
        /// Programs of the packet plane are attached: what the socket plane cannot decide is left to them.
        PACKET_PLANE = 3;
        /// Pods are told by the device their packets enter through.
        PODS_BY_DEVICE = 4;
        /// What goes through the node from one machine to another need not pass its stack (`--forwarding redirect`).
        BYPASS_STACK = 5;
        /// Programs of the packet plane are attached to devices that lead to other machines: what leaves the node meets them.
        EXTERNAL_DEVICES = 6;
    }
}
