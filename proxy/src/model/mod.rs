//! What a Service means, as plain values: no Kubernetes types, no kernel, no I/O, no clock.
//!
//! objects → `ServiceInfo`, `SliceInfo` → `index` → `Frontend` (what the kernel gets and what `explain` says)

pub mod address;
pub mod affinity;
pub mod backend;
pub mod flow;
pub mod frontend;
pub mod name_server;
pub mod node;
pub mod policy;
pub mod rare;
pub mod service;
pub mod topology;
