//! Checks that masqueraded flows have source ports that no socket of the node takes.

use super::finding::Finding;
use crate::host::EphemeralPorts;

const NAME: &str = "masquerade ports";

pub fn check() -> Finding {
    finding(EphemeralPorts::read().as_ref())
}

fn finding(ephemeral: Option<&EphemeralPorts>) -> Finding {
    let Some(ephemeral) = ephemeral else {
        return Finding::warn(
            NAME,
            "net.ipv4.ip_local_port_range cannot be read",
            "make /proc/sys readable for the agent",
        );
    };
    let EphemeralPorts { low, high, .. } = ephemeral;
    if let Some((first, last)) = ephemeral.free_range() {
        return Finding::ok(NAME, format!("{first} to {last}, outside of the ephemeral ports"));
    }
    Finding::warn(
        NAME,
        format!(
            "net.ipv4.ip_local_port_range is {low} {high}: masqueraded flows share ports with the node's own \
             connections, and a pair that meets at one backend fails"
        ),
        format!(
            "sysctl -w net.ipv4.ip_local_reserved_ports={}, or `portreeve run --init-only`; then restart the agent",
            ephemeral.with_own_range()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Verdict, *};

    #[test]
    fn a_range_without_room_has_a_remedy_that_makes_room() {
        let ephemeral =
            |low, high, reserved: &str| EphemeralPorts { low, high, reserved: reserved.to_owned() };
        assert_eq!(finding(Some(&ephemeral(32_768, 60_999, ""))).verdict, Verdict::Ok);
        assert_eq!(finding(None).verdict, Verdict::Warn);
        for reserved in ["", "8080,9000-9100"] {
            let before = ephemeral(1024, 65_535, reserved);
            let found = finding(Some(&before));
            assert_eq!(found.verdict, Verdict::Warn);
            assert!(found.what.contains("1024 65535"), "{found:?}");
            let value = found.remedy.split(['=', ' ']).find(|word| word.contains("61000")).unwrap();
            let value = value.trim_end_matches(',');
            assert!(value.starts_with(reserved), "what is reserved already stays so: {value}");
            assert_eq!(finding(Some(&ephemeral(1024, 65_535, value))).verdict, Verdict::Ok, "{value}");
        }
    }
}
