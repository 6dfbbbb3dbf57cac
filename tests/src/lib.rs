//! A cluster of network namespaces, and what can be told in it.
//!
//! A node is a network namespace with a bridge for its pods, a cgroup subtree and an agent of its own; a pod is a
//! network namespace, a cgroup and a small process that serves and dials on request. Everything a cluster made is gone
//! when the cluster is dropped, also when a story panics, and nothing outlives a killed test but empty cgroups and
//! pins, which the next start removes.

#![expect(clippy::print_stderr, reason = "a harness speaks to whoever runs the stories")]

pub mod agent;
pub mod api_server;
pub mod askers;
pub mod bench;
pub mod card;
pub mod cgroup;
pub mod chance;
pub mod cluster;
pub mod dials;
pub mod differential;
pub mod dump;
pub mod eventually;
pub mod examples;
pub mod firewall;
pub mod flows;
pub mod frontends;
pub mod http;
pub mod kube_proxy;
pub mod ledger;
pub mod leftovers;
pub mod links;
pub mod mounts;
pub mod name_service;
pub mod netns;
pub mod node;
pub mod objects;
pub mod outside;
pub mod pod;
pub mod pod_network;
pub mod process;
pub mod resolver;
pub mod rollout;
pub mod service;
pub mod traffic;
pub mod udp;
pub mod xdp;

pub use cluster::Cluster;
pub use eventually::eventually;
