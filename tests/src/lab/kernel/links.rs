//! The links that attach a node's programs to their hooks.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Result, ensure};
use aya::programs::{
    links::{FdLink, PinnedLink},
    loaded_programs,
};

use crate::lab::eventually::eventually;

/// Program ids of links.
#[derive(Debug)]
pub struct LinkedPrograms(BTreeSet<u32>);

impl LinkedPrograms {
    /// The links that are pinned in a node's directory.
    pub fn in_directory(bpffs: &Path) -> Result<Self> {
        let mut programs = BTreeSet::new();
        for entry in fs::read_dir(bpffs.join("links"))? {
            let link = FdLink::from(PinnedLink::from_pin(entry?.path())?);
            programs.insert(link.info()?.program_id());
        }
        ensure!(!programs.is_empty(), "nothing is pinned in {}", bpffs.display());
        Ok(Self(programs))
    }

    /// Waits until the kernel has detached and freed the programs. It does so one by one, some time after the
    /// last pin of their links is removed. Meanwhile a query may be redirected by one program, and its reply be
    /// lost for lack of another.
    pub async fn wait_detached(&self) {
        eventually("the kernel has freed the programs", async || {
            // A program that cannot be read was just freed.
            let left = loaded_programs().flatten().filter(|program| self.0.contains(&program.id())).count();
            ensure!(left == 0, "{left} of {} are left", self.0.len());
            Ok(())
        })
        .await;
    }
}
