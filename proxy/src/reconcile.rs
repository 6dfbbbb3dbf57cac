//! Brings the maps to the state of the index, one service port at a time, so that traffic never meets a gap.
//!
//! Order within a service port: backends, a new block, a new descriptor, the flip; then unreachable entries are
//! retired. Retired entries may be reused only after a grace period, which the caller waits for and reports
//! with [`Reconciler::reclaim`]. An agent that dies between any two writes leaves maps that serve traffic, and
//! its successor adopts them: reachable entries are in use, all others are free.
//!
//! Owner of the maps' services, frontends and backends: one reconciler, guarded by the lock on the pin
//! directory.

mod adopt;
mod blocks;
mod budget;
mod dump;
mod encode;
mod fake;
mod ids;
mod maps;
mod ranges;
mod reconciler;
mod retired;
mod services;
mod tenant;
#[cfg(test)]
mod tests;
mod unclaimed;

pub use budget::Budget;
pub use dump::dump;
pub use encode::{frontend_key, wire_address};
pub use fake::FakeMaps;
pub use maps::{BackendEntry, BatchError, Capacity, Extent, Fill, LbMaps, MapError, one_by_one};
pub use reconciler::{Pass, Reconciler};
pub use retired::Epoch;
pub use services::parse_label;
pub use tenant::{Table, Tenant};
pub use unclaimed::UnclaimedNetworks;
