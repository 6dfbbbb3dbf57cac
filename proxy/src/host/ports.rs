//! The ports that the node's own sockets are not given.

use std::fs;

use tracing::warn;

/// Below are the ports that ask for a privilege.
const FIRST: u16 = 1024;
const LAST: u16 = u16::MAX;
const LOCAL_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Fewer would soon be used up between the node and one backend.
const ENOUGH: u16 = 1024;

/// The ports, both included, that stand for clients of masqueraded flows: the larger part of those from which the node's
/// own sockets are not given theirs. Where they may have any, collisions are looked for one by one.
pub fn ports_for_others() -> (u16, u16) {
    let text = fs::read_to_string(LOCAL_RANGE).unwrap_or_default();
    let Some((low, high)) = parse(&text) else {
        warn!(file = LOCAL_RANGE, "cannot tell which ports sockets are given, taking the kernel's default");
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
    if below.max(above) < ENOUGH {
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
    fn the_larger_part_that_sockets_leave_is_taken() {
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
