//! Runs iterators over the sockets of open connections: one counts their bytes before they close, others list them.

use std::{
    io::{self, Read as _},
    ops::ControlFlow,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{Ebpf, programs::Iter};
use proxy_ebpf::abi::map;

use crate::{
    datapath::{
        kernel::{
            bpf::{iterator, link_iterator},
            iterator_btf,
        },
        maps::{OpenError, pinned},
        pins::Pins,
    },
    error::chain,
};

/// The kind of the iterator: over the values of a socket storage, of all network namespaces.
const KIND: &str = "bpf_sk_storage_map";

/// The most that the kernel hands out in one call: the size of its buffer (`bpf_seq_read`).
const OUTPUT: usize = 8 << 12;

/// An iterator, ready to run.
#[derive(Debug)]
pub struct SocketReader {
    link: OwnedFd,
}

#[derive(Debug, thiserror::Error)]
pub enum SocketReaderError {
    #[error("the kernel's description of its types has no such iterator")]
    Kind(#[source] io::Error),
    #[error("the eBPF object has no iterator {0}")]
    NoProgram(&'static str),
    #[error("the kernel refuses the iterator: {0}")]
    Refused(String),
    #[error("cannot open the sockets' storage")]
    Open(#[from] OpenError),
    #[error("cannot link the iterator")]
    Link(#[source] io::Error),
}

impl SocketReader {
    /// Loads and links the program. Errors: the kernel lacks this kind of iterator (before 5.9), or refuses it.
    pub fn new(ebpf: &mut Ebpf, name: &'static str, pins: &Pins) -> Result<Self, SocketReaderError> {
        let btf = iterator_btf(KIND).map_err(SocketReaderError::Kind)?;
        let program = ebpf.program_mut(name).ok_or(SocketReaderError::NoProgram(name))?;
        let program: &mut Iter = program.try_into().map_err(|_| SocketReaderError::NoProgram(name))?;
        let refused = |error: aya::programs::ProgramError| SocketReaderError::Refused(chain(&error));
        program.load(KIND, &btf).map_err(refused)?;
        let fd = program.fd().map_err(refused)?.as_fd();
        let (storage, _) = pinned(&pins.maps(), map::TCP_SOCKETS)?;
        let link = link_iterator(fd, storage.fd().as_fd()).map_err(SocketReaderError::Link)?;
        Ok(Self { link })
    }

    /// Reads all sockets once. Blocks for as long as that takes.
    pub fn run(&self) -> io::Result<()> {
        // The program prints nothing.
        self.read(|_| ControlFlow::Continue(()))
    }

    /// As `run`, and hands out the output of the program in whole records, until that breaks.
    pub fn read(&self, mut output: impl FnMut(&[u8]) -> ControlFlow<()>) -> io::Result<()> {
        let mut run = iterator(self.link.as_fd())?;
        let mut buffer = vec![0; OUTPUT];
        loop {
            match run.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => {
                    if output(&buffer[..length]).is_break() {
                        return Ok(());
                    }
                }
                // After a million sockets the kernel returns from the system call, and goes on with the next.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}
