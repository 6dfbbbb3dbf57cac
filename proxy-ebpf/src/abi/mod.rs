//! The binary interface between user space and the programs.
//!
//! Fields in network byte order (addresses, ports) are byte arrays, so that endianness is never in doubt. There is no
//! `bool`, `Option`, `usize` or reference in any of these types, and padding is a named zeroed field.

mod affinity;
mod backend;
mod config;
mod connections;
mod conntrack;
mod device;
mod direction;
mod drop_reason;
mod event;
mod flow;
mod flow_counters;
pub mod flow_state;
mod fragment;
mod frontend;
mod health;
pub mod map;
mod node;
mod segment;
mod service;
mod socket;
mod xdp_outcome;

pub use affinity::{AffinityEntry, AffinityKey};
pub use backend::{BackendFlags, BackendRef, BackendV4, BackendV6};
pub use config::{Config, ConfigFlags};
pub use connections::{
    BackendConnections, CONNECT_BOUNDS, CONNECT_BUCKETS, ConnectFailure, OpenSocket, ServiceConnections,
    SocketStage, Steering, TcpSocket, Traffic, connect_bucket,
};
pub use conntrack::{BUCKET, Bucket, FLOWS_PER_BUCKET, FlowRef, HashKeys, LINE, TupleHash, hash_v4, hash_v6};
pub use device::{Device, DeviceFlags, PodRange, SourceRange, Unclaimed};
pub use direction::Direction;
pub use drop_reason::DropReason;
pub use event::{Event, EventHook, EventKind};
pub use flow::{
    Flow, FlowFlags, FlowV4, FlowV6, MASQUERADE_DONE, MASQUERADE_NONE, MASQUERADE_PENDING, Tuple, TupleKind,
    TupleV4, TupleV6,
};
pub use flow_counters::FlowCounters;
pub use flow_state::{FlowDirection, FlowState, Timeouts};
pub use fragment::{Fragment, FragmentPorts};
pub use frontend::{Block, Descriptor, DescriptorFlags, FrontendKeyV4, FrontendKeyV6};
pub use health::{BackendHealth, HealthChange, HealthFault, HealthWord, Standing};
pub use map::{
    DeviceRole, INJECT_SEGMENT, LIST_SOCKETS, LIST_STALE_SOCKETS, MAPS, MapKind, MapSpec, PROGRAMS,
    READ_SOCKETS, SOCK_OPS, TC_PROGRAMS, TcProgram, XDP_EXTERNAL,
};
pub use node::NodeAddressFlags;
pub use segment::{Positions, Segment};
pub use service::{ServiceName, ServiceStats};
pub use socket::{
    Endpoint, OverflowEntry, OverflowKey, SocketPair, UNCONNECTED_PAIRS, UnconnectedPair, UnconnectedPairs,
};
pub use xdp_outcome::XdpOutcome;

/// Raised when a map's layout or meaning changes. Part of the pin path, so that programs of one version never read maps of another.
pub const ABI_VERSION: u32 = 8;

