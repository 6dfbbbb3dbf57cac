//! Portreeve's node agent: Kubernetes objects in, eBPF load balancing out.
//!
//! k8s → index → reconcile → datapath; `model` is what they all speak.

mod asked;
pub mod cli;
mod config;
pub mod datapath;
pub mod error;
mod health;
mod host;
pub mod index;
mod inquiry;
pub mod k8s;
mod kube_proxy_config;
mod kube_proxy_state;
pub mod manifests;
mod memory;
mod metrics;
pub mod model;
pub mod reconcile;
mod run;
mod status;
pub mod update;
