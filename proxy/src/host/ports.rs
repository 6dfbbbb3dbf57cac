//! Masquerade ports: those outside of the ephemeral port range of the node's own sockets.

use std::fs;

use tracing::warn;

/// The first unprivileged port.
const FIRST: u16 = 1024;
const LAST: u16 = u16::MAX;
const LOCAL_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Minimum size of the range. Fewer ports would soon be exhausted between the node and one backend.
const MIN_PORTS: u16 = 1024;

/// The source ports of masqueraded flows, inclusive: the larger of the ranges below and above the ephemeral ports
/// (`ip_local_port_range`). If both are too small, all unprivileged ports, and each port is checked for a socket.
pub fn masquerade_ports() -> (u16, u16) {
    let text = fs::read_to_string(LOCAL_RANGE).unwrap_or_default();
    let Some((low, high)) = parse(&text) else {
        warn!(file = LOCAL_RANGE, "cannot read the ephemeral port range, using the kernel's default");
        return outside(32_768, 60_999);
    };
    outside(low, high)
}

fn parse(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn outside(low: u16, high: u16) -> (u16, u16) {
    let below = low.saturating_sub(FIRST);
    let above = LAST - high;
    if below.max(above) < MIN_PORTS {
        (FIRST, LAST)
    } else if below >= above {
        (FIRST, low - 1)
    } else {
        (high + 1, LAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_range_outside_of_ephemeral_ports_is_used() {
        for (text, want) in [
            ("32768\t60999\n", (1024, 32_767)),
            ("1024 40000", (40_001, 65_535)),
            ("1024 65535", (1024, 65_535)),
            ("1 65000", (1024, 65_535)),
        ] {
            let (low, high) = parse(text).unwrap();
            assert_eq!(outside(low, high), want, "{text}");
        }
        assert_eq!(parse("32768"), None);
    }
}
