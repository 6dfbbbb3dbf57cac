//! The direction of a packet at a device.

/// The kernel's directions: ingress packets enter the node through the device.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    Ingress = 0,
    Egress = 1,
}
