//! A node without devices: the programs on their own maps, objects loaded into them, packets sent through by
//! BPF_PROG_TEST_RUN.

use std::{
    cell::RefCell,
    collections::{BTreeMap, btree_map::Entry},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::BorrowedFd,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Pod,
    maps::{Array, Map, MapData},
};
use nix::net::if_::if_nametoindex;
use proxy::{
    datapath::{
        self, Access, Busy, Device, DeviceTable, EventSource, Explainer, KernelMaps, MmapArray, Pins,
        Programs, pin_name,
    },
    index::{Change, Index},
    model::policy::Policy,
    reconcile::{LbMaps as _, Reconciler, UnclaimedNetworks},
};
use proxy_ebpf::abi::{ABI_VERSION, Config, ConfigFlags, DeviceRole, DropReason, FlowV4, FlowV6, MAPS, map};

use super::{
    packet::{DEVICE, ETHERNET, Packet},
    received::{self, Tagged},
};
use crate::lab::kernel::{leftovers::unique_name, mounts::PinDir, netns::Netns};

pub const PASS: i32 = -1;
pub const DROP: i32 = 2;
pub const REDIRECT: i32 = 7;

pub const EXTERNAL_INGRESS: &str = "tc_external_ingress";
pub const EXTERNAL_EGRESS: &str = "tc_external_egress";
pub const POD_INGRESS: &str = "tc_pod_ingress";
pub const POD_EGRESS: &str = "tc_pod_egress";
pub const LOOPBACK_EGRESS: &str = "tc_loopback_egress";

/// Networks without a route, one per family.
pub const UNREACHABLE: [&str; 2] = ["10.9.0.0/16", "fd00:9::/48"];

/// A device without link layer, of those that each kernel has.
pub const TUNNEL: &str = "tunnel";

/// The link layer of the device that a packet arrives at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    Ethernet,
    /// Ethernet, and a frame with this VLAN tag (TCI).
    Tagged(u16),
    /// None: packets begin with the IP header. Runs of programs are limited to sources of which two bytes are the EtherType, see
    /// `objects::without_link_layer`.
    None,
}

/// One set of maps, with the programs on it.
pub struct ProgramFixture {
    programs: Programs,
    pub reconciler: Reconciler<KernelMaps>,
    networks: UnclaimedNetworks,
    pub index: Index,
    devices: DeviceTable,
    /// Mapped: the tests read and write thousands of records between packets.
    pub flows_v4: RefCell<MmapArray<FlowV4>>,
    pub flows_v6: RefCell<MmapArray<FlowV6>>,
    /// Programs that set a VLAN tag, by the program that they call.
    tagged: BTreeMap<(&'static str, u16), Tagged>,
    pins: Pins,
    _directory: PinDir,
}

/// Without a limit of ICMP errors.
pub const CONFIG: Config = Config { icmp_errors: u32::MAX, ..Config::DEFAULT };

impl ProgramFixture {
    /// `object`: programs to use instead of the agent's.
    pub fn new(object: Option<&[u8]>, config: Config) -> Result<Self> {
        let directory = PinDir::create(&unique_name("differential"))?;
        let pins = Pins::acquire(directory.path(), ABI_VERSION, Busy::Fail)?;
        let config = Config { flags: config.flags.with(ConfigFlags::PACKET_PLANE, true), ..config };
        let programs = match object {
            Some(object) => datapath::load_object(object, &pins, config)?,
            None => datapath::load(&pins, config)?,
        };
        let reconciler = Reconciler::adopt(KernelMaps::open(&pins.maps())?)?;
        let networks = UnclaimedNetworks::adopt(reconciler.maps())?;
        let devices = DeviceTable::open(&pins.maps())?;
        let flows_v4 = RefCell::new(datapath::mapped(&pins.maps(), map::FLOWS_V4, Access::Write)?);
        let flows_v6 = RefCell::new(datapath::mapped(&pins.maps(), map::FLOWS_V6, Access::Write)?);
        let index = Index::new(Policy::default());
        let tagged = BTreeMap::new();
        Ok(Self {
            programs,
            reconciler,
            networks,
            index,
            devices,
            flows_v4,
            flows_v6,
            tagged,
            pins,
            _directory: directory,
        })
    }

