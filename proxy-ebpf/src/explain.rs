//! Questions about flows, and the answers of the programs that explain them on the live maps.
//!
//! Not a part of the ABI of maps: a command loads the programs for its own questions, so both sides are of one build.
//! Both records are in a packet behind an Ethernet header without content; the answer replaces the question.

#[cfg(feature = "user")]
use crate::abi::unmapped;
use crate::abi::{BackendRef, Descriptor, DropReason, Endpoint, map_type};

/// Decides as the hooks of devices do.
pub const EXPLAIN_PACKET: &str = "explain_packet";
/// Decides as the connect hooks do.
pub const EXPLAIN_SOCKET: &str = "explain_socket";
/// The programs that answer questions: run, attached to nothing, and loaded only for that.
pub const PROGRAMS: [&str; 2] = [EXPLAIN_PACKET, EXPLAIN_SOCKET];
/// The map of the programs alone; not pinned.
pub const SCRATCH: &str = "EXPLAINED";
/// The offset of both records in the packet.
pub const OFFSET: usize = 14;

/// The first packet of a flow, or the connect before it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Cookie of the client's netns, for `EXPLAIN_SOCKET`; 0: unknown.
    pub netns: u64,
    /// IPv4 as IPv4-mapped, as in `destination`.
    pub source: [u8; 16],
    pub destination: [u8; 16],
    /// The device at which the packet is seen, by its ifindex.
    pub device: u32,
    pub port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
    pub zero: u8,
}
map_type!(Question, 8 + 16 + 16 + 4 + 2 + 1 + 1);

/// The steps of a decision, and its result. Fields of steps that were not reached are 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Cookie of the host netns, as the live programs know it.
    pub host_netns: u64,
    /// The descriptor of the frontend in the last attempt; undefined without a frontend.
    pub descriptor: Descriptor,
    /// The backend; undefined without one.
    pub backend: Endpoint,
    pub reference: BackendRef,
    /// The backend of the client's affinity; generation 0: none.
    pub affinity: BackendRef,
    /// The slots of the last attempt.
    pub first_slot: u32,
    pub slots: u32,
    /// Attempts, of which all but the last met an entry that was being replaced, or the node's name server that is down.
    pub attempts: u32,
    /// `ConfigFlags` of the live programs.
    pub config: u32,
    /// The route of the packet after translation: the code of the kernel's FIB lookup, the device and the next hop.
    pub route: i32,
    pub device: u32,
    pub next_hop: [u8; 16],
    /// The source of the packet after masquerade; unspecified: it is not masqueraded, or the device has no address for it.
    pub masquerade_source: [u8; 16],
    /// A `Verdict`.
    pub verdict: u8,
    /// The `DropReason` of a refusal.
    pub reason: u8,
    /// An `Origin`.
    pub origin: u8,
    /// 1: the internal scope, 2: the external one, 0: no frontend.
    pub scope: u8,
    /// A `Masquerading`.
    pub masquerade: u8,
    /// `BackendFlags` of the backend.
    pub backend_flags: u8,
    pub zero: [u8; 6],
}
map_type!(Answer, 8 + 64 + 20 + 8 + 8 + 4 + 4 + 4 + 4 + 4 + 4 + 16 + 16 + 6 + 6);

/// The length of the packet.
pub const PACKET: usize = OFFSET + size_of::<Answer>();
const _: () = assert!(size_of::<Question>() <= size_of::<Answer>());

/// The result of a decision.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not Service traffic.
    NotOurs = 1,
    Backend = 2,
    Refused = 3,
    /// A socket hook leaves the refusal to the packets.
    LeftToPackets = 4,
    /// Sockets of this netns are not translated, or none of this protocol.
    NotTranslatedHere = 5,
}

/// The client of a packet.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Pod = 1,
    Node = 2,
    Outside = 3,
}

#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masquerading {
    No = 0,
    /// By the flags of the frontend.
    Policy = 1,
    /// The backend is the client itself.
    Hairpin = 2,
}

impl Answer {
    /// `None`: the program did not answer.
    pub const fn verdict(&self) -> Option<Verdict> {
        Some(match self.verdict {
            1 => Verdict::NotOurs,
            2 => Verdict::Backend,
            3 => Verdict::Refused,
            4 => Verdict::LeftToPackets,
            5 => Verdict::NotTranslatedHere,
            _ => return None,
        })
    }

    /// The reason of a refusal.
    pub const fn refusal(&self) -> Option<DropReason> {
        match self.verdict() {
            Some(Verdict::Refused | Verdict::LeftToPackets) => Some(DropReason::of(self.reason)),
            Some(Verdict::NotOurs | Verdict::Backend | Verdict::NotTranslatedHere) | None => None,
        }
    }

    /// `None`: about a socket, which has no packet yet.
    pub const fn origin(&self) -> Option<Origin> {
        Some(match self.origin {
            1 => Origin::Pod,
            2 => Origin::Node,
            3 => Origin::Outside,
            _ => return None,
        })
    }

    pub const fn masquerade(&self) -> Masquerading {
        match self.masquerade {
            1 => Masquerading::Policy,
            2 => Masquerading::Hairpin,
            _ => Masquerading::No,
        }
    }

    /// The address of the backend; undefined without one.
    #[cfg(feature = "user")]
    pub fn backend_address(&self) -> core::net::SocketAddr {
        core::net::SocketAddr::new(address(self.backend.address), u16::from_be_bytes(self.backend.port))
    }

    /// The next hop of the route; undefined without one.
    #[cfg(feature = "user")]
    pub fn next_hop_address(&self) -> core::net::IpAddr {
        address(self.next_hop)
    }

    /// The source after masquerade.
    #[cfg(feature = "user")]
    pub fn masquerade_address(&self) -> Option<core::net::IpAddr> {
        (self.masquerade_source != [0; 16]).then(|| address(self.masquerade_source))
    }

    pub const fn has_frontend(&self) -> bool {
        self.scope != 0
    }
}

#[cfg(feature = "user")]
fn address(octets: [u8; 16]) -> core::net::IpAddr {
    match unmapped(octets) {
        Some(v4) => core::net::Ipv4Addr::from(v4).into(),
        None => core::net::Ipv6Addr::from(octets).into(),
    }
}
