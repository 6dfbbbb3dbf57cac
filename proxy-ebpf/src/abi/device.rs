//! The devices whose packets the packet plane looks at, and the networks it tells apart.

use super::{flags, map_type};

/// Value of `DEVICES`, by interface index.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// The address that stands for others on what leaves here; unspecified: none is known.
    pub masquerade_v4: [u8; 4],
    pub masquerade_v6: [u8; 16],
    pub flags: DeviceFlags,
    /// The link-layer address under which what enters here is routed: that of the bridge the device is a port of, or its own.
    /// All zeroes: it has none.
    pub router: [u8; 6],
    pub zero: [u8; 2],
}
map_type!(Device, 4 + 16 + 4 + 6 + 2);

flags! {
    /// What is true of a device.
    DeviceFlags(u32) {
        /// Pods are told by their interface, and everything that enters here is one's (kube-proxy's detectors BridgeInterface and
        /// InterfaceNamePrefix).
        PODS = 0;
        /// It takes frames that programs at other devices send out by it.
        TAKES_FRAMES = 1;
    }
}

/// Value of `POD_RANGES`, one per family: the sources that count as pods. A zero mask is no range at all.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodRange {
    /// IPv4 as IPv4-mapped.
    pub network: [u8; 16],
    pub mask: [u8; 16],
}
map_type!(PodRange, 16 + 16);

/// Key of `SOURCE_RANGES_V4` and `SOURCE_RANGES_V6` behind its prefix length, which counts the set's 32 bits.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceRange<A> {
    /// The set of ranges that a descriptor names.
    pub set: [u8; 4],
    pub address: A,
}

map_type!(SourceRange<[u8; 4]>, 4 + 4);
map_type!(SourceRange<[u8; 16]>, 4 + 16);

/// Value of `SERVICE_NETWORKS_V4` and `SERVICE_NETWORKS_V6`: what becomes of a packet to an address of Services that no
/// frontend claims with its port.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclaimed {
    /// In a ServiceCIDR, and no Service has the address: dropped (kube-proxy's rule G8).
    Unallocated = 1,
    /// A ClusterIP whose Service has no such port: rejected (G7).
    UndefinedPort = 2,
}
