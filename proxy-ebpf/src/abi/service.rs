//! Service ports: names and counters by index.

use super::map_type;

/// Value of `SERVICES`: `namespace/name:port` of a service port, for tools that read the maps without the agent. Kubernetes limits
/// the parts to 63, 63 and 15 characters, and the protocol takes at most 5, so it always fits.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ServiceName {
    pub length: u8,
    pub bytes: [u8; 159],
}
map_type!(ServiceName, 1 + 159);

impl core::fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.as_str().fmt(f)
    }
}

impl ServiceName {
    /// Truncates at a character boundary.
    pub fn new(name: &str) -> Self {
        let mut bytes = [0; 159];
        let length = name.floor_char_boundary(bytes.len());
        bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
        Self { length: length as u8, bytes }
    }

    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }
}

/// Value of `SERVICE_STATS`, one per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceStats {
    /// Connections and unconnected UDP exchanges that got a backend.
    pub translated: u64,
    /// Refused connections, for any reason.
    pub refused: u64,
}
map_type!(ServiceStats, 8 + 8);

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::String;

    use super::ServiceName;

    #[test]
    fn names_are_truncated_at_character_boundaries() {
        let longest = String::from_utf8(std::vec![b'a'; 159]).unwrap();
        for (name, want) in
            [("", ""), ("shop/web:http", "shop/web:http"), (longest.as_str(), longest.as_str())]
        {
            assert_eq!(ServiceName::new(name).as_str(), want);
        }
        let odd = String::from("a") + &"ä".repeat(100);
        assert_eq!(ServiceName::new(&odd).as_str().len(), 159);
        let even = "ä".repeat(100);
        assert_eq!(ServiceName::new(&even).as_str().len(), 158);
    }
}
