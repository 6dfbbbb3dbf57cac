//! The links that hold a node's programs at their hooks.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Result, ensure};
use aya::programs::{
    links::{FdLink, PinnedLink},
    loaded_links,
};

use crate::eventually::eventually;

/// Links, by the kernel's numbers.
#[derive(Debug)]
pub struct Links(BTreeSet<u32>);

impl Links {
    /// Those that are pinned in a node's directory.
    pub fn pinned_in(bpffs: &Path) -> Result<Self> {
        let mut links = BTreeSet::new();
        for entry in fs::read_dir(bpffs.join("links"))? {
            let link = FdLink::from(PinnedLink::from_pin(entry?.path())?);
            links.insert(link.info()?.id());
        }
        ensure!(!links.is_empty(), "nothing is pinned in {}", bpffs.display());
        Ok(Self(links))
    }

    /// The kernel takes programs off their hooks some time after the last name of their links is gone, one by one. What a
    /// client asks meanwhile may be led elsewhere by one and never come back for want of another.
    pub async fn are_gone(&self) {
        eventually("the kernel has let go of the links", async || {
            // One that cannot be read was just let go of.
            let left = loaded_links().flatten().filter(|link| self.0.contains(&link.id())).count();
            ensure!(left == 0, "{left} of {} are left", self.0.len());
            Ok(())
        })
        .await;
    }
}
