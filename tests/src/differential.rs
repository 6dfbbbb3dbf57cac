//! The packet plane against the model: random objects, random packets, and every difference is a bug in one of them.
//!
//! Each case is a flow's first packet, sent through the compiled programs by BPF_PROG_TEST_RUN, and what follows from it:
//! its masquerade at the egress, the answer's way back, and the packet after it. What the model says of the flow decides
//! what each must look like, checksums included. Now and then comes a strait: a condition under which a packet must be
//! refused, and counted under its name.

mod corrupted;
mod exhaustion;
pub(crate) mod fixture;
mod kube_proxy_cases;
pub(crate) mod objects;
pub(crate) mod packet;
mod path;
mod random;
mod verdict_row;
pub mod xdp;

pub use corrupted::corrupted as spoilt;
pub use exhaustion::PROVOKED;
pub use kube_proxy_cases::kube_proxy_cases as given;
pub use packet::Packet;
pub use random::{Tally, run};
pub use verdict_row::VerdictRow;
