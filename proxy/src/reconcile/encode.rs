//! From the model's types to the ABI's. Pure: the reconciler allocates the ids.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use proxy_ebpf::abi::{BackendFlags, Descriptor, DescriptorFlags, mapped, unmapped};

use crate::model::{
    address::{IpFamily, Protocol},
    backend::{Backend, BackendState},
    frontend::{Frontend, FrontendAddress, FrontendKey, FrontendKind, Masquerade, WhenEmpty},
    service::TrafficPolicy,
};

/// The address in keys and descriptors; a NodePort has the unspecified address of its family.
pub fn wire_address(address: FrontendAddress) -> [u8; 16] {
    match address {
        FrontendAddress::Ip(IpAddr::V4(ip)) => mapped(ip.octets()),
        FrontendAddress::Ip(IpAddr::V6(ip)) => ip.octets(),
        FrontendAddress::NodePort(IpFamily::V4) => mapped([0; 4]),
        FrontendAddress::NodePort(IpFamily::V6) => [0; 16],
    }
}

/// The frontend of a key in the maps. Returns `None` if its protocol is unknown.
pub fn frontend_key(address: [u8; 16], port: [u8; 2], protocol: u8) -> Option<FrontendKey> {
    let address = match unmapped(address) {
        Some([0, 0, 0, 0]) => FrontendAddress::NodePort(IpFamily::V4),
        Some(v4) => FrontendAddress::Ip(Ipv4Addr::from(v4).into()),
        None if address == [0; 16] => FrontendAddress::NodePort(IpFamily::V6),
        None => FrontendAddress::Ip(Ipv6Addr::from(address).into()),
    };
    Some(FrontendKey { address, port: u16::from_be_bytes(port), protocol: Protocol::from_number(protocol)? })
}

/// The family of a descriptor's backends.
pub fn family_of(descriptor: &Descriptor) -> IpFamily {
    let key = frontend_key(descriptor.address, descriptor.port, descriptor.protocol);
    key.map_or(IpFamily::V4, |key| key.address.family())
}

/// The descriptor without its ids and blocks.
pub fn descriptor(frontend: &Frontend) -> Descriptor {
    Descriptor {
        address: wire_address(frontend.key.address),
        port: frontend.key.port.to_be_bytes(),
        protocol: frontend.key.protocol.number(),
        flags: flags(frontend),
        affinity_seconds: frontend.affinity.map_or(0, u32::from),
        ..Descriptor::default()
    }
}

fn flags(frontend: &Frontend) -> DescriptorFlags {
    let drops = |when_empty| when_empty == WhenEmpty::Drop;
    DescriptorFlags::default()
        .with(DescriptorFlags::INTERNAL_LOCAL, internal_is_local(frontend))
        .with(DescriptorFlags::EXTERNAL_LOCAL, frontend.policy == TrafficPolicy::Local)
        .with(DescriptorFlags::INTERNAL_DROPS, drops(frontend.internal.when_empty))
        .with(DescriptorFlags::EXTERNAL_DROPS, drops(frontend.external.when_empty))
        .with(DescriptorFlags::SOURCE_RANGES, !frontend.source_ranges.is_empty())
        .with(DescriptorFlags::LOCAL_NAME_SERVER, frontend.served_here.is_some())
        .with(masquerade(frontend.masquerade), true)
}

fn masquerade(masquerade: Masquerade) -> DescriptorFlags {
    match masquerade {
        Masquerade::Never => DescriptorFlags::default(),
        Masquerade::Always => DescriptorFlags::MASQUERADE_ALWAYS,
        Masquerade::UnlessFromPod => DescriptorFlags::MASQUERADE_UNLESS_POD,
        Masquerade::FromNode => DescriptorFlags::MASQUERADE_FROM_NODE,
    }
}

/// Only the internal view of a ClusterIP is a local set; for external destinations it is the short-circuit
/// (kube-proxy's rule E5).
fn internal_is_local(frontend: &Frontend) -> bool {
    frontend.policy == TrafficPolicy::Local && frontend.kind == FrontendKind::ClusterIp
}

/// Whether both views have the same allocation of backends.
pub fn shares_backends(frontend: &Frontend) -> bool {
    Arc::ptr_eq(&frontend.internal.backends, &frontend.external.backends)
}

/// The backends of a frontend, each with its flags for this frontend. A backend may occur more than once.
pub fn backends(frontend: &Frontend) -> impl Iterator<Item = (SocketAddr, BackendFlags)> {
    let internal = set(internal_is_local(frontend));
    let external = set(frontend.policy == TrafficPolicy::Local);
    let others = if internal == external && shares_backends(frontend) {
        Default::default()
    } else {
        frontend.external.backends.iter()
    };
    let offered = (frontend.internal.backends.iter().map(move |backend| (backend, internal)))
        .chain(others.map(move |backend| (backend, external)));
    offered
        .map(|(backend, set)| (backend.address, state(backend).with(set, true)))
        .chain(frontend.serving.iter().map(|backend| (backend.address, state(backend))))
        .chain(frontend.served_here.map(|address| (address, name_server())))
}

/// In both sets: flows may keep it while it is alive.
fn name_server() -> BackendFlags {
    BackendFlags::ALIVE
        .with(BackendFlags::LOCAL, true)
        .with(BackendFlags::NAME_SERVER, true)
        .with(BackendFlags::IN_CLUSTER_SET, true)
        .with(BackendFlags::IN_LOCAL_SET, true)
}

fn set(is_local: bool) -> BackendFlags {
    if is_local { BackendFlags::IN_LOCAL_SET } else { BackendFlags::IN_CLUSTER_SET }
}

fn state(backend: &Backend) -> BackendFlags {
    BackendFlags::ALIVE
        .with(BackendFlags::TERMINATING, backend.state == BackendState::ServingTerminating)
        .with(BackendFlags::LOCAL, backend.is_local)
}
