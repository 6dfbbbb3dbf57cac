//! Control groups: a node is a subtree, a pod a leaf of it.
//!
//! A socket belongs permanently to the cgroup of the process that created it, so that the programs of one node
//! see only the sockets of its own pods. A group is removed when dropped; the owner of its processes ends them
//! first.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::lab::kernel::{leftovers, mounts};

#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A group directly below the cgroup2 mount of this machine.
    pub fn at_the_root(name: &str) -> Result<Self> {
        let root = mounts::cgroup2()?;
        leftovers::sweep(&root, remove_tree);
        Self::create(root.join(name))
    }

    pub fn child(&self, name: &str) -> Result<Self> {
        Self::create(self.path.join(name))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that moves a process into the group if it writes `0`; to be opened before the fork.
    pub fn entrance(&self) -> Result<File> {
        let path = self.path.join("cgroup.procs");
        OpenOptions::new().write(true).open(&path).with_context(|| format!("cannot open {}", path.display()))
    }

    fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path)
            .with_context(|| format!("cannot create the cgroup {}: this needs root", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.path) {
            eprintln!("cannot remove the cgroup {}: {error}", self.path.display());
        }
    }
}

fn remove_tree(group: &Path) {
    let Ok(entries) = fs::read_dir(group) else { return };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .for_each(|entry| remove_tree(&entry.path()));
    // A group with a process remains; the next start tries again.
    let _ = fs::remove_dir(group);
}
