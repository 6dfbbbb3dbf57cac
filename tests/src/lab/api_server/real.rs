//! A real API server and its etcd, where the environment names their binaries. It starts from nothing in a directory of
//! its own, on a loopback address.

mod account;
mod http;
mod netns;
mod requests;
mod server;

pub use server::{Binaries, RealApiServer};
