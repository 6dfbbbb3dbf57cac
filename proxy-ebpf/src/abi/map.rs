//! One table of all maps and programs; the agent loads, pins and checks by it, and a test compares the object.

use super::{
    AffinityEntry, AffinityKey, BackendRef, BackendV4, BackendV6, Descriptor, Device, DropReason,
    EarlyOutcome, FlowRef, FlowV4, FlowV6, Fragment, FrontendKeyV4, FrontendKeyV6, NodeAddressFlags,
    OverflowEntry, OverflowKey, PodRange, ServiceName, ServiceStats, SocketPair, SourceRange, TupleV4,
    TupleV6, UnconnectedPairs,
};

/// The kinds of map in use, by their kernel names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// An array that user space maps into its memory: a change is a store, not a system call.
    MmapArray,
    Array,
    Hash,
    /// A hash that no program reads, so the object has none: the agent creates it.
    UserHash,
    /// A hash that forgets its least recently used entries when it is full.
    LruHash,
    /// Longest prefix first.
    LpmTrie,
    PerCpuArray,
    SocketStorage,
    /// Sockets by number. The kernel takes out what is closed, also when its process is killed.
    SockMap,
}

/// A map as both sides see it.
#[derive(Clone, Copy, Debug)]
pub struct MapSpec {
    pub name: &'static str,
    pub kind: MapKind,
    /// Bytes.
    pub key: usize,
    /// Bytes.
    pub value: usize,
    /// Entries, unless the agent was told otherwise; 0 for socket storage, which has no limit of its own.
    pub capacity: u32,
    /// The ABI version that last changed what keys and values mean, or what they refer to in other maps. Part of the name of the pin: versions share the
    /// maps on whose layout they agree, so that flows outlive an upgrade.
    pub layout: u32,
}

/// A key of a trie as the kernel wants it: its length in bits stands before it.
type Prefixed<K> = (u32, K);

const fn spec<K, V>(name: &'static str, kind: MapKind, capacity: u32) -> MapSpec {
    MapSpec { name, kind, key: size_of::<K>(), value: size_of::<V>(), capacity, layout: 1 }
}

/// Frontends (address, port, protocol) of both families together.
pub const MAX_FRONTENDS: u32 = 1 << 17;
/// Every frontend has one descriptor; the rest are for those that wait for their grace period.
pub const MAX_DESCRIPTORS: u32 = MAX_FRONTENDS + (1 << 14);
/// Backends of all blocks together.
pub const MAX_SLOTS: u32 = 1 << 19;
/// Backends of one family.
pub const MAX_BACKENDS: u32 = 1 << 18;
/// Service ports.
pub const MAX_SERVICES: u32 = 1 << 16;
/// Clients that affinity remembers, of one family.
pub const MAX_AFFINITY: u32 = 1 << 17;
/// Addresses of the node, of one family.
pub const MAX_NODE_ADDRESSES: u32 = 1 << 12;
/// Flows of one family that the packet plane follows: kube-proxy's least limit of conntrack.
pub const MAX_FLOWS: u32 = 1 << 17;
/// Tuples of these flows; a masqueraded one has four.
pub const MAX_CONNTRACK: u32 = 4 * MAX_FLOWS;
/// Devices with programs of the packet plane.
pub const MAX_DEVICES: u32 = 1 << 12;
/// Prefixes in the source ranges of all Services, of one family.
pub const MAX_SOURCE_RANGES: u32 = 1 << 16;
/// ServiceCIDRs and ClusterIPs, of one family.
pub const MAX_SERVICE_NETWORKS: u32 = 1 << 17;
/// Datagrams in fragments whose ports are remembered.
pub const MAX_FRAGMENTS: u32 = 1 << 13;
/// Fragments that wait for the first of their datagram.
pub const MAX_HELD_FRAGMENTS: u32 = 64;
/// Entries of `NAME_SERVER_BEAT`: of whoever answers names, and of whoever waits to.
pub const NAME_SERVER_BEATS: u32 = 2;
/// Ends of pairs that sockets have no room for.
pub const MAX_OVERFLOW: u32 = 1 << 16;