    /// Replaces the node and the objects.
    pub fn load_objects(&mut self, policy: Policy, objects: impl IntoIterator<Item = Change>) -> Result<()> {
        let addresses = policy.node_addresses.clone();
        self.index = Index::new(policy);
        for change in objects {
            self.index.apply(change);
        }
        let pass = self.reconciler.apply_all(self.index.frontends().collect::<Vec<_>>());
        ensure!(pass.failed.is_empty(), "{:?}", pass.failed);
        self.networks.set_all(self.index.unclaimed_networks());
        self.networks.write(self.reconciler.maps_mut())?;
        if let Some(epoch) = pass.grace {
            datapath::grace_period()?;
            self.reconciler.reclaim(epoch);
        }
        self.set_node(&addresses)
    }

    /// A program that runs without a device runs at the loopback device, which gets the node's first addresses.
    fn set_node(&mut self, addresses: &[IpAddr]) -> Result<()> {
        let node = self.index.node();
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let serving =
            addresses.iter().chain(&loopback).map(|ip| (*ip, node.nodeports_include(*ip))).collect();
        self.reconciler.maps_mut().set_pod_ranges(&node.pod_range)?;
        self.reconciler.maps_mut().set_node_addresses(&serving)?;
        self.set_masquerade(addresses)
    }

