//! Cluster DNS from Services and their endpoints.

pub mod answer;
pub mod authority;
mod cache;
pub mod clients;
pub mod config;
pub mod corefile;
mod followed;
pub mod forward;
pub mod handler;
pub mod health;
pub mod hosts;
pub mod http;
pub mod listening;
pub mod live;
pub mod local;
pub mod metrics;
pub mod name;
pub mod pulse;
pub mod rewrite;
pub mod run;
pub mod server;
pub mod snapshot;
pub mod template;
pub mod topic;
pub mod zone;
