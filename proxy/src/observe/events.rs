//! Events of flows, for `portreeve events`: what the programs wrote, with names, for each listener that asked for it.
//!
//! `record` is the line of output, `filter` what a listener wants, `listeners` who listens. The reader of the ring buffer is in
//! `serve`, beside the control socket.

pub mod filter;
pub mod listeners;
pub mod record;
