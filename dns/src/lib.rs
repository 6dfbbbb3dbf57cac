//! Cluster DNS from Services and their endpoints.

pub mod zone;
