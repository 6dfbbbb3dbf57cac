//! The addresses of this node, as far as frontends care.

use super::map_type;

/// Value of `NODE_ADDRESSES_V4` and `NODE_ADDRESSES_V6`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeAddressFlags(pub u32);
map_type!(NodeAddressFlags, 4);

impl NodeAddressFlags {
    /// NodePorts are served here.
    pub const NODE_PORTS: Self = Self(1 << 0);
    /// Every network namespace has this address of its own: only the node's is meant.
    pub const HOST_NETNS_ONLY: Self = Self(1 << 1);

    pub const fn with(self, other: Self, on: bool) -> Self {
        if on { Self(self.0 | other.0) } else { self }
    }

    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}
