//! The cgroup2 and bpffs mounts of this machine; a missing bpffs is mounted.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MsFlags, mount};

use crate::lab::kernel::leftovers;

const BPFFS: &str = "/sys/fs/bpf";

pub fn cgroup2() -> Result<PathBuf> {
    find("cgroup2")?
        .context("there is no cgroup2 mount; create one with `mount -t cgroup2 none /sys/fs/cgroup/unified`")
}

/// The machine's bpffs. One that is mounted here stays mounted, as on every node.
pub fn bpffs() -> Result<PathBuf> {
    static MOUNTING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = MOUNTING.lock();
    if let Some(path) = find("bpf")? {
        return Ok(path);
    }
    ensure!(Path::new(BPFFS).is_dir(), "there is no directory {BPFFS} to mount a bpffs at");
    mount(Some("bpffs"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .with_context(|| format!("cannot mount a bpffs at {BPFFS}: this needs root"))?;
    Ok(PathBuf::from(BPFFS))
}

fn find(kind: &str) -> Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    Ok(mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&kind))
        .and_then(|fields| fields.get(1).map(PathBuf::from)))
}

/// A directory below the bpffs for the pins of one node; removed with all pins in it.
#[derive(Debug)]
pub struct PinDir {
    path: PathBuf,
}

impl PinDir {
    pub fn create(name: &str) -> Result<Self> {
        let root = bpffs()?;
        leftovers::sweep(&root, leftovers::remove_directory);
        let path = root.join(name);
        fs::create_dir(&path)
            .with_context(|| format!("cannot create the pin directory {}", path.display()))?;
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PinDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove the pins in {}: {error}", self.path.display());
        }
    }
}
