//! Fragmented datagrams: identity and ports.

use super::map_type;

/// The identity of a fragmented datagram (RFC 791, 3.2; RFC 8200, 4.5).
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// IPv4 as IPv4-mapped.
    pub source: [u8; 16],
    pub destination: [u8; 16],
    /// Identification, in network byte order.
    pub id: u32,
    /// IANA protocol number.
    pub protocol: u8,
    pub zero: [u8; 3],
}
map_type!(Fragment, 2 * 16 + 4 + 1 + 3);

/// Value of `FRAGMENTS`: a datagram whose first fragment was seen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentPorts {
    /// Odd while a CPU writes the entry; 0 if it was never written.
    pub version: u64,
    pub fragment: Fragment,
    /// Source and destination port, in network byte order.
    pub ports: [u8; 4],
    pub zero: u32,
}
map_type!(FragmentPorts, 8 + 40 + 4 + 4);
