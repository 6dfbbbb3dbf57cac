//! Checks the sysctls for forwarding and reverse path filtering.

use std::fs;

use super::finding::Finding;

pub fn check() -> Vec<Finding> {
    let read = |name: &str| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        fs::read_to_string(path).ok().map(|value| value.trim().to_owned())
    };
    let mut findings: Vec<Finding> =
        SETTINGS.iter().filter_map(|setting| setting.check(read(setting.name))).collect();
    if findings.is_empty() {
        findings.push(Finding::ok("sysctls", "forwarding is on, rp_filter is not strict"));
    }
    findings
}

struct Setting {
    name: &'static str,
    good: &'static [&'static str],
    wanted: &'static str,
    consequence: &'static str,
}

const SETTINGS: &[Setting] = &[
    Setting {
        name: "net.ipv4.ip_forward",
        good: &["1"],
        wanted: "1",
        consequence: "pods are not reachable from other nodes",
    },
    Setting {
        name: "net.ipv6.conf.all.forwarding",
        good: &["1"],
        wanted: "1",
        consequence: "pods are not reachable over IPv6 from other nodes",
    },
    Setting {
        name: "net.ipv4.conf.all.rp_filter",
        good: &["0", "2"],
        wanted: "2",
        consequence: "strict rp_filter drops packets on asymmetric paths",
    },
];

impl Setting {
    /// Returns a finding for a bad value. A sysctl that does not exist is fine: IPv6 may be off.
    fn check(&self, value: Option<String>) -> Option<Finding> {
        let value = value.filter(|value| !self.good.contains(&value.as_str()))?;
        let what = format!("{} is {value}: {}", self.name, self.consequence);
        Some(Finding::warn("sysctls", what, format!("sysctl -w {}={}", self.name, self.wanted)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bad_values_are_reported() {
        for (at, value, is_reported) in [
            (0, Some("1"), false),
            (0, Some("0"), true),
            (1, None, false),
            (2, Some("0"), false),
            (2, Some("2"), false),
            (2, Some("1"), true),
        ] {
            let found = SETTINGS[at].check(value.map(str::to_owned));
            assert_eq!(found.is_some(), is_reported, "{} {value:?}", SETTINGS[at].name);
        }
    }
}
