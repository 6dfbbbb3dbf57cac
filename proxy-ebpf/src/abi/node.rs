//! The addresses of this node, as far as frontends care.

use super::flags;

flags! {
    /// Value of `NODE_ADDRESSES_V4` and `NODE_ADDRESSES_V6`; an address that is not there is not the node's.
    NodeAddressFlags(u32) {
        /// NodePorts are served here.
        NODE_PORTS = 0;
        /// Every network namespace has this address of its own: only the node's is meant.
        HOST_NETNS_ONLY = 1;
    }
}
