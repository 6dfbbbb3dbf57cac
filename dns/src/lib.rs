//! Cluster DNS from Services and their endpoints.

pub mod config;
pub mod forward;
pub mod name;
pub mod snapshot;
pub mod zone;
