//! Cluster DNS from Services and their endpoints.

#[macro_use]
mod named_enum;

pub mod cluster;
pub mod config;
pub mod corefile;
mod file_watcher;
pub mod observe;
pub mod plugins;
pub mod resolve;
pub mod serve;
