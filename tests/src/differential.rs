//! The packet plane compared with the model: random objects, random packets, and every difference is a bug in one
//! of them.
//!
//! Each case is a flow's first packet, sent through the compiled programs by BPF_PROG_TEST_RUN, and the packets
//! that follow: SNAT at the egress, the reply with reverse NAT, and the next packet. The model's verdict on the
//! flow determines the expected form of each, checksums included. In between, conditions of exhaustion are
//! created, under which a packet must be dropped and counted under its reason.

mod concurrent;
mod connection;
mod corrupted;
mod dump;
mod exhaustion;
mod explained;
pub(crate) mod fixture;
mod flow_states;
mod kube_proxy_cases;
pub(crate) mod objects;
pub(crate) mod packet;
mod path;
mod race;
mod random;
mod received;
mod reported;
mod shares;
pub(crate) mod test_run;
mod tracked;
mod verdict_row;
pub mod xdp;

pub use concurrent::{concurrent, earlier_flows};
pub use connection::ConnectionNode;
pub use corrupted::corrupted;
pub use exhaustion::PROVOKED;
pub use explained::{Explained, explained};
pub use fixture::network;
pub use kube_proxy_cases::kube_proxy_cases;
pub use packet::{DEVICE, Packet};
pub use random::{Tally, run};
pub use reported::{events_of_flows_that_end, events_while_someone_listens, lost_events};
pub use shares::choices_among_suspected;
pub use tracked::{flows_of_removed_backends, packets_are_counted, segments_above_the_mtu};
pub use verdict_row::VerdictRow;
