//! Requirements of the stories and the demo: root with a node's capabilities, cgroup2 and bpffs.

use std::{fs, path::Path};

/// The machine's properties, which `missing` checks.
struct Machine {
    is_root: bool,
    /// `CapEff` of /proc/self/status.
    capabilities: u64,
    mounts: String,
    filesystems: String,
}

/// Bits of capabilities(7).
const CAPABILITIES: [(&str, u32); 5] =
    [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_SYS_ADMIN", 21), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];

/// One sentence per missing requirement.
pub fn missing() -> Vec<String> {
    Machine::read().missing()
}

impl Machine {
    fn read() -> Machine {
        // An unreadable file counts as empty, so its requirement is reported as missing.
        let read = |path: &str| fs::read_to_string(Path::new(path)).unwrap_or_default();
        let status = read("/proc/self/status");
        let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        Machine {
            is_root: nix::unistd::geteuid().is_root(),
            capabilities: capabilities.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0),
            mounts: read("/proc/mounts"),
            filesystems: read("/proc/filesystems"),
        }
    }

    fn missing(&self) -> Vec<String> {
        if !self.is_root {
            return vec!["root: network namespaces, cgroups and eBPF programs are created".to_owned()];
        }
        let mut missing: Vec<String> = CAPABILITIES
            .iter()
            .filter(|(_, bit)| self.capabilities & (1 << bit) == 0)
            .map(|(name, _)| format!("{name}, which root lacks here: start the container with it"))
            .collect();
        if !self.mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup2")) {
            missing.push(
                "a cgroup2 mount: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified"
                    .to_owned(),
            );
        }
        if !self.filesystems.lines().any(|line| line.split_whitespace().last() == Some("bpf")) {
            missing.push("a kernel with the bpf filesystem (CONFIG_BPF_SYSCALL)".to_owned());
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = 0x1ff_ffff_ffff;
    const MOUNTS: &str = "none / ext4 rw 0 0\nnone /sys/fs/cgroup cgroup2 rw 0 0\n";
    const FILESYSTEMS: &str = "nodev\tsysfs\nnodev\tbpf\n\text4\n";

    #[test]
    fn each_missing_requirement_is_reported() {
        let machine = |is_root, capabilities, mounts: &str, filesystems: &str| Machine {
            is_root,
            capabilities,
            mounts: mounts.to_owned(),
            filesystems: filesystems.to_owned(),
        };
        let cases: [(&str, Machine, &[&str]); 6] = [
            ("complete", machine(true, ALL, MOUNTS, FILESYSTEMS), &[]),
            ("not root: nothing else matters", machine(false, 0, "", ""), &["root"]),
            ("a container's root", machine(true, ALL & !(1 << 39), MOUNTS, FILESYSTEMS), &["CAP_BPF"]),
            (
                "cgroup v1 only",
                machine(true, ALL, "none /c cgroup rw 0 0\n", FILESYSTEMS),
                &["a cgroup2 mount"],
            ),
            ("no bpffs", machine(true, ALL, MOUNTS, "nodev\tebpfs\n"), &["a kernel with the bpf"]),
            ("nothing readable", machine(true, ALL, "", ""), &["a cgroup2 mount", "a kernel"]),
        ];
        for (name, machine, want) in cases {
            let missing = machine.missing();
            assert_eq!(missing.len(), want.len(), "{name}: {missing:?}");
            for (line, start) in missing.iter().zip(want) {
                assert!(line.starts_with(start), "{name}: {line}");
            }
        }
    }
}
