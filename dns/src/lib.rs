//! Cluster DNS from Services and their endpoints.

pub mod answer;
pub mod authority;
mod cache;
pub mod config;
mod followed;
pub mod forward;
pub mod handler;
pub mod metrics;
pub mod name;
pub mod run;
pub mod server;
pub mod snapshot;
pub mod zone;
