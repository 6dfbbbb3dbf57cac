//! Objects of the kernel: network namespaces, cgroups, mounts, links, packet filters, processes. Each is removed
//! by `Drop`.

pub mod bpf;
pub mod cgroup;
pub mod confine;
pub mod firewall;
pub mod kube_proxy;
pub mod ledger;
pub mod leftovers;
pub mod links;
pub mod mounts;
pub mod netns;
pub mod nic_offloads;
pub mod priority;
pub mod process;
pub mod sole_program;
pub mod stuck;
pub mod tun;
pub mod xdp;
