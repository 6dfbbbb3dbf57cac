//! The kernel side: loads and attaches the programs, pins and adopts maps and links, and implements the
//! reconciler's maps. The only module that names aya.
//!
//! Imports between its rooms go one way: `attach` → `maps` → `pins` → `kernel`.
//!
//! Invariant: everything lives under one pin directory with the ABI version in its path. One agent at a time
//! holds it by a lock. Programs and maps outlive the agent.

mod attach;
mod kernel;
mod maps;
mod pins;
mod sizes;

pub use attach::{
    AdoptError, AttachError, Device, DeviceHooks, DeviceTable, DnsRedirect, EndOfConnection, EventReader,
    EventSource, EventsError, ExplainError, Explainer, Heartbeats, LISTENING, Listed, LoadError,
    NameServerError, OpenSockets, ProgramListing, ProgramRun, Programs, SocketReader, SuccessorHeartbeat,
    SweeperError, TcError, TcPass, Towards, XdpAttachMode, XdpAttachment, XdpError, XdpHooks, XdpPass,
    adopt_flows, attach, detach_devices, detach_xdp, forward_logs, load, load_object, load_with_sizes,
    local_pod_networks, name_server_is_alive, object, primary_addresses, programs_at, repair, select_devices,
    start_sweeper,
};
pub use kernel::{
    CgroupScope, EnvironmentError, Jiffies, Neighbour, NetlinkError, Network, NetworkListing, NextHop,
    PathSize, Routes, cgroup_root, cgroup_scope, device_towards, grace_period, ipsec_policies,
    local_addresses, netns_addresses, netns_cookie, next_hop, now, path_size, read_notification,
    refresh_neighbours, require_capabilities, require_cgroup, resolved_next_hop, watch_network, watch_routes,
};
pub use maps::{
    Access, FlowSelection, Flows, InspectError, KernelMaps, MmapArray, OpenError, OutgrownError,
    OutgrownFlows, PinnedMap, TrackedFlow, flow_fill, inspect, inspect_flows, mapped, pinned_map,
    take_over_connections,
};
pub use pins::{Busy, PinError, Pins, last_alive, maps_of, mark_alive, pin_name};
