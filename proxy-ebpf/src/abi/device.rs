//! Devices with tc programs, and sets of addresses.

use super::{flags, map_type};

/// Value of `DEVICES`, by interface index.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// SNAT source address for packets that leave by this device. Unspecified if none is known.
    pub masquerade_v4: [u8; 4],
    pub masquerade_v6: [u8; 16],
    pub flags: DeviceFlags,
    /// MAC address for packets that are routed: the device's own, or that of the bridge that it is a port of. All zeroes for devices
    /// without link layer.
    pub router: [u8; 6],
    pub zero: [u8; 2],
}
map_type!(Device, 4 + 16 + 4 + 6 + 2);

flags! {
    /// Properties of a device.
    DeviceFlags(u32) {
        /// All packets that enter here are a pod's (kube-proxy's local detectors BridgeInterface and InterfaceNamePrefix).
        PODS = 0;
        /// Accepts frames that XDP programs at other devices redirect to it.
        TAKES_FRAMES = 1;
        /// Packets begin with the IP header: WireGuard, TUN, IP in IP.
        NO_LINK_LAYER = 2;
        /// A packet that enters here is as its sender sent it: a pod's device, but not a bridge, whose ports the programs have seen it
        /// at.
        FIRST_HOP = 3;
    }
}

/// Value of `POD_RANGES`, one per family: the source addresses of pods. A zero mask means no range.
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

/// Value of `SERVICE_NETWORKS_V4` and `SERVICE_NETWORKS_V6`: the treatment of packets to a Service address without a
/// frontend for the port.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclaimed {
    /// In a ServiceCIDR, not allocated: dropped (rule G8).
    Unallocated = 1,
    /// A ClusterIP whose Service does not define the port: rejected (rule G7).
    UndefinedPort = 2,
}
