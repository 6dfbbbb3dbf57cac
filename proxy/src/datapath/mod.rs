//! The kernel side: loading the programs, pinning and adopting maps and links, and the maps as the reconciler
//! wants them. The only module that names aya.
//!
//! Invariant: everything lives under one pin directory with the ABI version in its path, which one agent at a time
//! holds by a lock. Programs and maps outlive the agent.

mod addresses;
mod attach;
mod batch;
mod device_link;
mod devices;
mod environment;
mod flows;
mod inspect;
mod load;
mod logs;
mod mapped;
mod maps;
mod name_server;
mod neighbours;
mod netlink;
mod networks;
mod pins;
mod sweeper;
mod sys;
mod tc;
mod xdp;

pub use addresses::local_addresses;
pub use attach::{AttachError, attach, detach, repair};
pub use devices::{Device, Network, choose, follow_network};
pub use environment::{EnvironmentError, cgroup_root, require_capabilities, require_cgroup};
pub use flows::{Flows, TrackedFlow};
pub use inspect::{InspectError, PinnedMap, inspect, inspect_flows, now, pinned_map};
pub use load::{LoadError, Programs, Ran, load, load_object, object};
pub use logs::follow_logs;
pub use maps::{KernelMaps, OpenError};
pub use name_server::{Beats, NameServerError, Presence, Waiting};
pub use neighbours::keep_fresh;
pub use netlink::NetlinkError;
pub use networks::DeviceTable;
pub use pins::{Busy, PinError, Pins, maps_of, pin_name};
pub use sweeper::{SweeperError, start_sweeper};
pub use sys::{grace_period, netns_cookie};
pub use tc::{DeviceHooks, TcError, TcPass, detach_devices, standing_at};
pub use xdp::{Early, EarlyDevice, EarlyHooks, EarlyPass, XdpError, detach_early};
