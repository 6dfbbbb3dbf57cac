//! Cluster DNS from Services and their endpoints.
//!
//! Rooms, each importing only those above it:
//!
//! - `address`: parsing of addresses
//! - `admitted`: the clients that are answered
//! - `config`: values of the configuration
//! - `corefile`: syntax of the Corefile
//! - `cluster`: names of the cluster, from objects to answers
//! - `observe`: metrics, query statistics, health
//! - `resolve`: cache and forwarder
//! - `text_file`: reading of files in UTF-8
//! - `zone_data`: zones of master files
//! - `plugins`: one file per directive
//! - `serve`: sockets, handler, supervisor

#[macro_use]
mod named_enum;

pub mod address;
pub mod admitted;
pub mod cluster;
pub mod config;
pub mod corefile;
mod file_watcher;
pub mod interfaces;
pub mod observe;
pub mod plugins;
pub mod resolve;
pub mod serve;
pub mod text_file;
mod zone_data;