/// IPv4 addresses are IPv4-mapped in fields that serve both families (RFC 4291, 2.5.5.2).
pub const fn mapped(address: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = address;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The IPv4 address in an IPv4-mapped one.
pub const fn unmapped(address: [u8; 16]) -> Option<[u8; 4]> {
    match address {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Some([a, b, c, d]),
        _ => None,
    }
}

/// Not 0 if two addresses differ. Branch-free: a comparison of byte arrays is a loop in BPF, which is expensive to verify.
#[inline(always)]
pub(crate) const fn difference(a: &[u8; 16], b: &[u8; 16]) -> u64 {
    let differ = u128::from_ne_bytes(*a) ^ u128::from_ne_bytes(*b);
    differ as u64 | (differ >> 64) as u64
}

/// Marks types of map keys and values, and fixes their size beside their definition.
macro_rules! map_type {
    ($name:ty, $size:expr) => {
        const _: () = assert!(size_of::<$name>() == $size);
        #[cfg(feature = "user")]
        // SAFETY: `repr(C)`, `Copy`, no padding (the size asserted above is the sum of the fields), and every
        // bit pattern is a valid value, as all fields are integers or arrays of bytes.
        unsafe impl aya::Pod for $name {}
    };
}
pub(crate) use map_type;

/// Declares an enum of counters from one list: variant, metric label and one yes-or-no property per line. The position is the
/// number, which is the index into the map of counters.
macro_rules! counters {
    ($(#[$about:meta])* $name:ident, else $fallback:ident, $property:ident {
        $($(#[$meaning:meta])* $variant:ident = $label:literal, $value:literal;)+
    }) => {
        $(#[$about])*
        ///
        /// The number is the index of the counter, so it never changes its meaning within an ABI version.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$meaning])* $variant,)+
        }

        impl $name {
            /// Each variant at its own number.
            pub const ALL: [Self; [$(stringify!($variant)),+].len()] = [$(Self::$variant),+];

            /// The variant of a number.
            #[doc = concat!("Any other number is `", stringify!($fallback), "`.")]
            #[inline(always)]
            pub const fn of(number: u8) -> Self {
                $(if number == Self::$variant as u8 {
                    return Self::$variant;
                })+
                Self::$fallback
            }

            /// The metric label.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }

            #[doc = concat!("Whether this one is `", stringify!($property), "`.")]
            #[inline(always)]
            pub const fn $property(self) -> bool {
                match self {
                    $(Self::$variant => $value,)+
                }
            }
        }
    };
}
pub(crate) use counters;

/// Declares a word of flags, which both sides read and write by the names of the flags only.
macro_rules! flags {
    ($(#[$about:meta])* $name:ident($word:ty) { $($(#[$meaning:meta])* $flag:ident = $bit:expr;)+ }) => {
        $(#[$about])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name(pub $word);

        $crate::abi::map_type!($name, size_of::<$word>());

        impl $name {
            $($(#[$meaning])* pub const $flag: Self = Self(1 << $bit);)+

            /// These flags, and those of `other` if `on`.
            pub const fn with(self, other: Self, on: bool) -> Self {
                if on { Self(self.0 | other.0) } else { self }
            }

            /// Whether all flags of `other` are set.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// The flags that have a name, each with it, from the lowest bit on.
            pub const NAMED: &'static [(Self, &'static str)] = &[$((Self::$flag, stringify!($flag)),)+];

            /// The names of the flags that are set.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                Self::NAMED.iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| *name)
            }
        }

        /// `FIRST|SECOND`, bits without a name as a number behind them; `0` if no bit is set.
        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                $crate::abi::write_flags(f, self.names(), Self::NAMED.iter().fold(self.0, |bits, (flag, _)| bits & !flag.0).into())
            }
        }
    };
}
pub(crate) use flags;

/// Writes the names of flags, and the bits that have none.
fn write_flags(
    f: &mut core::fmt::Formatter<'_>,
    names: impl Iterator<Item = &'static str>,
    unnamed: u64,
) -> core::fmt::Result {
    let mut is_first = true;
    for name in names {
        f.write_str(if is_first { "" } else { "|" })?;
        f.write_str(name)?;
        is_first = false;
    }
    match (is_first, unnamed) {
        (true, 0) => f.write_str("0"),
        (false, 0) => Ok(()),
        (true, bits) => write!(f, "{bits:#x}"),
        (false, bits) => write!(f, "|{bits:#x}"),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::{BackendFlags, mapped, unmapped};

    #[test]
    fn flags_are_printed_by_name() {
        for (flags, want) in [
            (0, "0"),
            (0b1, "ALIVE"),
            (0b1_0011, "ALIVE|IN_CLUSTER_SET|LOCAL"),
            (0b1100_0001, "ALIVE|0xc0"),
            (0x80, "0x80"),
        ] {
            assert_eq!(BackendFlags(flags).to_string(), want);
        }
    }

    #[test]
    fn mapped_addresses_convert_in_both_directions() {
        for address in [[0, 0, 0, 0], [10, 0, 0, 1], [255, 255, 255, 255]] {
            assert_eq!(unmapped(mapped(address)), Some(address));
        }
        for other in [[0; 16], [0xfd; 16], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 10, 0, 0, 1]] {
            assert_eq!(unmapped(other), None, "{other:?}");
        }
    }
}
