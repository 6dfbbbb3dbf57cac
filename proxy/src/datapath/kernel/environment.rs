//! Requirements on the machine, checked first. Each error names the remedy.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use caps::{CapSet, Capability};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    #[error(
        "no cgroup2 is mounted: mount one with `mount -t cgroup2 none /sys/fs/cgroup`, or name one with --cgroup"
    )]
    NoCgroup2,
    #[error("{0} is not a cgroup2 directory: name one with --cgroup")]
    NotCgroup2(PathBuf),
    #[error("missing {missing}: run as root, or grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")]
    Capabilities { missing: String },
    #[error("cannot read {path}")]
    Io {
        path: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot read the capabilities of this process")]
    NoCapabilities(#[source] caps::errors::CapsError),
}

const MOUNTS: &str = "/proc/self/mounts";

/// The mount point of cgroup2.
pub fn cgroup_root() -> Result<PathBuf, EnvironmentError> {
    let mounts =
        fs::read_to_string(MOUNTS).map_err(|source| EnvironmentError::Io { path: MOUNTS, source })?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|words| words.get(2) == Some(&"cgroup2"))
        // The kernel escapes spaces in paths as octal.
        .and_then(|words| words.get(1).map(|path| PathBuf::from(path.replace("\\040", " "))))
        .ok_or(EnvironmentError::NoCgroup2)
}

pub fn require_cgroup(path: &Path) -> Result<(), EnvironmentError> {
    let is_cgroup2 = statfs(path).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
    if is_cgroup2 { Ok(()) } else { Err(EnvironmentError::NotCgroup2(path.to_owned())) }
}

/// Loading, attaching and pinning need these three; CAP_SYS_ADMIN implies two of them.
pub fn require_capabilities() -> Result<(), EnvironmentError> {
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability);
    let mut missing = Vec::new();
    for (capability, includes) in [
        (Capability::CAP_BPF, Some(Capability::CAP_SYS_ADMIN)),
        (Capability::CAP_PERFMON, Some(Capability::CAP_SYS_ADMIN)),
        (Capability::CAP_NET_ADMIN, None),
    ] {
        let granted = has(capability).map_err(EnvironmentError::NoCapabilities)?
            || includes.is_some_and(|wider| has(wider).unwrap_or_default());
        if !granted {
            missing.push(capability.to_string());
        }
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(EnvironmentError::Capabilities { missing: missing.join(", ") })
    }
}
