//! One network namespace whose loopback owns every backend address, and a cgroup with the programs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};
use ipnetwork::IpNetwork;
use proxy::{
    datapath::{self, Busy, KernelMaps, Pins},
    reconcile::Reconciler,
};
use proxy_ebpf::abi::{ABI_VERSION, Config};

use crate::lab::kernel::{cgroup::Cgroup, leftovers::unique_name, mounts::PinDir, netns::Netns};

/// The port of all backends.
pub const BACKEND_PORT: u16 = 8080;
const VIP_PORT: u16 = 80;
/// Backends are numbered from the first address of these networks.
const BACKENDS_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 128, 0, 0), 9);
const BACKENDS_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd00, 0x128, 0, 0, 0, 0, 0, 0), 96);
/// Source address of IPv6 clients.
const CLIENT: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd00, 0x127, 0, 0, 0, 0, 0, 1), 128);
/// The size of the smaller network.
pub const GENERATIONS: u32 = 1 << 23;

pub struct AtomicityFixture {
    pub netns: Netns,
    pins: Pins,
    _directory: PinDir,
    // Last: the pinned links are attached to it.
    pub cgroup: Cgroup,
}

impl AtomicityFixture {
    pub async fn create() -> Result<Self> {
        let name = unique_name("atomicity");
        let netns = Netns::create().await?;
        let netlink = netns.netlink()?;
        netlink.address("lo", IpNetwork::new(CLIENT.0.into(), CLIENT.1)?).await?;
        netlink.add_local_network(IpNetwork::new(BACKENDS_V4.0.into(), BACKENDS_V4.1)?).await?;
        netlink.add_local_network(IpNetwork::new(BACKENDS_V6.0.into(), BACKENDS_V6.1)?).await?;
        drop(netlink);
        let directory = PinDir::create(&name)?;
        let pins = Pins::acquire(directory.path(), ABI_VERSION, Busy::Fail)?;
        Ok(Self { netns, pins, _directory: directory, cgroup: Cgroup::at_the_root(&name)? })
    }

    /// Loads the programs, which creates the maps, and opens the maps.
    pub fn reconciler(&self) -> Result<Reconciler<KernelMaps>> {
        datapath::load(&self.pins, config()?)?;
        Ok(Reconciler::adopt(KernelMaps::open(&self.pins.maps())?)?)
    }

    /// From here on, connects in the cgroup are translated.
    pub fn attach(&self) -> Result<()> {
        let mut programs = datapath::load(&self.pins, config()?)?;
        datapath::attach(&mut programs, self.cgroup.path(), &self.pins).context("cannot attach the programs")
    }
}

fn config() -> Result<Config> {
    let host_netns = datapath::netns_cookie().context("cannot read the cookie of the network namespace")?;
    Ok(Config { host_netns, ..Config::default() })
}

/// The ClusterIP of each family.
pub fn vips() -> [SocketAddr; 2] {
    [
        (Ipv4Addr::new(10, 96, 0, 10), VIP_PORT).into(),
        (Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 10), VIP_PORT).into(),
    ]
}

/// The address of a generation, in each family.
pub fn backends(generation: u32) -> [IpAddr; 2] {
    let number = generation + 1;
    [
        Ipv4Addr::from_bits(BACKENDS_V4.0.to_bits() + number).into(),
        Ipv6Addr::from_bits(BACKENDS_V6.0.to_bits() + u128::from(number)).into(),
    ]
}

/// The generation of an address.
pub fn generation(address: IpAddr) -> u32 {
    let number = match address {
        IpAddr::V4(v4) => v4.to_bits() - BACKENDS_V4.0.to_bits(),
        IpAddr::V6(v6) => (v6.to_bits() - BACKENDS_V6.0.to_bits()) as u32,
    };
    number.wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_generation_has_an_address_that_identifies_it() {
        for number in [0, 1, 254, 255, 65_535, 1_000_000, GENERATIONS - 2] {
            assert_eq!(backends(number).map(generation), [number; 2]);
        }
    }
}
