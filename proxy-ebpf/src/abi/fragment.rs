//! The identity of a fragmented datagram.

use super::map_type;

/// Key of `FRAGMENTS` (RFC 791, 3.2; RFC 8200, 4.5). The value is source and destination port, in network byte order.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
