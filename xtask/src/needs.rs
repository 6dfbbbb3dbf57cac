//! Requirements of the stories and the demo: root with a node's capabilities, cgroup2 and bpffs; and of all tests: room for
//! what is built.

use std::{fs, io, path::Path};

use nix::sys::statvfs::statvfs;

/// Bytes that `cargo xtask test` writes to a target directory, and some room: 12 GB were measured in a fresh clone.
const BUILD_BYTES: u64 = 13_000_000_000;

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

/// A sentence, if what the tests build does not fit beside what is in the target directory already.
pub fn missing_room(target: &Path) -> io::Result<Option<String>> {
    fs::create_dir_all(target)?;
    let filesystem = statvfs(target)?;
    let free = filesystem.blocks_available() * filesystem.fragment_size();
    Ok(room(target, free, bytes_in(target)?))
}

fn room(target: &Path, free: u64, built: u64) -> Option<String> {
    let missing = BUILD_BYTES.checked_sub(free.saturating_add(built)).filter(|missing| *missing > 0)?;
    Some(format!(
        "{} has {:.1} GB free, and the tests build {:.0} GB there: free {:.1} GB, or name another directory in \
         CARGO_TARGET_DIR",
        target.display(),
        gigabytes(free),
        gigabytes(BUILD_BYTES),
        gigabytes(missing) + 0.1
    ))
}

fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

/// The sizes of all files below a directory.
fn bytes_in(directory: &Path) -> io::Result<u64> {
    fs::read_dir(directory)?
        .map(|entry| {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() { bytes_in(&entry.path()) } else { Ok(metadata.len()) }
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_room_counts_what_is_built_already() {
        let target = Path::new("target");
        assert_eq!(room(target, BUILD_BYTES, 0), None);
        assert_eq!(room(target, BUILD_BYTES / 2, BUILD_BYTES / 2), None);
        let sentence = room(target, 1_000_000_000, 0).unwrap();
        assert!(
            sentence.starts_with("target has 1.0 GB free, and the tests build 13 GB there: free 12.1 GB")
        );
        let written = tempfile::tempdir().unwrap();
        fs::create_dir(written.path().join("debug")).unwrap();
        fs::write(written.path().join("debug/file"), [0; 300]).unwrap();
        assert_eq!(bytes_in(written.path()).unwrap(), 300);
    }

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
