//! A program of two instructions, run as the others are: its time is the cost of measuring.

use std::{
    io,
    os::fd::{AsFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::differential::test_run::test_run;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramType {
    Tc,
    Xdp,
}

impl ProgramType {
    /// The program type of `enum bpf_prog_type`, and a verdict that passes packets.
    fn numbers(self) -> (u32, u64) {
        match self {
            Self::Tc => (3, 0),
            Self::Xdp => (6, 2),
        }
    }
}

/// The head of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
}

const BPF_PROG_LOAD: libc::c_int = 5;

pub struct Empty(OwnedFd);

impl Empty {
    pub fn load(kind: ProgramType) -> Result<Self> {
        /// `r0 = verdict` and `exit`, in the memory layout of the kernel's `struct bpf_insn`.
        const MOVE: u64 = 0xb7;
        const EXIT: u64 = 0x95;
        let (kind, verdict) = kind.numbers();
        let code = [MOVE | verdict << 32, EXIT];
        let mut attr = Load {
            kind,
            instructions: 2,
            code: code.as_ptr().expose_provenance() as u64,
            license: c"GPL".as_ptr().expose_provenance() as u64,
        };
        let fd = bpf(BPF_PROG_LOAD, &mut attr).context("cannot load an empty program")?;
        // SAFETY: on success the call returns a new descriptor without another owner.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Runs it once. Returns the time by the kernel's clock.
    pub fn run(&self, packet: &[u8]) -> Result<Duration> {
        Ok(test_run(self.0.as_fd(), packet).context("cannot run an empty program")?.took)
    }
}

fn bpf<A>(command: libc::c_int, attr: &mut A) -> io::Result<i32> {
    // SAFETY: `attr` is one of the structs above, valid for its size, and the memory at its addresses outlives
    // the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
