//! The sockets of open connections through Services, in all network namespaces of the node, and segments to them in the name of their
//! backends.
//!
//! The agent may neither enter the namespaces of pods nor send raw packets. An iterator finds the sockets, and the device towards the
//! backend receives the segments, so that the node routes them as it did those of the backend.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::ControlFlow,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{Ebpf, programs::SchedClassifier};
use proxy_ebpf::abi::{Endpoint, INJECT_SEGMENT, LIST_SOCKETS, LIST_STALE_SOCKETS, OpenSocket};

use super::{
    segment_frame::{Segment, frame},
    socket_reader::{SocketReader, SocketReaderError},
};
use crate::{datapath::kernel::bpf, error::chain};

/// The segment that may end a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndOfConnection {
    /// A reset, exactly at the position where the socket accepts it (RFC 5961, 3.2).
    Reset,
    /// A keep-alive probe, which the socket answers by an acknowledgement to the backend: one that does not know the connection resets
    /// it, one that does ignores it.
    Probe,
}

/// The sockets that are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listed {
    All,
    /// Those whose backend was removed from the maps.
    Stale,
}

/// The segment for the sockets of a backend, and the device that receives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Towards {
    pub end: EndOfConnection,
    /// The ifindex and the MAC address of the device.
    pub device: u32,
    pub address: [u8; 6],
}

#[derive(Debug)]
pub struct OpenSockets {
    all: SocketReader,
    stale: SocketReader,
    inject: OwnedFd,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenSocketsError {
    #[error("cannot list sockets")]
    Reader(#[from] SocketReaderError),
    #[error("the eBPF object has no program {INJECT_SEGMENT}")]
    NoProgram,
    #[error("the kernel refuses the program {INJECT_SEGMENT}: {0}")]
    Refused(String),
    #[error("cannot keep the program {INJECT_SEGMENT}")]
    Descriptor(#[source] io::Error),
}

impl OpenSockets {
    /// Loads the programs. Errors: the kernel lacks this kind of iterator (before 5.9), or refuses a program.
    pub fn new(ebpf: &mut Ebpf, pins: &crate::datapath::pins::Pins) -> Result<Self, OpenSocketsError> {
        let all = SocketReader::new(ebpf, LIST_SOCKETS, pins)?;
        let stale = SocketReader::new(ebpf, LIST_STALE_SOCKETS, pins)?;
        let refused = |error: aya::programs::ProgramError| OpenSocketsError::Refused(chain(&error));
        let program = ebpf.program_mut(INJECT_SEGMENT).ok_or(OpenSocketsError::NoProgram)?;
        let program: &mut SchedClassifier = program.try_into().map_err(refused)?;
        program.load().map_err(refused)?;
        let inject = program.fd().map_err(refused)?.as_fd().try_clone_to_owned();
        Ok(Self { all, stale, inject: inject.map_err(OpenSocketsError::Descriptor)? })
    }

    /// The number of sockets by backend. Blocks for as long as reading all sockets takes.
    pub fn count(&self, which: Listed) -> io::Result<BTreeMap<SocketAddr, usize>> {
        let mut counts = BTreeMap::new();
        self.list(which, |socket| {
            *counts.entry(address(socket.backend)).or_default() += 1;
            ControlFlow::Continue(())
        })?;
        Ok(counts)
    }

    /// Sends a segment to each socket of these backends, to no more than `limit`. Returns the number of segments. Blocks for as long as
    /// that takes.
    pub fn send(
        &self,
        which: Listed,
        ends: &BTreeMap<SocketAddr, Towards>,
        limit: usize,
    ) -> io::Result<usize> {
        let mut sent = 0;
        self.list(which, |socket| {
            if let Some(towards) = ends.get(&address(socket.backend))
                && self.send_one(&socket, towards)
            {
                sent += 1;
            }
            if sent < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(sent)
    }

    /// Returns whether the device has received it.
    fn send_one(&self, socket: &OpenSocket, towards: &Towards) -> bool {
        let resets = towards.end == EndOfConnection::Reset;
        let sequence = socket.receive_next;
        let segment = Segment {
            from: address(socket.backend),
            to: address(socket.local),
            // A probe repeats the last byte that was acknowledged.
            sequence: if resets { sequence } else { sequence.wrapping_sub(1) },
            acknowledged: socket.send_next,
            resets,
        };
        let Some(frame) = frame(&segment, towards.address) else { return false };
        bpf::run_program_on(self.inject.as_fd(), &frame, towards.device).is_ok_and(|outcome| outcome == 0)
    }

    fn list(&self, which: Listed, mut found: impl FnMut(OpenSocket) -> ControlFlow<()>) -> io::Result<()> {
        const LENGTH: usize = size_of::<OpenSocket>();
        let reader = match which {
            Listed::All => &self.all,
            Listed::Stale => &self.stale,
        };
        reader.read(|output| {
            // The kernel hands out whole records.
            output.as_chunks::<LENGTH>().0.iter().try_for_each(|record| {
                // SAFETY: `OpenSocket` is `Pod`, and the record has its length.
                found(unsafe { record.as_ptr().cast::<OpenSocket>().read_unaligned() })
            })
        })
    }
}

fn address(end: Endpoint) -> SocketAddr {
    let ip = Ipv6Addr::from(end.address);
    let ip = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
    SocketAddr::new(ip, u16::from_be_bytes(end.port))
}
