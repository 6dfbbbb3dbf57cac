//! The names of the cluster: the DNS view of Kubernetes objects, snapshots of it, and answers from a snapshot.
//!
//! Nothing here does I/O. Imports between the files run one way:
//!
//! ```text
//! name ─> zone ─> snapshot ─> authority ─> answer ─> wire
//!      └> topic ───────────────────────────┘
//! ```

pub mod answer;
pub mod authority;
pub mod name;
pub mod selection;
pub mod snapshot;
pub mod topic;
pub(crate) mod wire;
pub mod zone;
