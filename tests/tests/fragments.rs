//! Data above the MTU: IP fragments, and paths with a smaller MTU than their ends.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsRawFd as _,
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use proxy::model::{address::Protocol, flow::Flow};

use tests::{
    differential::Packet,
    frontends::{Frontends, Kind},
    outside::{ENTRY, FAR, NEAR, OutsideFixture, Policy, ServiceRow},
    pod::Pod,
    pod_network::PodNetwork,
    traffic::Family,
};

const ROWS: [(Policy, &[&str]); 3] =
    [(Policy::Cluster, &[NEAR]), (Policy::Cluster, &[FAR]), (Policy::Local, &[NEAR])];

/// Sends 8,000 bytes and expects them back.
async fn echoes_large_datagram(client: &Pod, to: SocketAddr, by: &str) {
    let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
    let socket = client.udp(family).await.expect("it opens");
    let text = "x".repeat(8_000);
    socket.send_to(to, &text).await.expect("it is sent");
    let (from, answer) = socket.receive().await.unwrap_or_else(|error| panic!("{by} at {to}: {error:#}"));
    assert!(from == to && answer == format!("{by} 0 {text}"), "{by} at {to}: {from} answers {answer:.80}");
}

#[tokio::test]
async fn large_datagrams_reach_every_frontend() {
    let fixture = OutsideFixture::new("large-datagrams", PodNetwork::Bridged).await;
    let boxed = fixture.cluster.pod("boxed").sandboxed_on(ENTRY).start().await;
    for (number, (policy, backends)) in ROWS.into_iter().enumerate() {
        let number = u8::try_from(number).expect("few rows");
        let row = ServiceRow { policy, backends, frontends: Frontends::new(number) };
        let service = fixture.service(&format!("web-{number}"), &row).await;
        for kind in Kind::ALL {
            for to in row.frontends.dialled(kind, fixture.cluster.node(ENTRY).addresses) {
                echoes_large_datagram(&fixture.client, to, backends[0]).await;
            }
        }
        for to in service.vips() {
            echoes_large_datagram(&boxed, to, backends[0]).await;
        }
    }
}

/// The last fragment first, as from some senders, and from routers with several paths.
#[tokio::test]
async fn fragments_may_come_in_any_order() {
    const PORT: u16 = 40_000;
    let fixture = OutsideFixture::new("fragments", PodNetwork::Routed).await;
    for (number, (policy, backends)) in ROWS.into_iter().enumerate() {
        let number = u8::try_from(number).expect("few rows");
        let row = ServiceRow { policy, backends, frontends: Frontends::new(number) };
        let _web = fixture.service(&format!("web-{number}"), &row).await;
        let to = row.frontends.dialled(Kind::LoadBalancer, fixture.cluster.node(ENTRY).addresses);
        let to = to.into_iter().find(SocketAddr::is_ipv4).expect("an IPv4 address");
        let own = SocketAddr::new(fixture.client.addresses.v4.into(), PORT + u16::from(number));
        let socket = fixture.client.udp_at(own).await.expect("it opens");
        let flow = Flow { source: own.ip(), destination: to, protocol: Protocol::Udp };
        let mut fragments = Packet::first(&flow, own.port()).fragments(own.port()).expect("a datagram");
        fragments.reverse();
        send_raw(&fixture.client, to, &fragments).expect("they are sent");
        let (from, answer) =
            socket.receive().await.unwrap_or_else(|error| panic!("{}: {error:#}", backends[0]));
        assert_eq!((from, answer.split(' ').next()), (to, Some(backends[0])), "{answer}");
    }
}

/// Sends IPv4 packets without their link headers over a raw socket.
fn send_raw(from: &Pod, to: SocketAddr, frames: &[Vec<u8>]) -> Result<()> {
    const ETHERNET: usize = 14;
    from.netns().run(|| {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw)?;
        let IpAddr::V4(ip) = to.ip() else { anyhow::bail!("{to} is not of IPv4") };
        let [a, b, c, d] = Ipv4Addr::octets(&ip);
        let to = SockaddrIn::new(a, b, c, d, 0);
        for frame in frames {
            sendto(raw.as_raw_fd(), &frame[ETHERNET..], &to, MsgFlags::empty()).context("cannot send")?;
        }
        Ok(())
    })
}

/// The router sends the backend "packet too big", addressed to the frontend.
#[tokio::test]
async fn a_smaller_path_mtu_does_not_stall_tcp() {
    let fixture = OutsideFixture::new("narrow", PodNetwork::Routed).await;
    fixture.cluster.limit_outside_mtu(1_400).await.expect("the router takes it");
    for (number, (policy, backends)) in ROWS.into_iter().enumerate() {
        let number = u8::try_from(number).expect("few rows");
        let row = ServiceRow { policy, backends, frontends: Frontends::new(number) };
        let _web = fixture.service(&format!("web-{number}"), &row).await;
        for kind in Kind::ALL {
            let to = row.frontends.dialled(kind, fixture.cluster.node(ENTRY).addresses);
            let (held, opened) = fixture.client.hold(to.to_vec(), to.len()).await.expect("it opens");
            assert_eq!(opened.failed(), 0, "{kind:?}: {opened:?}");
            let carried = fixture.client.transfer(held, 300_000).await.expect("it carries");
            assert_eq!(carried.failed(), 0, "{policy:?} {backends:?} {kind:?}: {carried:?}");
        }
    }
}
