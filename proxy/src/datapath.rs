//! The kernel side: loading the programs, pinning and adopting maps and links, and the maps as the reconciler
//! wants them. The only module that names aya.
//!
//! Invariant: everything lives under one pin directory with the ABI version in its path, which one agent at a time
//! holds by a lock. Programs and maps outlive the agent.

mod attach;
mod kernel;
mod maps;
mod pins;

pub use attach::{
    AttachError, Beats, Device, DeviceHooks, DeviceTable, Early, EarlyDevice, EarlyHooks, EarlyPass,
    LoadError, NameServerError, Presence, Programs, Ran, SweeperError, TcError, TcPass, Waiting, XdpError,
    attach, choose, detach, detach_devices, detach_early, follow_logs, load, load_object, object, repair,
    standing_at, start_sweeper,
};
pub use kernel::{
    EnvironmentError, NetlinkError, Network, cgroup_root, follow_network, grace_period, keep_fresh,
    local_addresses, netns_cookie, now, require_capabilities, require_cgroup,
};
pub use maps::{
    Flows, InspectError, KernelMaps, OpenError, PinnedMap, TrackedFlow, inspect, inspect_flows, pinned_map,
};
pub use pins::{Busy, PinError, Pins, maps_of, pin_name};