pub const FRONTENDS_V4: &str = "FRONTENDS_V4";
pub const FRONTENDS_V6: &str = "FRONTENDS_V6";
pub const FRONTEND_STATE: &str = "FRONTEND_STATE";
pub const DESCRIPTORS: &str = "DESCRIPTORS";
pub const SLOTS: &str = "SLOTS";
pub const BACKENDS_V4: &str = "BACKENDS_V4";
pub const BACKENDS_V6: &str = "BACKENDS_V6";
pub const SERVICES: &str = "SERVICES";
pub const SERVICE_STATS: &str = "SERVICE_STATS";
pub const DROPS: &str = "DROPS";
/// How often the early plane came to each outcome.
pub const EARLY: &str = "EARLY";
pub const SOCKETS: &str = "SOCKETS";
pub const UNCONNECTED_SOCKETS: &str = "UNCONNECTED_SOCKETS";
pub const SOCKET_OVERFLOW: &str = "SOCKET_OVERFLOW";
pub const AFFINITY_V4: &str = "AFFINITY_V4";
pub const AFFINITY_V6: &str = "AFFINITY_V6";
pub const NODE_ADDRESSES_V4: &str = "NODE_ADDRESSES_V4";
pub const NODE_ADDRESSES_V6: &str = "NODE_ADDRESSES_V6";
pub const FLOWS_V4: &str = "FLOWS_V4";
pub const FLOWS_V6: &str = "FLOWS_V6";
pub const CONNTRACK_V4: &str = "CONNTRACK_V4";
pub const CONNTRACK_V6: &str = "CONNTRACK_V6";
pub const FRAGMENTS: &str = "FRAGMENTS";
/// The timer of the flow tables, which only the kernel understands, and how far it has come.
pub const SWEEPER: &str = "SWEEPER";
pub const DEVICES: &str = "DEVICES";
pub const POD_RANGES: &str = "POD_RANGES";
pub const SOURCE_RANGES_V4: &str = "SOURCE_RANGES_V4";
pub const SOURCE_RANGES_V6: &str = "SOURCE_RANGES_V6";
pub const SERVICE_NETWORKS_V4: &str = "SERVICE_NETWORKS_V4";
pub const SERVICE_NETWORKS_V6: &str = "SERVICE_NETWORKS_V6";

/// A socket of the process that answers names on this node. It is there as long as the process is.
pub const NAME_SERVER: &str = "NAME_SERVER";
/// When all who answer names were last seen at work, in nanoseconds of the monotonic clock: a process may live and hang.
/// The second is the beat of an agent that waits to take over.
pub const NAME_SERVER_BEAT: &str = "NAME_SERVER_BEAT";
/// The name server counts as hung when it was not seen at work for so long, in nanoseconds.
pub const NAME_SERVER_PATIENCE: u64 = 1_500_000_000;

/// The read-only global that holds a `Config`.
pub const CONFIG: &str = "CONFIG";

/// The program that starts the timer; run once, attached to nothing.
pub const START_SWEEPER: &str = "start_sweeper";

/// What the stages of a program hand on to each other, frames that wait for others, ways that were found, errors
/// that were sent; nobody else's, so not pinned.
pub const SCRATCH: [&str; 7] =
    ["WORK_V4", "WORK_V6", "WORK_FRAGMENT", "HELD", "LAST_HELD", "NEXT_HOPS", "ICMP_ERRORS"];

