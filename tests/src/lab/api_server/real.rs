//! A real API server and its etcd, if the environment names their binaries. Both start empty in a directory of
//! their own, on a loopback address.

mod account;
mod http;
mod netns;
mod requests;
mod server;

pub use server::{Binaries, RealApiServer};
