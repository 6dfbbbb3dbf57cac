//! Programs and sockets at the kernel's hooks: loading the programs, the devices that get them, links and
//! filters.

mod adopt;
mod cgroup;
mod device_link;
mod device_table;
mod devices;
mod events;
mod explainer;
mod listing;
mod load;
mod local_networks;
mod logs;
mod name_server;
mod open_sockets;
mod segment_frame;
mod socket_reader;
mod sweeper;
mod tc;
mod xdp;

pub use adopt::{AdoptError, adopt_flows};
pub use cgroup::{AttachError, attach, repair};
pub use device_table::DeviceTable;
pub use devices::{Device, select_devices};
pub use events::{EventReader, EventSource, EventsError, LISTENING};
pub use explainer::{ExplainError, Explainer};
pub use listing::ProgramListing;
pub use load::{LoadError, ProgramRun, Programs, load, load_object, load_with_sizes, object};
pub use local_networks::{local_pod_networks, primary_addresses};
pub use logs::forward_logs;
pub use name_server::{DnsRedirect, Heartbeats, NameServerError, SuccessorHeartbeat, name_server_is_alive};
pub use open_sockets::{EndOfConnection, Listed, OpenSockets, Towards};
pub use socket_reader::SocketReader;
pub use sweeper::{SweeperError, start_sweeper};
pub use tc::{DeviceHooks, TcError, TcPass, detach_devices, programs_at};
pub use xdp::{XdpAttachMode, XdpAttachment, XdpError, XdpHooks, XdpPass, detach_xdp};
