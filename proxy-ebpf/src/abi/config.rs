//! What is fixed when the programs are loaded. The verifier removes the branches that cannot be taken.

use super::map_type;

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

#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConfigFlags(pub u32);
map_type!(ConfigFlags, 4);

impl ConfigFlags {
    /// Sockets in pods are left to the packet plane (`--socket-lb host-only`).
    pub const HOST_ONLY: Self = Self(1 << 0);
    /// Nothing tells pods from other clients, so they get the external view (kube-proxy's rule E6).
    pub const PODS_ARE_EXTERNAL_V4: Self = Self(1 << 1);
    pub const PODS_ARE_EXTERNAL_V6: Self = Self(1 << 2);

    pub const fn with(self, other: Self, on: bool) -> Self {
        if on { Self(self.0 | other.0) } else { self }
    }

    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}
