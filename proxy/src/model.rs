//! The meaning of Services, as plain values: no Kubernetes types, no kernel, no I/O, no clock.
//!
//! objects → `ServiceInfo`, `SliceInfo` → `index` → `Frontend` (written to the kernel, and shown by `explain`)

pub mod address;
pub mod affinity;
pub mod backend;
pub mod flow;
pub mod frontend;
pub mod health;
pub mod name_clients;
pub mod name_server;
pub mod node;
pub mod policy;
pub mod reason;
pub mod service;
pub mod small_list;
pub mod topology;
pub mod unserved;
