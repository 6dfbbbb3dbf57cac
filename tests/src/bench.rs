//! What is promised in numbers, measured: the cost of a connect and of a packet, and that a switch of backends is atomic.
//!
//! Each measurement lays out its own ground, starts a worker process in it and judges what the worker reports. Workers
//! are plain threads and blocking sockets: what they cost themselves must not hide what they measure.

pub mod atomicity;
mod clock;
mod command;
pub mod connect;
pub mod dns;
pub mod packet;
mod process;
mod sockets;
pub mod sync;
mod worker;

pub use command::run;
pub use process::WORKER;
pub use worker::run as run_worker;
