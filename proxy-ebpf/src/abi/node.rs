//! Addresses of this node.

use super::flags;

flags! {
    /// Value of `NODE_ADDRESSES_V4` and `NODE_ADDRESSES_V6`; other addresses are not the node's.
    NodeAddressFlags(u32) {
        /// NodePorts are served here.
        NODE_PORTS = 0;
        /// Each netns has this address (127.0.0.0/8): NodePorts are served in the host netns only.
        HOST_NETNS_ONLY = 1;
    }
}
