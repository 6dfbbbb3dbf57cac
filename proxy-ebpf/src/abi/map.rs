//! One table of all maps and programs; the agent loads, pins and checks by it, and a test compares the object.

use super::{
    AffinityEntry, AffinityKey, BackendConnections, BackendHealth, BackendRef, BackendV4, BackendV6, Bucket,
    Descriptor, Device, Direction, DropReason, FLOWS_PER_BUCKET, FlowCounters, FlowV4, FlowV6, FragmentPorts,
    FrontendKeyV4, FrontendKeyV6, HashKeys, HealthChange, NodeAddressFlags, OverflowEntry, PodRange,
    ServiceConnections, ServiceName, ServiceStats, SocketPair, SourceRange, TcpSocket, UnconnectedPairs,
    XdpOutcome,
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
    /// A hash that evicts its least recently used entries when it is full.
    LruHash,
    /// Longest prefix match.
    LpmTrie,
    PerCpuArray,
    SocketStorage,
    /// Sockets by number. The kernel removes closed sockets, also when their process is killed.
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
    /// Entries, unless configured otherwise; 0 for socket storage, which has no limit.
    pub capacity: u32,
    /// The ABI version that last changed the meaning of keys or values, or of their references into other maps. Part of the pin
    /// name: versions with the same layout share the map, so that flows outlive an upgrade.
    pub layout: u32,
}

/// A trie key in the kernel's format: prefix length in bits, then the key.
type Prefixed<K> = (u32, K);

const fn spec<K, V>(name: &'static str, kind: MapKind, capacity: u32) -> MapSpec {
    spec_of_layout::<K, V>(name, kind, capacity, 1)
}

const fn spec_of_layout<K, V>(name: &'static str, kind: MapKind, capacity: u32, layout: u32) -> MapSpec {
    MapSpec { name, kind, key: size_of::<K>(), value: size_of::<V>(), capacity, layout }
}

/// Frontends (address, port, protocol) of both families together.
pub const MAX_FRONTENDS: u32 = 1 << 17;
/// One descriptor per frontend; the rest are for replaced descriptors during their grace period.
pub const MAX_DESCRIPTORS: u32 = MAX_FRONTENDS + (1 << 14);
/// Backends of all blocks together.
pub const MAX_SLOTS: u32 = 1 << 19;
/// Backends of one family.
pub const MAX_BACKENDS: u32 = 1 << 18;
/// Health of the backends of both families.
pub const MAX_BACKEND_HEALTH: u32 = 2 * MAX_BACKENDS;
/// Service ports.
pub const MAX_SERVICES: u32 = 1 << 16;
/// Affinity entries of one family.
pub const MAX_AFFINITY: u32 = 1 << 17;
/// Affinity entries of one family for clients whose addresses may be forged.
pub const MAX_NEW_AFFINITY: u32 = 1 << 16;
/// Addresses of the node, of one family.
pub const MAX_NODE_ADDRESSES: u32 = 1 << 12;
/// Tracked flows of one family: kube-proxy's minimum for conntrack (`conntrack.min`).
pub const MAX_FLOWS: u32 = 1 << 17;
/// Counters of these flows.
pub const MAX_FLOW_COUNTERS: u32 = MAX_FLOWS * FlowCounters::DIRECTIONS;
/// Buckets of references to these flows.
pub const MAX_BUCKETS: u32 = MAX_FLOWS / FLOWS_PER_BUCKET;
/// Devices with tc programs.
pub const MAX_DEVICES: u32 = 1 << 12;
/// Prefixes in the source ranges of all Services, of one family.
pub const MAX_SOURCE_RANGES: u32 = 1 << 16;
/// ServiceCIDRs and ClusterIPs, of one family.
pub const MAX_SERVICE_NETWORKS: u32 = 1 << 17;
/// Fragmented datagrams whose ports are stored.
pub const MAX_FRAGMENTS: u32 = 1 << 14;
/// Of these, the share of the sources with one hash.
pub const FRAGMENTS_SHARE: u32 = 1 << 7;
/// Queued fragments that arrived before the first of their datagram. A quarter holds the largest datagram at Ethernet's MTU.
pub const MAX_HELD_FRAGMENTS: u32 = 256;
/// Entries of `NAME_SERVER_BEAT`: the serving process, and one that waits to take over.
pub const NAME_SERVER_BEATS: u32 = 2;
/// Entries for pairs beyond a socket's own `UNCONNECTED_PAIRS`; a pair has two.
pub const MAX_OVERFLOW: u32 = 1 << 17;
/// Of these, the share of the network namespaces with one hash.
pub const OVERFLOW_SHARE: u32 = 1 << 9;
/// Entries of a share among which a key may be.
pub const OVERFLOW_WAYS: u32 = 4;

