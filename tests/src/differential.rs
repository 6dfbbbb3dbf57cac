//! The packet plane against the model: random objects, random packets, and every difference is a bug in one of them.
//!
//! Each case is a flow's first packet, sent through the compiled programs by BPF_PROG_TEST_RUN, and what follows from it:
//! its masquerade at the egress, the answer's way back, and the packet after it. What the model says of the flow decides
//! what each must look like, checksums included. Now and then comes a strait: a condition under which a packet must be
//! refused, and counted under its name.

mod given;
pub(crate) mod ground;
mod random;
mod row;
mod spoilt;
mod straits;
mod way;
pub(crate) mod wire;
pub(crate) mod world;
pub mod xdp;

pub use given::given;
pub use random::{Tally, run};
pub use row::Row;
pub use spoilt::spoilt;
pub use straits::PROVOKED;
pub use wire::Packet;
