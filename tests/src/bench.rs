//! What is promised in numbers, measured: the cost of a connect and of a packet, and that a switch of backends is atomic.
//!
//! Each measurement lays out its own ground, starts a worker process in it and judges what the worker reports. Workers
//! are plain threads and blocking sockets: what they cost themselves must not hide what they measure.

pub mod atomicity;
pub mod connect;
pub mod dns;
pub mod packet;
pub mod sync;
mod worker;

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

pub use worker::{WORKER, Worker};

/// Nanoseconds of the machine's monotonic clock: the same in every process.
fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