pub const FRONTENDS_V4: &str = "FRONTENDS_V4";
pub const FRONTENDS_V6: &str = "FRONTENDS_V6";
pub const FRONTEND_STATE: &str = "FRONTEND_STATE";
pub const DESCRIPTORS: &str = "DESCRIPTORS";
pub const SLOTS: &str = "SLOTS";
pub const BACKENDS_V4: &str = "BACKENDS_V4";
pub const BACKENDS_V6: &str = "BACKENDS_V6";
pub const SERVICES: &str = "SERVICES";
pub const SERVICE_STATS: &str = "SERVICE_STATS";
/// Connections of translated sockets, by service port and by backend.
pub const SERVICE_CONNECTIONS: &str = "SERVICE_CONNECTIONS";
pub const BACKEND_CONNECTIONS_V4: &str = "BACKEND_CONNECTIONS_V4";
pub const BACKEND_CONNECTIONS_V6: &str = "BACKEND_CONNECTIONS_V6";
/// Passive health by backend, of both families.
pub const BACKEND_HEALTH: &str = "BACKEND_HEALTH";
/// The tick until which the health of some backend matters. While it is past, decisions read no other's.
pub const SUSPICION: &str = "SUSPICION";
/// Counters by `HealthChange`.
pub const HEALTH_CHANGES: &str = "HEALTH_CHANGES";
pub const DROPS: &str = "DROPS";
/// Counters by `XdpOutcome`.
pub const XDP_OUTCOMES: &str = "XDP_OUTCOMES";
pub const SOCKETS: &str = "SOCKETS";
pub const TCP_SOCKETS: &str = "TCP_SOCKETS";
pub const UNCONNECTED_SOCKETS: &str = "UNCONNECTED_SOCKETS";
pub const SOCKET_OVERFLOW: &str = "SOCKET_OVERFLOW";
pub const AFFINITY_V4: &str = "AFFINITY_V4";
pub const AFFINITY_V6: &str = "AFFINITY_V6";
pub const NEW_AFFINITY_V4: &str = "NEW_AFFINITY_V4";
pub const NEW_AFFINITY_V6: &str = "NEW_AFFINITY_V6";
pub const NODE_ADDRESSES_V4: &str = "NODE_ADDRESSES_V4";
pub const NODE_ADDRESSES_V6: &str = "NODE_ADDRESSES_V6";
pub const FLOWS_V4: &str = "FLOWS_V4";
pub const FLOWS_V6: &str = "FLOWS_V6";
/// Packets and bytes by flow and direction.
pub const FLOW_COUNTERS_V4: &str = "FLOW_COUNTERS_V4";
pub const FLOW_COUNTERS_V6: &str = "FLOW_COUNTERS_V6";
pub const CONNTRACK_V4: &str = "CONNTRACK_V4";
pub const CONNTRACK_V6: &str = "CONNTRACK_V6";
/// The keys of the hash that finds the bucket of a tuple.
pub const HASH_KEYS: &str = "HASH_KEYS";
pub const FRAGMENTS: &str = "FRAGMENTS";
/// The `bpf_timer` that sweeps the flow tables, and its position.
pub const SWEEPER: &str = "SWEEPER";
pub const DEVICES: &str = "DEVICES";
pub const POD_RANGES: &str = "POD_RANGES";
pub const SOURCE_RANGES_V4: &str = "SOURCE_RANGES_V4";
pub const SOURCE_RANGES_V6: &str = "SOURCE_RANGES_V6";
pub const SERVICE_NETWORKS_V4: &str = "SERVICE_NETWORKS_V4";
pub const SERVICE_NETWORKS_V6: &str = "SERVICE_NETWORKS_V6";

/// A socket of this node's name server process. The kernel removes it when the process ends.
pub const NAME_SERVER: &str = "NAME_SERVER";
/// The name server's heartbeat: time of the last progress of all its workers, in nanoseconds of the monotonic clock. A process
/// that hangs keeps its socket.
/// The second entry is the heartbeat of an agent that waits to take over.
pub const NAME_SERVER_BEAT: &str = "NAME_SERVER_BEAT";
/// A name server whose heartbeat is older counts as hung. Nanoseconds.
pub const NAME_SERVER_TIMEOUT: u64 = 1_500_000_000;

/// The read-only global that holds a `Config`.
pub const CONFIG: &str = "CONFIG";

/// The program that starts the timer; run once, attached to nothing.
pub const START_SWEEPER: &str = "start_sweeper";

