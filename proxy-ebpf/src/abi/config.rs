//! What is fixed when the programs are loaded. The verifier removes the branches that cannot be taken.

use super::{flags, map_type};

/// The read-only global `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Cookie of the network namespace the agent runs in, the node's.
    pub host_netns: u64,
    pub flags: ConfigFlags,
    pub zero: u32,
}
map_type!(Config, 8 + 4 + 4);

flags! {
    /// The switches of the configuration.
    ConfigFlags(u32) {
        /// Sockets in pods are left to the packet plane (`--socket-lb host-only`).
        HOST_ONLY = 0;
        /// Nothing tells pods from other clients, so they get the external view (kube-proxy's rule E6).
        PODS_ARE_EXTERNAL_V4 = 1;
        PODS_ARE_EXTERNAL_V6 = 2;
    }
}
