//! A network namespace and the netlink requests that configure it.
//!
//! A namespace here has no name and no mount: it exists as long as a descriptor to it or a process in it, so that
//! it cannot be left behind, not even by SIGKILL. Only the network namespace is entered: a new mount of /sys, as
//! `ip netns exec` makes, would hide cgroup2 and bpffs.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use futures_util::TryStreamExt as _;
use ipnetwork::IpNetwork;
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, setns, unshare},
};
use rtnetlink::{
    Handle, LinkBridge, LinkUnspec, LinkVeth, LinkVxlan, RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressFlags, AddressHeaderFlags},
        link::{LinkAttribute, State},
        neighbour::NeighbourFlags,
        route::{RouteScope, RouteType},
    },
};
use tokio::task::JoinHandle;

use crate::lab::eventually::within;

/// Sysctls that make a new namespace independent of the machine's defaults.
const SETTINGS: &[(&str, &str)] = &[
    // Addresses are usable at once: no other host can have them here.
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/dad_transmits", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    // Every packet without a route is rejected, instead of one per second: a story that meets a gap fails at
    // once. (IPv4 still sends five at once and then one per second: `route/error_cost` has no value per
    // namespace.)
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/icmp/ratelimit", "0"),
    // A few thousand connections from one pod to one backend need as many ports.
    ("ipv4/ip_local_port_range", "10240 65535"),
];

const FORWARDING: &[(&str, &str)] = &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];

/// Without an address of its own a bridge takes the lowest of its ports' addresses: a new pod would change it,
/// and the others would send to the old one until their neighbour entry is probed, seconds later.
const BRIDGE_MAC: Mac = [0x02, 0, 0, 0, 0, 0x01];

/// The limit for the configuration of a device to take effect.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The port of VXLAN (RFC 7348).
const VXLAN_PORT: u16 = 4789;

/// A link-layer address.
pub type Mac = [u8; 6];

/// A network namespace, held by a descriptor.
#[derive(Debug)]
pub struct Netns {
    file: File,
}

impl Netns {
    pub async fn create() -> Result<Self> {
        let file = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .context("cannot create a network namespace: this needs root (CAP_SYS_ADMIN)")?;
            File::open("/proc/thread-self/ns/net").context("cannot open the new network namespace")
        })
        .join()
        .map_err(|_| anyhow!("the thread that creates a network namespace panicked"))??;
        let netns = Self { file };
        netns.set(SETTINGS)?;
        netns.netlink()?.up("lo").await?;
        Ok(netns)
    }

    /// Runs `work` on a thread of its own in the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.file, CloneFlags::CLONE_NEWNET)
                        .context("cannot enter a network namespace")?;
                    work()
                })
                .join()
        })
        .map_err(|_| anyhow!("a thread inside a network namespace panicked"))?
    }

    /// Enables forwarding, as on nodes and routers.
    pub fn forward(&self) -> Result<()> {
        self.set(FORWARDING)
    }

    pub fn set(&self, settings: &[(&str, &str)]) -> Result<()> {
        // /proc/sys/net shows the namespace of the reading thread.
        self.run(|| {
            settings.iter().try_for_each(|(key, value)| {
                fs::write(format!("/proc/sys/net/{key}"), value)
                    .with_context(|| format!("cannot set net/{key} to {value}"))
            })
        })
    }

    /// Opens a netlink socket in the namespace. Must be called within a tokio runtime.
    pub fn netlink(&self) -> Result<Netlink<'_>> {
        let runtime = tokio::runtime::Handle::current();
        let (connection, handle) = self.run(|| {
            let _entered = runtime.enter();
            let (connection, handle, _) =
                rtnetlink::new_connection().context("cannot open a netlink socket")?;
            Ok((connection, handle))
        })?;
        Ok(Netlink { netns: self, handle, task: tokio::spawn(connection) })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A netlink connection into one namespace; closed when dropped.
pub struct Netlink<'a> {
    netns: &'a Netns,
    handle: Handle,
    task: JoinHandle<()>,
}

