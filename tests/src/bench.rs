//! Measurements of the promises: the cost of a connect and of a packet, the atomicity of a backend switch, the
//! time from a change to its effect, the cost of a DNS answer.
//!
//! Each measurement creates its own fixture, starts a worker process in it and evaluates the worker's report.
//! Workers are plain threads with blocking sockets, so that their own cost does not hide the measured cost.

pub mod atomicity;
mod clock;
mod command;
pub mod connect;
pub mod dns;
pub mod instructions;
pub mod packet;
mod process;
pub mod scale;
mod sockets;
pub mod sync;
mod worker;

pub use command::run;
pub use process::WORKER;
pub use worker::run as run_worker;
