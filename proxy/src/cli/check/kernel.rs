//! Checks the kernel: version, BTF, JIT, mounts and capabilities.

use std::{fs, path::Path};

use super::finding::Finding;
use crate::datapath::{self, EnvironmentError, Pins};

/// The oldest supported kernel.
const OLDEST: (u32, u32) = (6, 1);
/// The first kernel with tcx links.
const TCX: (u32, u32) = (6, 6);

pub fn check(bpffs: &Path, named_cgroup: Option<&Path>) -> Vec<Finding> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let jit = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok();
    vec![
        kernel(release.trim()),
        btf(Path::new("/sys/kernel/btf/vmlinux").exists()),
        bpf_jit(jit.as_deref().map(str::trim)),
        cgroup(named_cgroup),
        pins(bpffs),
        capabilities(datapath::require_capabilities(), nix::unistd::geteuid().is_root()),
    ]
}

/// Checks the version. Distributions backport features, so only versions older than any backport fail.
fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Finding::warn("kernel", format!("unknown version `{release}`"), "expect 6.1 or newer");
    };
    if (major, minor) < OLDEST {
        return Finding::fail(
            "kernel",
            format!("{release} is too old"),
            "run Linux 6.1 or newer on this node",
        );
    }
    let remark = if (major, minor) < TCX { ", before tcx: device hooks use clsact" } else { "" };
    Finding::ok("kernel", format!("{release}{remark}"))
}

fn btf(is_present: bool) -> Finding {
    if is_present {
        return Finding::ok("btf", "present");
    }
    Finding::warn("btf", "the kernel has no BTF", "use a kernel built with CONFIG_DEBUG_INFO_BTF")
}

fn bpf_jit(setting: Option<&str>) -> Finding {
    match setting {
        Some("1" | "2") => Finding::ok("bpf-jit", "on"),
        // Kernels with CONFIG_BPF_JIT_ALWAYS_ON may hide the sysctl without privileges.
        None => Finding::ok("bpf-jit", "sysctl not readable without privileges"),
        Some(other) => Finding::warn(
            "bpf-jit",
            format!("net.core.bpf_jit_enable is {other}: programs are interpreted, and slow"),
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
    }
}

fn cgroup(named: Option<&Path>) -> Finding {
    let found = named.map_or_else(datapath::cgroup_root, |named| Ok(named.to_owned()));
    let found = found.and_then(|path| datapath::require_cgroup(&path).map(|()| path));
    match found {
        // Only the root cgroup lacks `cgroup.type`. With it, the mount is a subtree.
        Ok(path) if named.is_none() && path.join("cgroup.type").exists() => Finding::fail(
            "cgroup2",
            format!("{} is not the root cgroup: pods are not below it", path.display()),
            "mount the node's cgroup2 into the container (hostPath) and set --cgroup",
        ),
        Ok(path) => Finding::ok("cgroup2", path.display().to_string()),
        Err(error) => Finding::fail("cgroup2", error.to_string(), "mount -t cgroup2 none /sys/fs/cgroup"),
    }
}

fn pins(bpffs: &Path) -> Finding {
    match Pins::require_bpffs(bpffs) {
        Ok(()) => Finding::ok("bpffs", format!("{} can hold the data plane", bpffs.display())),
        Err(error) => Finding::fail("bpffs", error.to_string(), "mount -t bpf bpf /sys/fs/bpf"),
    }
}

/// Without root, missing capabilities are a warning: `check` does not need them. Root without them is a container that
/// the agent could not run in.
fn capabilities(held: Result<(), EnvironmentError>, is_root: bool) -> Finding {
    let remedy = "grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON to the agent";
    match held {
        Ok(()) => Finding::ok("capabilities", "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON"),
        Err(error) if is_root => Finding::fail("capabilities", error.to_string(), remedy),
        Err(_) => Finding::warn("capabilities", "unknown: check runs without root", remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Verdict, *};

    #[test]
    fn kernels_are_checked_by_release() {
        for (release, verdict, part) in [
            ("6.18.44-fc", Verdict::Ok, "6.18.44-fc"),
            ("6.1.0-28-amd64", Verdict::Ok, "clsact"),
            ("6.6", Verdict::Ok, "6.6"),
            ("7.0", Verdict::Ok, "7.0"),
            ("5.15.0-71-generic", Verdict::Fail, "too old"),
            ("6.0.19", Verdict::Fail, "too old"),
            ("", Verdict::Warn, "unknown version"),
        ] {
            let finding = kernel(release);
            assert_eq!(finding.verdict, verdict, "{release}");
            assert!(finding.what.contains(part), "{release}: {finding:?}");
        }
    }

    #[test]
    fn missing_requirements_have_a_remedy() {
        let missing = || Err(EnvironmentError::Capabilities { missing: "CAP_BPF".to_owned() });
        for (finding, verdict) in [
            (bpf_jit(Some("0")), Verdict::Warn),
            (bpf_jit(Some("1")), Verdict::Ok),
            (bpf_jit(None), Verdict::Ok),
            (btf(false), Verdict::Warn),
            (capabilities(missing(), true), Verdict::Fail),
            (capabilities(missing(), false), Verdict::Warn),
            (capabilities(Ok(()), true), Verdict::Ok),
            (cgroup(Some(Path::new("/proc"))), Verdict::Fail),
            (pins(Path::new("/proc/x")), Verdict::Fail),
        ] {
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert_eq!(finding.remedy.is_empty(), verdict == Verdict::Ok, "{finding:?}");
        }
    }
}
