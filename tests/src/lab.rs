//! The lab: a cluster of network namespaces.
//!
//! A node is a network namespace with a bridge for its pods, a cgroup subtree and its own agent. A pod is a
//! network namespace, a cgroup and a small process that serves and dials on request. `kernel` wraps the kernel's
//! objects, `traffic` is the process inside a pod, and `client` is the part of it that stories call.

pub mod addresses;
pub mod agent;
pub mod api_server;
pub mod client;
pub mod cluster;
pub mod dns;
pub mod dump;
pub mod eventually;
pub mod examples;
pub mod frontends;
pub mod kernel;
pub mod node;
pub mod objects;
pub mod pinned_maps;
pub mod pod;
pub mod pod_network;
pub mod rng;
pub mod scenario;
pub mod service;
pub mod traffic;
