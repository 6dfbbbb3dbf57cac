//! The kernel, and what of it must be mounted and permitted.

use std::{fs, path::Path};

use super::Finding;
use crate::datapath::{self, EnvironmentError, Pins};

/// The oldest kernel whose programs are tried.
const OLDEST: (u32, u32) = (6, 1);
/// The first with links at the hooks of devices.
const TCX: (u32, u32) = (6, 6);

pub fn check(bpffs: &Path, named_cgroup: Option<&Path>) -> Vec<Finding> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let jit = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok();
    vec![
        kernel(release.trim()),
        btf(Path::new("/sys/kernel/btf/vmlinux").exists()),
        compiled(jit.as_deref().map(str::trim)),
        cgroup(named_cgroup),
        pins(bpffs),
        capabilities(datapath::require_capabilities(), nix::unistd::geteuid().is_root()),
    ]
}

/// Distributions carry features into old versions, so a version decides only where nothing newer can be there.
fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Finding::warn(
            "kernel",
            format!("`{release}` is no version that can be read"),
            "expect 6.1 or newer",
        );
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

fn btf(is_there: bool) -> Finding {
    if is_there {
        return Finding::ok("btf", "the kernel describes its types");
    }
    Finding::warn(
        "btf",
        "the kernel does not describe its types",
        "use a kernel built with CONFIG_DEBUG_INFO_BTF",
    )
}

fn compiled(setting: Option<&str>) -> Finding {
    match setting {
        Some("1" | "2") => Finding::ok("bpf-jit", "programs are compiled"),
        // Kernels that always compile may hide the switch from those without privileges.
        None => Finding::ok("bpf-jit", "the switch is not to be seen from here"),
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
        // Every cgroup but the root of all has this file: the mount shows a part of the tree only.
        Ok(path) if named.is_none() && path.join("cgroup.type").exists() => Finding::fail(
            "cgroup2",
            format!("{} is not the root of all cgroups: pods are not below it", path.display()),
            "mount the node's cgroup2 into the container (hostPath), and name it with --cgroup",
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

/// Without privileges one may still ask; a root without them is a container that lacks them.
fn capabilities(held: Result<(), EnvironmentError>, is_root: bool) -> Finding {
    let remedy = "grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON to the agent";
    match held {
        Ok(()) => Finding::ok("capabilities", "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON"),
        Err(error) if is_root => Finding::fail("capabilities", error.to_string(), remedy),
        Err(_) => Finding::warn("capabilities", "not root here, which this check needs not to be", remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    #[test]
    fn kernels_are_judged_by_their_release() {
        for (release, verdict, part) in [
            ("6.18.44-fc", Verdict::Ok, "6.18.44-fc"),
            ("6.1.0-28-amd64", Verdict::Ok, "clsact"),
            ("6.6", Verdict::Ok, "6.6"),
            ("7.0", Verdict::Ok, "7.0"),
            ("5.15.0-71-generic", Verdict::Fail, "too old"),
            ("6.0.19", Verdict::Fail, "too old"),
            ("", Verdict::Warn, "no version"),
        ] {
            let finding = kernel(release);
            assert_eq!(finding.verdict, verdict, "{release}");
            assert!(finding.what.contains(part), "{release}: {finding:?}");
        }
    }

    #[test]
    fn what_is_missing_has_a_remedy() {
        let missing = || Err(EnvironmentError::Capabilities { missing: "CAP_BPF".to_owned() });
        for (finding, verdict) in [
            (compiled(Some("0")), Verdict::Warn),
            (compiled(Some("1")), Verdict::Ok),
            (compiled(None), Verdict::Ok),
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