/// The program that inserts the references of flows whose records an earlier version left; run by the agent, attached to nothing.
pub const ADOPT_FLOWS: &str = "adopt_flows";
/// Records of each family that one run of `ADOPT_FLOWS` covers. The first is the number in the first four bytes of the packet.
pub const ADOPTED_PER_RUN: u32 = 4096;

/// One word, not 0 while programs of an earlier agent create the flows. Not pinned.
pub const STANDBY: &str = "STANDBY";

/// Records of `Event`, written only while someone listens. Not pinned: one agent reads it, also while another takes over.
pub const EVENTS: &str = "EVENTS";
/// Bytes of `EVENTS`, for about 2,000 records.
pub const EVENTS_SIZE: u32 = 1 << 18;
/// Two words: until when someone listens, in nanoseconds of the monotonic clock; and whether `sock_ops` reports TCP connects, not 0
/// if so. Not pinned.
pub const EVENT_LISTENERS: &str = "EVENT_LISTENERS";
pub const EVENT_WORDS: u32 = 2;
pub const LISTENING_UNTIL: u32 = 0;
pub const SOCK_OPS_REPORTS: u32 = 1;
/// Events that found `EVENTS` full, on each CPU. Not pinned.
pub const LOST_EVENTS: &str = "LOST_EVENTS";

/// Scratch and caches of the programs alone: data passed between stages, queued fragments, next hops, ICMP rate limits, free
/// records, standby; and the events of one agent. Not pinned.
pub const SCRATCH: [&str; 14] = [
    "SCRATCH_V4",
    "SCRATCH_V6",
    "SCRATCH_FRAGMENT",
    "QUEUED_FRAGMENTS",
    "LAST_QUEUED",
    "NEXT_HOPS",
    "ICMP_ERRORS",
    "FREE_RECORDS",
    "SEARCHED_V4",
    "SEARCHED_V6",
    STANDBY,
    EVENTS,
    EVENT_LISTENERS,
    LOST_EVENTS,
];

