//! A hook of a device, and the contract of the two ways to attach a program to it.

use std::{io, os::fd::BorrowedFd};

use proxy_ebpf::abi::{Direction, TC_PROGRAMS};

use crate::datapath::attach::load::LoadError;

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
    #[error("cannot tell what is attached to devices")]
    List(#[source] io::Error),
    #[error("cannot tell which programs stand at {0}")]
    Query(String, #[source] aya::programs::ProgramError),
}

/// A program's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hook {
    pub device: u32,
    /// One of `TC_PROGRAMS`; it says the direction.
    pub program: &'static str,
}

impl Hook {
    pub fn direction(self) -> Direction {
        let program = TC_PROGRAMS.iter().find(|program| program.name == self.program);
        program.map_or(Direction::Ingress, |program| program.direction)
    }
}

/// One way of putting programs at hooks.
pub trait Hooks: std::fmt::Debug {
    /// Whether our program stands there.
    fn is_attached(&self, hook: Hook, program_id: u32) -> bool;

    /// Puts it there, in the place of an earlier one of ours.
    fn attach(&self, hook: Hook, program: BorrowedFd<'_>) -> io::Result<()>;

    /// Takes ours away, if there is one.
    fn detach(&self, hook: Hook) -> io::Result<()>;

    /// Where something of ours may be, left by any agent.
    fn attached(&self) -> io::Result<Vec<Hook>>;
}
