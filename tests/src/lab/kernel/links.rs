//! The links that hold a node's programs at their hooks.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Result, ensure};
use aya::programs::{
    links::{FdLink, PinnedLink},
    loaded_programs,
};

use crate::lab::eventually::eventually;

/// The programs of links, by the kernel's numbers.
#[derive(Debug)]
pub struct Linked(BTreeSet<u32>);

impl Linked {
    /// Those whose links are pinned in a node's directory.
    pub fn in_directory(bpffs: &Path) -> Result<Self> {
        let mut programs = BTreeSet::new();
        for entry in fs::read_dir(bpffs.join("links"))? {
            let link = FdLink::from(PinnedLink::from_pin(entry?.path())?);
            programs.insert(link.info()?.program_id());
        }
        ensure!(!programs.is_empty(), "nothing is pinned in {}", bpffs.display());
        Ok(Self(programs))
    }

    /// The kernel takes programs off their hooks some time after the last name of their links is gone, one by one, and lets
    /// go of them then. What a client asks meanwhile may be led elsewhere by one and never come back for want of another.
    pub async fn are_gone(&self) {
        eventually("the kernel has let go of the programs", async || {
            // One that cannot be read was just let go of.
            let left = loaded_programs().flatten().filter(|program| self.0.contains(&program.id())).count();
            ensure!(left == 0, "{left} of {} are left", self.0.len());
            Ok(())
        })
        .await;
    }
}
