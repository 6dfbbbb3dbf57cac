//! Masquerade ports: those that the kernel gives to no socket of the node by itself.

use std::{fs, io, path::Path};

use tracing::warn;

use super::sysctls::ROOT;

/// The first unprivileged port.
const FIRST: u16 = 1024;
const LAST: u16 = u16::MAX;
const LOCAL_RANGE: &str = "proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "proc/sys/net/ipv4/ip_local_reserved_ports";
/// The range that is reserved where no other is free: above the kernel's default of ephemeral ports.
const OWN_RANGE: &str = "61000-65535";
/// Minimum size of the range. Fewer ports would soon be exhausted between the node and one backend.
const MIN_PORTS: usize = 1024;

/// The ports that the kernel may choose for the node's own sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EphemeralPorts {
    /// `ip_local_port_range`, inclusive.
    pub low: u16,
    pub high: u16,
    /// `ip_local_reserved_ports`, as the kernel prints it: ports of the range that are never chosen.
    pub reserved: String,
}

impl EphemeralPorts {
    /// Reads the sysctls of this network namespace. Returns `None` if the range cannot be read.
    pub fn read() -> Option<Self> {
        Self::read_below(ROOT.as_ref())
    }

    fn read_below(system: &Path) -> Option<Self> {
        let text = fs::read_to_string(system.join(LOCAL_RANGE)).ok()?;
        let (low, high) = parse(&text)?;
        let reserved = fs::read_to_string(system.join(RESERVED)).unwrap_or_default().trim().to_owned();
        Some(Self { low, high, reserved })
    }

    /// The value of `ip_local_reserved_ports` with a range for masquerading. What is reserved stays so.
    pub fn with_own_range(&self) -> String {
        let also = if self.reserved.is_empty() { String::new() } else { format!("{},", self.reserved) };
        format!("{also}{OWN_RANGE}")
    }

    /// The largest range of unprivileged ports that are not ephemeral, inclusive. Returns `None` if it is too small.
    pub fn free_range(&self) -> Option<(u16, u16)> {
        let mut is_free = vec![true; usize::from(LAST) + 1];
        for port in self.low..=self.high {
            is_free[usize::from(port)] = false;
        }
        for (low, high) in self.reserved.split(',').filter_map(interval) {
            for port in low..=high {
                is_free[usize::from(port)] = true;
            }
        }
        let mut largest: Option<(u16, u16)> = None;
        let mut current: Option<(u16, u16)> = None;
        for port in FIRST..=LAST {
            current = is_free[usize::from(port)].then(|| (current.map_or(port, |(low, _)| low), port));
            if size(current) > size(largest) {
                largest = current;
            }
        }
        largest.filter(|_| size(largest) >= MIN_PORTS)
    }
}

fn size(range: Option<(u16, u16)>) -> usize {
    range.map_or(0, |(low, high)| usize::from(high.saturating_sub(low)) + 1)
}

/// The source ports of masqueraded flows, inclusive: the largest range without ephemeral ports. If it is too small, all
/// unprivileged ports, and each port is checked for a socket.
pub fn masquerade_ports() -> (u16, u16) {
    let ephemeral = EphemeralPorts::read().unwrap_or_else(|| {
        warn!(
            sysctl = "net.ipv4.ip_local_port_range",
            "cannot read the ephemeral port range, using the kernel's default"
        );
        EphemeralPorts { low: 32_768, high: 60_999, reserved: String::new() }
    });
    ephemeral.free_range().unwrap_or((FIRST, LAST))
}

/// Reserves a range for masquerading if the node's own sockets may have all ports. Returns the new value of
/// `ip_local_reserved_ports`, `None` if there is such a range already. The kernel lets programs bind to reserved ports; it
/// only does not choose them.
pub fn reserve(system: &Path) -> io::Result<Option<String>> {
    let Some(ephemeral) = EphemeralPorts::read_below(system).filter(|found| found.free_range().is_none())
    else {
        return Ok(None);
    };
    let reserved = ephemeral.with_own_range();
    fs::write(system.join(RESERVED), &reserved)?;
    Ok(Some(reserved))
}

fn parse(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// One element of `ip_local_reserved_ports`: a port, or `low-high`.
fn interval(text: &str) -> Option<(u16, u16)> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    Some((low.trim().parse().ok()?, high.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_range_without_ephemeral_ports_is_used() {
        for (text, reserved, want) in [
            ("32768\t60999\n", "", Some((1024, 32_767))),
            ("1024 40000", "", Some((40_001, 65_535))),
            ("1024 65535", "", None),
            ("1 65000", "", None),
            ("1024 65535", "8080,61000-65535", Some((61_000, 65_535))),
            ("1024 65000", "64000-65000", Some((64_000, 65_535))),
            ("1024 65535", "8080,9000-9100", None),
            ("32768 60999", "30000-32767,32768-40000", Some((1024, 40_000))),
            ("1024 65535", "nonsense,70000-80000", None),
        ] {
            let (low, high) = parse(text).unwrap();
            let ephemeral = EphemeralPorts { low, high, reserved: reserved.to_owned() };
            assert_eq!(ephemeral.free_range(), want, "{text} {reserved}");
        }
        assert_eq!(parse("32768"), None);
    }

    #[test]
    fn a_range_is_reserved_where_none_is_free() {
        for (range, reserved, want) in [
            ("32768\t60999\n", "\n", None),
            ("1024 65535\n", "\n", Some("61000-65535")),
            ("1024 65535\n", "8080,9000-9100\n", Some("8080,9000-9100,61000-65535")),
            ("1024 65535\n", "30000-32767\n", None),
        ] {
            let system = tempfile::tempdir().unwrap();
            let file = |path: &str| system.path().join(path);
            fs::create_dir_all(file(RESERVED).parent().unwrap()).unwrap();
            fs::write(file(LOCAL_RANGE), range).unwrap();
            fs::write(file(RESERVED), reserved).unwrap();
            assert_eq!(reserve(system.path()).unwrap().as_deref(), want, "{range} {reserved}");
            let now = fs::read_to_string(file(RESERVED)).unwrap();
            assert_eq!(now, want.unwrap_or(reserved));
            assert_eq!(reserve(system.path()).unwrap(), None, "the second time");
            assert!(EphemeralPorts::read_below(system.path()).unwrap().free_range().is_some());
        }
        // A container without the right to write sysctls, or a kernel without them.
        let system = tempfile::tempdir().unwrap();
        assert_eq!(reserve(system.path()).unwrap(), None);
        fs::create_dir_all(system.path().join(RESERVED)).unwrap();
        fs::write(system.path().join(LOCAL_RANGE), "1024 65535").unwrap();
        reserve(system.path()).unwrap_err();
    }
}
