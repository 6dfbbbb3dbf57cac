//! Devices with other link layers than the plain Ethernet of the other stories: without one, with priority tags, and
//! promiscuous ones.

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result};
use proxy::{
    datapath::programs_at,
    model::{address::Protocol, flow::Flow},
};
use proxy_ebpf::abi::Direction;
use tests::{
    Cluster,
    differential::{DEVICE, Packet},
    eventually::eventually,
    node::Node,
    service::Service,
    tun::{Tun, TunMode},
};

const NAME: &str = "link9";
/// The client's addresses: without link layer, they have the EtherType of their family in the place of an Ethernet header's.
const CLIENT: [&str; 2] = ["8.0.0.2", "2001:db8:86dd::2"];
const NODE: [&str; 2] = ["8.0.0.1/24", "2001:db8:86dd::1/64"];
const WEB: [&str; 2] = ["192.0.2.53", "2001:db8:2::53"];
const EMPTY: [&str; 2] = ["192.0.2.54", "2001:db8:2::54"];
const PORT: u16 = 53;
/// The client's MAC address, as in its packets.
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Length of an Ethernet header without its EtherType.
const MAC_ADDRESSES: usize = 12;
const ETHERNET: usize = 14;

/// A node with another external device.
struct Link {
    device: Tun,
    mode: TunMode,
}

impl Link {
    async fn new(node: &Node, mode: TunMode) -> Result<Self> {
        let device = Tun::create(node.netns(), NAME, mode)?;
        let netlink = node.netns().netlink()?;
        if mode == TunMode::Tap {
            netlink.mac(NAME, DEVICE).await?;
        }
        netlink.up(NAME).await?;
        for (own, client) in NODE.into_iter().zip(CLIENT) {
            netlink.address(NAME, own.parse()?).await?;
            if mode == TunMode::Tap {
                netlink.neighbour(NAME, client.parse()?, CLIENT_MAC).await?;
            }
        }
        drop(netlink);
        eventually("the device has programs", async || {
            node.netns().run(|| {
                let ours = programs_at(NAME, Direction::Ingress)?.pop();
                ours.context("it has none").map(drop)
            })
        })
        .await;
        Ok(Self { device, mode })
    }

    /// Sends a frame, without its link layer if the device has none.
    fn send(&self, frame: &[u8]) -> Result<()> {
        self.device.send(if self.mode == TunMode::Tun { &frame[ETHERNET..] } else { frame })
    }

    /// The client's ports to which packets came back from an address.
    fn answers(&self, from: SocketAddr) -> Result<Vec<u16>> {
        let packets = self.device.received()?.into_iter().map(|packet| match self.mode {
            TunMode::Tap => packet,
            TunMode::Tun => {
                let is_v4 = packet.first().is_some_and(|first| first >> 4 == 4);
                let ethertype: [u8; 2] = if is_v4 { [0x08, 0x00] } else { [0x86, 0xdd] };
                [&[0; MAC_ADDRESSES], &ethertype[..], &packet].concat()
            }
        });
        // Others are of neighbour discovery.
        let answers = packets.filter_map(|frame| Packet::parse(&frame).ok());
        Ok(answers.filter(|packet| packet.from == from).map(|packet| packet.to.port()).collect())
    }
}

fn frame(v6: usize, to: &str, port: u16) -> Result<(SocketAddr, Vec<u8>)> {
    let destination = SocketAddr::new(to.parse::<IpAddr>()?, PORT);
    let flow = Flow { source: CLIENT[v6].parse()?, destination, protocol: Protocol::Udp };
    Ok((destination, Packet::first(&flow, port).bytes().to_vec()))
}

/// Adds a VLAN tag behind the MAC addresses.
fn tagged(mut frame: Vec<u8>, tag: u16) -> Vec<u8> {
    let [high, low] = tag.to_be_bytes();
    frame.splice(MAC_ADDRESSES..MAC_ADDRESSES, [0x81, 0x00, high, low]);
    frame
}

async fn web(cluster: &Cluster) -> Service<'_> {
    cluster.service("web").udp(PORT).external_ips(WEB).backends(["a"]).await
}

async fn is_served(link: &Link, change: impl Fn(Vec<u8>) -> Vec<u8>) {
    for v6 in [0, 1] {
        let (to, frame) = frame(v6, WEB[v6], 4001).expect("good addresses");
        let frame = change(frame);
        eventually(&format!("{to} answers"), async || {
            link.send(&frame)?;
            link.answers(to)?.pop().context("no answer").map(drop)
        })
        .await;
    }
}

#[tokio::test]
async fn clients_behind_a_device_without_link_layer_are_served() {
    let cluster = Cluster::start("link-none").await;
    let _web = web(&cluster).await;
    let link = Link::new(cluster.node(0), TunMode::Tun).await.unwrap_or_else(|error| panic!("{error:#}"));
    is_served(&link, |frame| frame).await;
}

#[tokio::test]
async fn priority_tagged_frames_are_served() {
    let cluster = Cluster::start("link-tagged").await;
    let _web = web(&cluster).await;
    let link = Link::new(cluster.node(0), TunMode::Tap).await.unwrap_or_else(|error| panic!("{error:#}"));
    is_served(&link, |frame| tagged(frame, 5 << 13)).await;
}

/// The Service without endpoints would answer a frame to the node at once.
#[tokio::test]
async fn frames_to_other_machines_are_not_answered() {
    let cluster = Cluster::start("link-others").await;
    let _web = web(&cluster).await;
    let _empty = cluster.service("empty").tcp(PORT).external_ips(EMPTY).await;
    let link = Link::new(cluster.node(0), TunMode::Tap).await.unwrap_or_else(|error| panic!("{error:#}"));
    for v6 in [0, 1] {
        let to = SocketAddr::new(EMPTY[v6].parse().expect("an address"), PORT);
        let flow = Flow {
            source: CLIENT[v6].parse().expect("an address"),
            destination: to,
            protocol: Protocol::Tcp,
        };
        let (ours, other) = (Packet::first(&flow, 4002), Packet::first(&flow, 4003));
        let other = other.with_destination_mac([2, 0, 0, 0, 0, 7]);
        let answered = RefCell::new(Vec::new());
        eventually(&format!("{to} answers"), async || {
            link.send(other.bytes())?;
            link.send(ours.bytes())?;
            answered.borrow_mut().extend(link.answers(to)?);
            answered.borrow().contains(&4002).then_some(()).context("no answer")
        })
        .await;
        assert!(!answered.borrow().contains(&4003), "{to} answers a frame to another machine");
    }
}
