//! Portreeve's node agent: Kubernetes objects in, eBPF load balancing out.
//!
//! k8s → index → reconcile → datapath, with the values of `model` in between; `observe` reports on all of it.

pub mod cli;
mod config;
pub mod datapath;
pub mod error;
mod host;
pub mod index;
pub mod k8s;
pub mod kube_proxy_config;
mod kube_proxy_state;
pub mod live;
mod log_level;
mod log_ring;
pub mod manifests;
mod memory;
pub mod model;
mod observe;
pub mod reconcile;
mod run;
pub mod source_state;
pub mod update;
mod yaml;
