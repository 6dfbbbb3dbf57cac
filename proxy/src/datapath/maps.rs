//! The pinned maps: opened, read and written for the reconciler and the inspecting verbs.

mod batch;
mod connections;
mod fill;
mod flows;
mod health;
mod inspect;
mod kernel_maps;
mod mmap_array;
mod networks;
mod open;
mod outgrown;

pub use fill::flow_fill;
pub use flows::{Flows, TrackedFlow};
pub use inspect::{InspectError, PinnedMap, inspect, inspect_flows, pinned_map};
pub use kernel_maps::KernelMaps;
pub use mmap_array::{Access, MmapArray};
pub use open::{OpenError, absent_is_fine, hash, mapped, pinned, refused};
pub use outgrown::{FlowSelection, OutgrownError, OutgrownFlows, copy_outgrown, take_over_connections};