/// Every map that is pinned.
pub const MAPS: [MapSpec; 44] = [
    // Version 5: frontends share blocks, which an earlier agent would free with the first of them.
    spec_of_layout::<FrontendKeyV4, u32>(FRONTENDS_V4, MapKind::Hash, MAX_FRONTENDS, 5),
    spec_of_layout::<FrontendKeyV6, u32>(FRONTENDS_V6, MapKind::Hash, MAX_FRONTENDS, 5),
    spec_of_layout::<u32, u64>(FRONTEND_STATE, MapKind::MmapArray, MAX_FRONTENDS, 5),
    spec_of_layout::<u32, Descriptor>(DESCRIPTORS, MapKind::MmapArray, MAX_DESCRIPTORS, 5),
    spec_of_layout::<u32, BackendRef>(SLOTS, MapKind::MmapArray, MAX_SLOTS, 5),
    spec::<u32, BackendV4>(BACKENDS_V4, MapKind::MmapArray, MAX_BACKENDS),
    spec::<u32, BackendV6>(BACKENDS_V6, MapKind::MmapArray, MAX_BACKENDS),
    spec::<u32, ServiceName>(SERVICES, MapKind::UserHash, MAX_SERVICES),
    spec::<u32, ServiceStats>(SERVICE_STATS, MapKind::PerCpuArray, MAX_SERVICES),
    // Version 7 counts the connections of sockets.
    spec_of_layout::<u32, ServiceConnections>(SERVICE_CONNECTIONS, MapKind::MmapArray, MAX_SERVICES, 7),
    spec_of_layout::<u32, BackendConnections>(BACKEND_CONNECTIONS_V4, MapKind::MmapArray, MAX_BACKENDS, 7),
    spec_of_layout::<u32, BackendConnections>(BACKEND_CONNECTIONS_V6, MapKind::MmapArray, MAX_BACKENDS, 7),
    // Version 8: passive health.
    spec_of_layout::<u32, BackendHealth>(BACKEND_HEALTH, MapKind::MmapArray, MAX_BACKEND_HEALTH, 8),
    spec_of_layout::<u32, u64>(SUSPICION, MapKind::MmapArray, 1, 8),
    spec_of_layout::<u32, u64>(HEALTH_CHANGES, MapKind::PerCpuArray, HealthChange::COUNT, 8),
    spec_of_layout::<u32, u64>(DROPS, MapKind::PerCpuArray, DropReason::ALL.len() as u32, 5),
    spec::<u32, u64>(XDP_OUTCOMES, MapKind::PerCpuArray, XdpOutcome::ALL.len() as u32),
    spec::<u32, SocketPair>(SOCKETS, MapKind::SocketStorage, 0),
    spec_of_layout::<u32, TcpSocket>(TCP_SOCKETS, MapKind::SocketStorage, 0, 7),
    spec::<u32, UnconnectedPairs>(UNCONNECTED_SOCKETS, MapKind::SocketStorage, 0),
    // Version 6: shares in place of an LRU hash.
    spec_of_layout::<u32, OverflowEntry>(SOCKET_OVERFLOW, MapKind::Array, MAX_OVERFLOW, 6),
    spec::<AffinityKey, AffinityEntry>(AFFINITY_V4, MapKind::LruHash, MAX_AFFINITY),
    spec::<AffinityKey, AffinityEntry>(AFFINITY_V6, MapKind::LruHash, MAX_AFFINITY),
    spec::<AffinityKey, AffinityEntry>(NEW_AFFINITY_V4, MapKind::LruHash, MAX_NEW_AFFINITY),
    spec::<AffinityKey, AffinityEntry>(NEW_AFFINITY_V6, MapKind::LruHash, MAX_NEW_AFFINITY),
    spec::<[u8; 4], NodeAddressFlags>(NODE_ADDRESSES_V4, MapKind::Hash, MAX_NODE_ADDRESSES),
    spec::<[u8; 16], NodeAddressFlags>(NODE_ADDRESSES_V6, MapKind::Hash, MAX_NODE_ADDRESSES),
    spec::<u32, FlowV4>(FLOWS_V4, MapKind::MmapArray, MAX_FLOWS),
    spec::<u32, FlowV6>(FLOWS_V6, MapKind::MmapArray, MAX_FLOWS),
    // Version 7 counts the packets of flows.
    spec_of_layout::<u32, FlowCounters>(FLOW_COUNTERS_V4, MapKind::MmapArray, MAX_FLOW_COUNTERS, 7),
    spec_of_layout::<u32, FlowCounters>(FLOW_COUNTERS_V6, MapKind::MmapArray, MAX_FLOW_COUNTERS, 7),
    // Version 7: buckets of references in place of a hash of tuples.
    spec_of_layout::<u32, Bucket>(CONNTRACK_V4, MapKind::MmapArray, MAX_BUCKETS, 7),
    spec_of_layout::<u32, Bucket>(CONNTRACK_V6, MapKind::MmapArray, MAX_BUCKETS, 7),
    spec_of_layout::<u32, HashKeys>(HASH_KEYS, MapKind::Array, 1, 7),
    spec_of_layout::<u32, FragmentPorts>(FRAGMENTS, MapKind::Array, MAX_FRAGMENTS, 6),
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

/// Programs of the socket plane, by the name of function and hook. Attached in this order: reverse translation (getpeername,
/// recvmsg) before translation (sendmsg, connect).
pub const PROGRAMS: [&str; 8] =
    ["getpeername4", "getpeername6", "recvmsg4", "recvmsg6", "sendmsg4", "sendmsg6", "connect4", "connect6"];

/// The program that counts the connections of translated sockets, at the same cgroup. Attached last. Services work without it.
pub const SOCK_OPS: &str = "sock_ops";

/// The iterator that reads the sockets of open connections; run by the agent, attached to nothing. Services work without it.
pub const READ_SOCKETS: &str = "read_sockets";

/// The iterators that write an `OpenSocket` for each open connection through a Service, and for each whose backend was removed; run by
/// the agent, attached to nothing. Services work without them.
pub const LIST_SOCKETS: &str = "list_sockets";
pub const LIST_STALE_SOCKETS: &str = "list_stale_sockets";

/// The program that lets a device receive the frame on which it is run; run by the agent, attached to nothing.
pub const INJECT_SEGMENT: &str = "inject_segment";

/// The role of a device in the packet plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceRole {
    /// Leads to other machines.
    External,
    /// Leads to a pod of this node.
    Pod,
    /// The loopback device of the node, which its connections to its own addresses pass.
    Loopback,
}

/// A tc program and its hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcProgram {
    /// The name of its function.
    pub name: &'static str,
    pub role: DeviceRole,
    pub direction: Direction,
}

/// The tc programs. Attached in this order: reverse translation (egress) before translation (ingress).
pub const TC_PROGRAMS: [TcProgram; 5] = [
    tc("tc_external_egress", DeviceRole::External, Direction::Egress),
    tc("tc_pod_egress", DeviceRole::Pod, Direction::Egress),
    tc("tc_external_ingress", DeviceRole::External, Direction::Ingress),
    tc("tc_pod_ingress", DeviceRole::Pod, Direction::Ingress),
    tc("tc_loopback_egress", DeviceRole::Loopback, Direction::Egress),
];

/// The XDP program at external devices.
pub const XDP_EXTERNAL: &str = "xdp_external";

const fn tc(name: &'static str, role: DeviceRole, direction: Direction) -> TcProgram {
    TcProgram { name, role, direction }
}
