//! ClientIP affinity: the last backend of a client.

use super::{BackendRef, map_type};

/// Key of `AFFINITY_*` and `NEW_AFFINITY_*`: a client of a service port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    /// The client's address, IPv4 as IPv4-mapped. At connect hooks, which have no source address, see `from_netns`.
    pub client: [u8; 16],
    pub service: u32,
    pub zero: u32,
}
map_type!(AffinityKey, 16 + 4 + 4);

impl AffinityKey {
    pub const fn new(client: [u8; 16], service: u32) -> Self {
        Self { client, service, zero: 0 }
    }

    /// The key of a client of which only the netns is known: the cookie in 100::/64, the discard-only prefix (RFC 6666), so that it
    /// never equals a client's address.
    pub const fn from_netns(cookie: u64, service: u32) -> Self {
        let [a, b, c, d, e, f, g, h] = cookie.to_be_bytes();
        Self::new([1, 0, 0, 0, 0, 0, 0, 0, a, b, c, d, e, f, g, h], service)
    }

    /// The netns cookie of a key made by `from_netns`.
    pub const fn netns(&self) -> Option<u64> {
        match self.client {
            [1, 0, 0, 0, 0, 0, 0, 0, a, b, c, d, e, f, g, h] => {
                Some(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
            }
            _ => None,
        }
    }
}

/// Value of `AFFINITY_*` and `NEW_AFFINITY_*`. Replaced as a whole, never edited.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinityEntry {
    pub backend: BackendRef,
    /// Time of the client's last new flow, in nanoseconds of the monotonic clock.
    pub last_used: u64,
}
map_type!(AffinityEntry, 8 + 8);

#[cfg(test)]
mod tests {
    use super::AffinityKey;
    use crate::abi::mapped;

    #[test]
    fn namespaces_are_told_from_addresses() {
        assert_eq!(AffinityKey::from_netns(0x0102_0304_0506_0708, 1).netns(), Some(0x0102_0304_0506_0708));
        assert_eq!(AffinityKey::new(mapped([10, 0, 0, 1]), 1).netns(), None);
    }
}
