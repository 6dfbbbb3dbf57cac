//! A cluster of network namespaces, and the stories told in it.
//!
//! [`lab`] is the harness. [`differential`] compares the eBPF programs with the model, [`bench`] measures, [`chaos`] breaks what it
//! can under load, [`demo`] shows an example application; each of them depends on the lab, and nothing in the lab depends on them. Everything that a
//! cluster created is removed when the cluster is dropped, also when a story panics. A killed test leaves only empty
//! cgroups and pins, which the next start removes.

#![expect(clippy::print_stderr, reason = "a harness reports to the terminal of the test run")]

pub mod bench;
pub mod chaos;
pub mod demo;
pub mod differential;
pub mod lab;

// Names for stories.
pub use lab::{
    addresses, agent, api_server,
    client::{dials, dials::PodRef, flows, http, udp},
    cluster,
    cluster::Cluster,
    dns,
    dns::{name_service, resolver},
    eventually,
    eventually::eventually,
    examples, frontends,
    kernel::{
        confine, firewall, kube_proxy, ledger, leftovers, links, mounts, netns, nic_offloads, priority,
        process, sole_program, stuck, tun, xdp,
    },
    node, objects, pinned_maps, pod, pod_network, rng,
    scenario::{outside, rollout},
    service, traffic,
};