    /// Sets the masquerade addresses.
    pub fn set_masquerade(&mut self, addresses: &[IpAddr]) -> Result<()> {
        let v4 = addresses.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None });
        let v6 = addresses.iter().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None });
        let mut devices = vec![lo(v4, v6)];
        // Not in each network.
        if let Ok(index) = if_nametoindex(TUNNEL) {
            let (name, has_link_header, router) = (TUNNEL.to_owned(), false, None);
            devices.push(Device { index, name, has_link_header, router, ..lo(v4, v6) });
        }
        Ok(self.devices.set(&devices, |_| false)?)
    }

    /// Gives a second device the same addresses.
    pub fn add_uplink(&mut self, index: u32, addresses: [IpAddr; 2]) -> Result<()> {
        let [IpAddr::V4(v4), IpAddr::V6(v6)] = addresses else { bail!("one address of each family") };
        let lo = lo(Some(v4), Some(v6));
        let uplink = Device { index, name: "uplink".to_owned(), ..lo.clone() };
        Ok(self.devices.set(&[lo, uplink], |_| false)?)
    }

    /// Runs XDP on a frame received at a device. Returns its action and the frame afterwards.
    pub fn run_xdp(&mut self, frame: &[u8], device: u32) -> Result<(u32, Vec<u8>)> {
        Ok(self.programs.run_xdp(frame, device)?)
    }

    /// The programs that answer questions about flows, on these maps.
    pub fn explainer(&self, config: Config) -> Result<Explainer> {
        let config = Config { flags: config.flags.with(ConfigFlags::PACKET_PLANE, true), ..config };
        Ok(Explainer::with_config(&self.pins.maps(), config)?)
    }

    /// The reader's end of the events of these programs.
    pub fn event_source(&mut self) -> Result<EventSource> {
        Ok(EventSource::take(&mut self.programs, &self.pins)?)
    }

    pub fn fd(&self, program: &'static str) -> Result<BorrowedFd<'_>> {
        Ok(self.programs.fd(program)?)
    }

    /// Starts the timer that deletes expired flows.
    pub fn start_sweeper(&mut self) -> Result<()> {
        Ok(datapath::start_sweeper(&mut self.programs)?)
    }

    /// Finds the flows of copied records, as an agent does before and after the links get its programs.
    pub fn adopt_flows(&mut self) -> Result<()> {
        Ok(datapath::adopt_flows(&mut self.programs, map::MAX_FLOWS)?)
    }

    /// Flows with a backend, of all Services.
    pub fn translated(&self) -> Result<u64> {
        let maps = self.reconciler.maps();
        let translated = |(service, _)| Ok(maps.service_stats(service)?.translated);
        maps.services()?.into_iter().map(translated).sum()
    }

    /// Runs a program on a packet. Returns its action and the packet afterwards.
    pub fn run(&mut self, program: &'static str, packet: &Packet) -> Result<(i32, Vec<u8>)> {
        self.run_frame(program, packet.bytes())
    }

    pub fn run_frame(&mut self, program: &'static str, frame: &[u8]) -> Result<(i32, Vec<u8>)> {
        Ok(self.programs.run(program, frame)?)
    }

    /// Runs a program on a packet that arrives at a device of this kind. Returns its action and the frame afterwards.
    pub fn run_at(&mut self, link: LinkLayer, program: &'static str, frame: &[u8]) -> Result<(i32, Vec<u8>)> {
        match link {
            LinkLayer::Ethernet => self.run_frame(program, frame),
            LinkLayer::Tagged(tag) => {
                let fd = self.programs.fd(program)?;
                let tagged = match self.tagged.entry((program, tag)) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(vacant) => vacant.insert(Tagged::new(fd, tag)?),
                };
                tagged.run(frame)
            }
            LinkLayer::None => {
                let (header, packet) = frame.split_at_checked(ETHERNET).context("too short")?;
                let device = if_nametoindex(TUNNEL)?;
                let (action, out) = received::run_at(self.programs.fd(program)?, device, packet)?;
                Ok((action, [header, &out].concat()))
            }
        }
    }

    /// Runs a program on a frame that stands for several segments with this many bytes of payload each.
    pub fn run_segments(
        &mut self,
        program: &'static str,
        frame: &[u8],
        payload: u32,
    ) -> Result<(i32, Vec<u8>)> {
        received::run_segments(self.programs.fd(program)?, payload, frame)
    }

    /// As `run`. Returns the packet afterwards and the time by the kernel's clock.
    pub fn run_timed(&mut self, program: &'static str, packet: &Packet) -> Result<(Vec<u8>, Duration)> {
        let ran = self.programs.run_on(program, packet.bytes())?;
        Ok((ran.packet, ran.took))
    }

    /// The counter of each drop reason.
    pub fn refusals(&self) -> Result<BTreeMap<&'static str, u64>> {
        let count = |reason: DropReason| Ok((reason.name(), self.reconciler.maps().drops(reason as u32)?));
        DropReason::ALL.into_iter().map(count).collect()
    }

    /// An array of the maps, for writing entries that no agent writes.
    pub fn array<T: Pod>(&self, name: &str) -> Result<Array<MapData, T>> {
        Ok(Map::Array(self.map(name)?).try_into()?)
    }

    pub fn map(&self, name: &str) -> Result<MapData> {
        let spec = MAPS.iter().find(|spec| spec.name == name).with_context(|| format!("no map {name}"))?;
        Ok(MapData::from_pin(self.pins.maps().join(pin_name(spec)))?)
    }
}

fn lo(v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> Device {
    // Its role says what a pod's packets are there; the programs of all roles run.
    let (index, name, role) = (1, "lo".to_owned(), DeviceRole::Pod);
    Device { index, name, role, is_bridge: false, has_link_header: true, router: Some(DEVICE), v4, v6 }
}

/// A network whose only device has the routes to all networks but `UNREACHABLE`.
pub fn network() -> Result<Netns> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let netns = Netns::create().await?;
        netns.forward()?;
        let netlink = netns.netlink()?;
        netlink.mac("lo", DEVICE).await?;
        netlink.tunnel(TUNNEL).await?;
        for network in ["0.0.0.0/0", "::/0"] {
            netlink.route_through(network.parse()?, "lo").await?;
        }
        for network in UNREACHABLE {
            netlink.unreachable(network.parse()?).await?;
        }
        drop(netlink);
        Ok(netns)
    })
}