impl Netlink<'_> {
    pub async fn bridge(&self, name: &str) -> Result<()> {
        let link = LinkBridge::new(name).address(BRIDGE_MAC.into()).build();
        self.handle
            .link()
            .add(link)
            .execute()
            .await
            .with_context(|| format!("cannot create bridge {name}"))?;
        self.up(name).await
    }

    /// Creates a veth pair, `name` here and `peer` in `other`, both up.
    pub async fn veth(&self, name: &str, peer: &str, other: &Netlink<'_>) -> Result<()> {
        let what = || format!("cannot create veth {name} with peer {peer}");
        self.handle.link().add(LinkVeth::new(name, peer).build()).execute().await.with_context(what)?;
        let moved = LinkUnspec::new_with_name(peer).setns_by_fd(other.netns.as_fd().as_raw_fd()).build();
        self.handle.link().set(moved).execute().await.with_context(what)?;
        self.up(name).await?;
        other.up(peer).await?;
        self.wait_for_carrier(name).await?;
        other.wait_for_carrier(peer).await
    }

    /// Waits until a device that is up transmits packets: until the kernel has processed the carrier of the peer,
    /// it drops them without an error.
    async fn wait_for_carrier(&self, name: &str) -> Result<()> {
        within(TIMEOUT, &format!("{name} has a carrier"), async || {
            let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
            let link = links.try_next().await?.with_context(|| format!("there is no device {name}"))?;
            let is_up = link.attributes.contains(&LinkAttribute::OperState(State::Up));
            let drops = link.attributes.contains(&LinkAttribute::Qdisc("noop".to_owned()));
            ensure!(is_up && !drops, "it does not transmit packets yet");
            Ok(())
        })
        .await
    }

    /// Waits until neighbour discovery (RFC 4861) works on a device with IPv6 addresses, for others and for itself.
    ///
    /// The kernel's worker joins the multicast group of an address and makes the link-local address usable some time
    /// after both were added. Until then solicitations are not answered and not sent, and the next one follows after
    /// a second.
    pub async fn wait_for_neighbour_discovery(&self, device: &str) -> Result<()> {
        let index = self.index(device)?;
        within(TIMEOUT, &format!("neighbours of {device} are found"), async || {
            let request = self.handle.address().get().set_link_index_filter(index);
            let addresses: Vec<_> = request.execute().try_collect().await?;
            let attributes = || addresses.iter().flat_map(|message| &message.attributes);
            let tentative = attributes().any(|attribute| {
                matches!(attribute, AddressAttribute::Flags(flags) if flags.contains(AddressFlags::Tentative))
            });
            ensure!(!tentative, "an address is tentative");
            let addresses = attributes().filter_map(|attribute| {
                let AddressAttribute::Address(IpAddr::V6(address)) = attribute else { return None };
                Some(*address)
            });
            let addresses: Vec<Ipv6Addr> = addresses.collect();
            ensure!(addresses.iter().any(Ipv6Addr::is_unicast_link_local), "there is no link-local address");
            let joined = self.multicast_groups(index)?;
            let missing = addresses.iter().find(|address| !joined.contains(&solicited_node(**address)));
            ensure!(missing.is_none(), "the group of {missing:?} is not joined");
            Ok(())
        })
        .await
    }

    /// The IPv6 multicast groups that a device has joined.
    fn multicast_groups(&self, index: u32) -> Result<Vec<Ipv6Addr>> {
        let table = self.netns.run(|| {
            fs::read_to_string("/proc/thread-self/net/igmp6").context("cannot read the multicast groups")
        })?;
        let groups = table.lines().filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            (fields.next()?.parse() == Ok(index)).then_some(())?;
            u128::from_str_radix(fields.nth(1)?, 16).ok().map(Ipv6Addr::from)
        });
        Ok(groups.collect())
    }

    pub async fn attach(&self, port: &str, bridge: &str) -> Result<()> {
        let message = LinkUnspec::new_with_name(port).controller(self.index(bridge)?).build();
        let request = self.handle.link().set(message);
        request.execute().await.with_context(|| format!("cannot attach {port} to bridge {bridge}"))
    }

    /// A VXLAN tunnel whose peers are known from forwarding entries only.
    pub async fn vxlan(&self, name: &str, local: Ipv4Addr, mac: Mac) -> Result<()> {
        let link = LinkVxlan::new(name, 1).local(local).port(VXLAN_PORT).learning(false).address(mac.into());
        let request = self.handle.link().add(link.build());
        request.execute().await.with_context(|| format!("cannot create the tunnel {name}"))?;
        self.up(name).await
    }

    /// A device without link layer.
    pub async fn tunnel(&self, name: &str) -> Result<()> {
        let created = self.netns.run(|| {
            let command = ["tuntap", "add", "dev", name, "mode", "tun"];
            let output = Command::new("ip").args(command).output().context("cannot run ip")?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Ok(())
        });
        created.with_context(|| format!("cannot create the device {name}"))
    }

    /// Adds the underlay address of a link-layer address.
    pub async fn forwarding_entry(&self, tunnel: &str, mac: Mac, to: IpAddr) -> Result<()> {
        let request = self.handle.neighbours().add_bridge(self.index(tunnel)?, &mac).destination(to);
        let request = request.flags(NeighbourFlags::Own);
        request.execute().await.with_context(|| format!("cannot add a forwarding entry to {tunnel}"))
    }

    pub async fn neighbour(&self, device: &str, address: IpAddr, mac: Mac) -> Result<()> {
        let request = self.handle.neighbours().add(self.index(device)?, address).link_layer_address(&mac);
        request.execute().await.with_context(|| format!("cannot add the neighbour {address} to {device}"))
    }

    pub async fn mtu(&self, name: &str, bytes: u32) -> Result<()> {
        let message = LinkUnspec::new_with_name(name).mtu(bytes).build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .with_context(|| format!("cannot set the MTU of {name}"))
    }

    /// Sets the link-layer address of a device.
    pub async fn mac(&self, name: &str, mac: Mac) -> Result<()> {
        let message = LinkUnspec::new_with_name(name).address(mac.to_vec()).build();
        let request = self.handle.link().set(message);
        request.execute().await.with_context(|| format!("cannot set the address of {name}"))
    }

    pub async fn up(&self, name: &str) -> Result<()> {
        let message = LinkUnspec::new_with_name(name).up().build();
        self.handle.link().set(message).execute().await.with_context(|| format!("cannot set {name} up"))
    }

    pub async fn down(&self, name: &str) -> Result<()> {
        let message = LinkUnspec::new_with_name(name).down().build();
        self.handle.link().set(message).execute().await.with_context(|| format!("cannot set {name} down"))
    }

    /// Adds an address that is usable at once: no duplicate address detection.
    pub async fn address(&self, name: &str, address: IpNetwork) -> Result<()> {
        let mut request = self.handle.address().add(self.index(name)?, address.ip(), address.prefix());
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await.with_context(|| format!("cannot add {address} to {name}"))
    }

    pub async fn remove_address(&self, name: &str, address: IpAddr) -> Result<()> {
        let what = || format!("cannot remove {address} from {name}");
        let request = self.handle.address().get().set_link_index_filter(self.index(name)?);
        let mut found = request.set_address_filter(address).execute();
        let message = found.try_next().await.with_context(what)?.with_context(what)?;
        self.handle.address().del(message).execute().await.with_context(what)
    }

    pub async fn route(&self, to: IpNetwork, via: IpAddr) -> Result<()> {
        let what = || format!("cannot add the route to {to} via {via}");
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to.network(), to.prefix())
            .and_then(|route| route.gateway(via))
            .with_context(what)?;
        self.handle.route().add(route.build()).execute().await.with_context(what)
    }

    /// A route to a network that is on the link of a device.
    pub async fn route_through(&self, to: IpNetwork, device: &str) -> Result<()> {
        let what = || format!("cannot add the route to {to} through {device}");
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to.network(), to.prefix())
            .with_context(what)?
            .output_interface(self.index(device)?)
            .scope(RouteScope::Link);
        self.handle.route().add(route.build()).execute().await.with_context(what)
    }

    /// Replaces the route to a network by one that is on the link of a device.
    pub async fn replace_route_through(&self, to: IpNetwork, device: &str) -> Result<()> {
        let what = || format!("cannot replace the route to {to} by one through {device}");
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to.network(), to.prefix())
            .with_context(what)?
            .output_interface(self.index(device)?)
            .scope(RouteScope::Link);
        self.handle.route().add(route.build()).replace().execute().await.with_context(what)
    }

    /// A route via a gateway that is assumed to be on the link of a device (onlink).
    pub async fn route_beyond(&self, to: IpNetwork, via: IpAddr, device: &str) -> Result<()> {
        let what = || format!("cannot add the route to {to} via {via} through {device}");
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to.network(), to.prefix())
            .and_then(|route| route.gateway(via))
            .with_context(what)?
            .output_interface(self.index(device)?)
            .onlink();
        self.handle.route().add(route.build()).execute().await.with_context(what)
    }

    /// Rejects packets to `to` with an ICMP error.
    pub async fn unreachable(&self, to: IpNetwork) -> Result<()> {
        let what = || format!("cannot make {to} unreachable");
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to.network(), to.prefix())
            .with_context(what)?
            .kind(RouteType::Unreachable);
        self.handle.route().add(route.build()).execute().await.with_context(what)
    }

    /// Makes all addresses of a network local to this namespace.
    pub async fn add_local_network(&self, network: IpNetwork) -> Result<()> {
        let what = || format!("cannot make {network} local");
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(network.network(), network.prefix())
            .with_context(what)?
            .output_interface(self.index("lo")?)
            .table_id(libc::RT_TABLE_LOCAL.into())
            .scope(RouteScope::Host)
            .kind(RouteType::Local);
        self.handle.route().add(route.build()).execute().await.with_context(what)
    }

    fn index(&self, name: &str) -> Result<u32> {
        self.netns.run(|| if_nametoindex(name).with_context(|| format!("there is no device {name}")))
    }
}

/// The multicast group that hears solicitations for an address (RFC 4291, section 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

impl Drop for Netlink<'_> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
