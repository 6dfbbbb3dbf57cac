//! The cluster's names: what Kubernetes' objects mean to DNS, the snapshot of them, and the answers made from it.
//!
//! Nothing here does I/O. The files depend on each other from left to right only:
//!
//! ```text
//! name ─> zone ─> snapshot ─> authority ─> answer ─> wire
//!      └> topic ───────────────────────────┘
//! ```

pub mod answer;
pub mod authority;
pub mod name;
pub mod snapshot;
pub mod topic;
pub(crate) mod wire;
pub mod zone;