/// Every map that is pinned.
pub const MAPS: [MapSpec; 32] = [
    spec::<FrontendKeyV4, u32>(FRONTENDS_V4, MapKind::Hash, MAX_FRONTENDS),
    spec::<FrontendKeyV6, u32>(FRONTENDS_V6, MapKind::Hash, MAX_FRONTENDS),
    spec::<u32, u64>(FRONTEND_STATE, MapKind::MmapArray, MAX_FRONTENDS),
    spec::<u32, Descriptor>(DESCRIPTORS, MapKind::MmapArray, MAX_DESCRIPTORS),
    spec::<u32, BackendRef>(SLOTS, MapKind::MmapArray, MAX_SLOTS),
    spec::<u32, BackendV4>(BACKENDS_V4, MapKind::MmapArray, MAX_BACKENDS),
    spec::<u32, BackendV6>(BACKENDS_V6, MapKind::MmapArray, MAX_BACKENDS),
    spec::<u32, ServiceName>(SERVICES, MapKind::UserHash, MAX_SERVICES),
    spec::<u32, ServiceStats>(SERVICE_STATS, MapKind::PerCpuArray, MAX_SERVICES),
    spec::<u32, u64>(DROPS, MapKind::PerCpuArray, DropReason::ALL.len() as u32),
    spec::<u32, u64>(EARLY, MapKind::PerCpuArray, EarlyOutcome::ALL.len() as u32),
    spec::<u32, SocketPair>(SOCKETS, MapKind::SocketStorage, 0),
    spec::<u32, UnconnectedPairs>(UNCONNECTED_SOCKETS, MapKind::SocketStorage, 0),
    spec::<OverflowKey, OverflowEntry>(SOCKET_OVERFLOW, MapKind::LruHash, MAX_OVERFLOW),
    spec::<AffinityKey, AffinityEntry>(AFFINITY_V4, MapKind::LruHash, MAX_AFFINITY),
    spec::<AffinityKey, AffinityEntry>(AFFINITY_V6, MapKind::LruHash, MAX_AFFINITY),
    spec::<[u8; 4], NodeAddressFlags>(NODE_ADDRESSES_V4, MapKind::Hash, MAX_NODE_ADDRESSES),
    spec::<[u8; 16], NodeAddressFlags>(NODE_ADDRESSES_V6, MapKind::Hash, MAX_NODE_ADDRESSES),
    spec::<u32, FlowV4>(FLOWS_V4, MapKind::MmapArray, MAX_FLOWS),
    spec::<u32, FlowV6>(FLOWS_V6, MapKind::MmapArray, MAX_FLOWS),
    spec::<TupleV4, FlowRef>(CONNTRACK_V4, MapKind::Hash, MAX_CONNTRACK),
    spec::<TupleV6, FlowRef>(CONNTRACK_V6, MapKind::Hash, MAX_CONNTRACK),
    spec::<Fragment, [u8; 4]>(FRAGMENTS, MapKind::LruHash, MAX_FRAGMENTS),
    spec::<u32, [u64; 3]>(SWEEPER, MapKind::Array, 1),
    spec::<u32, Device>(DEVICES, MapKind::Hash, MAX_DEVICES),
    spec::<u32, PodRange>(POD_RANGES, MapKind::MmapArray, 2),
    spec::<Prefixed<SourceRange<[u8; 4]>>, u32>(SOURCE_RANGES_V4, MapKind::LpmTrie, MAX_SOURCE_RANGES),
    spec::<Prefixed<SourceRange<[u8; 16]>>, u32>(SOURCE_RANGES_V6, MapKind::LpmTrie, MAX_SOURCE_RANGES),
    spec::<Prefixed<[u8; 4]>, u32>(SERVICE_NETWORKS_V4, MapKind::LpmTrie, MAX_SERVICE_NETWORKS),
    spec::<Prefixed<[u8; 16]>, u32>(SERVICE_NETWORKS_V6, MapKind::LpmTrie, MAX_SERVICE_NETWORKS),
    spec::<u32, u32>(NAME_SERVER, MapKind::SockMap, 1),
    spec::<u32, u64>(NAME_SERVER_BEAT, MapKind::MmapArray, NAME_SERVER_BEATS),
];

/// Every program of the socket plane, by the name of its function and of its hook. Attached in this order: what gives
/// answers their names stands before what asks under another one.
pub const PROGRAMS: [&str; 8] =
    ["getpeername4", "getpeername6", "recvmsg4", "recvmsg6", "sendmsg4", "sendmsg6", "connect4", "connect6"];

/// What a device is to the packet plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceRole {
    /// Leads to other machines.
    External,
    /// Leads to a pod of this node.
    Pod,
}

/// As the kernel has it: ingress is what comes out of the device into the node.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    Ingress = 0,
    Egress = 1,
}

/// A program of the packet plane, and the hooks that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcProgram {
    /// The name of its function.
    pub name: &'static str,
    pub role: DeviceRole,
    pub direction: Direction,
}

/// Every program of the packet plane. Attached in this order: what undoes a translation is there before what makes one.
pub const TC_PROGRAMS: [TcProgram; 4] = [
    tc("tc_external_egress", DeviceRole::External, Direction::Egress),
    tc("tc_pod_egress", DeviceRole::Pod, Direction::Egress),
    tc("tc_external_ingress", DeviceRole::External, Direction::Ingress),
    tc("tc_pod_ingress", DeviceRole::Pod, Direction::Ingress),
];

/// The program of the early plane, at external devices.
pub const XDP_EXTERNAL: &str = "xdp_external";

const fn tc(name: &'static str, role: DeviceRole, direction: Direction) -> TcProgram {
    TcProgram { name, role, direction }
}
