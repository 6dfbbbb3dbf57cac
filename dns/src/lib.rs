//! Cluster DNS from Services and their endpoints.

mod cache;
pub mod config;
mod followed;
pub mod forward;
pub mod metrics;
pub mod name;
pub mod snapshot;
pub mod zone;
