//! The pinned maps of a node, readable whether or not an agent runs.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context as _, Result};
use proxy::{
    datapath::{KernelMaps, maps_of},
    model::address::IpFamily,
    reconcile::{LbMaps as _, dump},
};
use proxy_ebpf::abi::ABI_VERSION;

/// The pinned maps of a node, open for reading.
pub struct PinnedMaps(KernelMaps);

impl PinnedMaps {
    pub fn open(bpffs: &Path) -> Result<Self> {
        let maps = KernelMaps::inspect(&maps_of(bpffs, ABI_VERSION));
        maps.context("cannot open the pinned maps").map(Self)
    }

    /// One sorted line per frontend and backend.
    pub fn text(&self) -> Result<String> {
        dump(&self.0).context("cannot read the pinned maps")
    }

    /// The index of the TCP frontend at this address.
    pub fn frontend(&self, address: SocketAddr) -> Result<u32> {
        let key_text = format!("{address}/TCP");
        let frontends = self.0.frontends().context("cannot read the frontends")?;
        let found = frontends.into_iter().find(|(key, _)| key.to_string() == key_text);
        found.map(|(_, index)| index).with_context(|| format!("there is no frontend {key_text}"))
    }

    /// The current backends of a frontend.
    pub fn serving(&self, frontend: u32, family: IpFamily) -> Result<Vec<SocketAddr>> {
        let descriptor = self.0.descriptor(self.0.published(frontend)?)?;
        let slots = self.0.slots(descriptor.internal)?.into_iter();
        slots.map(|slot| Ok(self.0.backend(family, slot.index)?.address)).collect()
    }
}

pub fn pinned_state(bpffs: &Path) -> Result<String> {
    PinnedMaps::open(bpffs)?.text()
}
