//! The node's settings that decide whether packets get through.

use std::fs;

use super::Finding;

pub fn check() -> Vec<Finding> {
    let read = |name: &str| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        fs::read_to_string(path).ok().map(|value| value.trim().to_owned())
    };
    let mut findings: Vec<Finding> =
        SETTINGS.iter().filter_map(|setting| setting.judge(read(setting.name))).collect();
    if findings.is_empty() {
        findings.push(Finding::ok("sysctls", "packets are forwarded and not filtered by their way back"));
    }
    findings
}

struct Setting {
    name: &'static str,
    good: &'static [&'static str],
    wanted: &'static str,
    why: &'static str,
}

const SETTINGS: &[Setting] = &[
    Setting {
        name: "net.ipv4.ip_forward",
        good: &["1"],
        wanted: "1",
        why: "pods are not reached from other nodes",
    },
    Setting {
        name: "net.ipv6.conf.all.forwarding",
        good: &["1"],
        wanted: "1",
        why: "pods are not reached over IPv6 from other nodes",
    },
    Setting {
        name: "net.ipv4.conf.all.rp_filter",
        good: &["0", "2"],
        wanted: "2",
        why: "packets that come back another way are dropped",
    },
];

impl Setting {
    /// One that does not exist concerns nobody: IPv6 may be off.
    fn judge(&self, value: Option<String>) -> Option<Finding> {
        let value = value.filter(|value| !self.good.contains(&value.as_str()))?;
        let what = format!("{} is {value}: {}", self.name, self.why);
        Some(Finding::warn("sysctls", what, format!("sysctl -w {}={}", self.name, self.wanted)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_that_hurt_are_named() {
        for (at, value, is_named) in [
            (0, Some("1"), false),
            (0, Some("0"), true),
            (1, None, false),
            (2, Some("0"), false),
            (2, Some("2"), false),
            (2, Some("1"), true),
        ] {
            let found = SETTINGS[at].judge(value.map(str::to_owned));
            assert_eq!(found.is_some(), is_named, "{} {value:?}", SETTINGS[at].name);
        }
    }
}
