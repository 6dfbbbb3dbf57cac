//! Attach points. Entry points, and the order of the stages of a packet; each decision is another room's.

mod cgroup;
mod explain;
mod forward;
mod inject;
mod link_layer;
mod loopback;
mod programs;
mod report;
mod report_socket;
mod sock_ops;
mod socket_iterator;
mod stage;
mod tc;
mod xdp;
