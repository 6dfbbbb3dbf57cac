//! A hook of a device, and the trait of the two mechanisms that attach programs to it.

use std::io;

use proxy_ebpf::abi::{Direction, TC_PROGRAMS};

use crate::datapath::attach::load::{LoadError, LoadedProgram};

#[derive(Debug, thiserror::Error)]
pub enum TcError {
    #[error(transparent)]
    Program(#[from] LoadError),
    #[error("this kernel has no tcx: Linux 6.6 has it, and --tc=clsact does without")]
    NoTcx,
    #[error("cannot attach {program} to {device}")]
    Attach {
        program: &'static str,
        device: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot detach {program} from the device with index {device}")]
    Detach {
        program: &'static str,
        device: u32,
        #[source]
        source: io::Error,
    },
    #[error("cannot remove the qdiscs of filters that are gone")]
    Qdisc(#[source] io::Error),
    #[error("cannot list the programs attached to devices")]
    List(#[source] io::Error),
    #[error("cannot list the programs attached to {0}")]
    Query(String, #[source] aya::programs::ProgramError),
}

impl TcError {
    /// Whether the device disappeared before its program was attached.
    pub fn is_device_gone(&self) -> bool {
        matches!(self, Self::Attach { source, .. } if source.raw_os_error() == Some(libc::ENODEV))
    }
}

/// A program at a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hook {
    pub device: u32,
    /// One of `TC_PROGRAMS`, which implies the direction.
    pub program: &'static str,
}

impl Hook {
    pub fn direction(self) -> Direction {
        let program = TC_PROGRAMS.iter().find(|program| program.name == self.program);
        program.map_or(Direction::Ingress, |program| program.direction)
    }
}

/// A mechanism that attaches programs to hooks: tcx or clsact.
pub trait Hooks: std::fmt::Debug {
    /// Whether the program with this id is attached, alone of ours.
    fn is_attached(&self, hook: Hook, program_id: u32) -> bool;

    /// Attaches the program, or replaces an earlier one of ours, also one before which it was attached.
    fn attach(&self, hook: Hook, program: LoadedProgram<'_>) -> io::Result<()>;

    /// Attaches the program before an earlier one of ours, which stays.
    fn attach_before_earlier(&self, hook: Hook, program: LoadedProgram<'_>) -> io::Result<()>;

    /// Detaches our program, if there is one.
    fn detach(&self, hook: Hook) -> io::Result<()>;

    /// Hooks that may have a program of ours, attached by any agent.
    fn attached(&self) -> io::Result<Vec<Hook>>;
}
