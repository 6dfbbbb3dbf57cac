//! What the fragments of one datagram share.

use super::map_type;

/// Key of `FRAGMENTS` (RFC 791, 3.2; RFC 8200, 4.5). Its value is the datagram's ports as they stand in its first fragment.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// IPv4 as IPv4-mapped.
    pub source: [u8; 16],
    pub destination: [u8; 16],
    /// As it stands in the packet.
    pub id: u32,
    /// IANA protocol number.
    pub protocol: u8,
    pub zero: [u8; 3],
}
map_type!(Fragment, 2 * 16 + 4 + 1 + 3);
