//! A program at a cgroup that tolerates no other below it, as some software attaches its own.

use std::{
    fs::File,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};

use crate::lab::kernel::{bpf, cgroup::Cgroup};

/// From linux/bpf.h.
const ATTACH: libc::c_int = 8;
const DETACH: libc::c_int = 9;
const SOCKET_ADDRESS: u32 = 18;
const AT_CONNECT4: u32 = 10;
/// The system call goes on.
const ALLOW: u8 = 1;

#[repr(C)]
struct Attachment {
    cgroup: u32,
    program: u32,
    hook: u32,
    flags: u32,
}

/// Detached when dropped.
#[derive(Debug)]
pub struct SoleProgram {
    cgroup: File,
    program: OwnedFd,
}

impl SoleProgram {
    /// Attaches to `connect4` without `BPF_F_ALLOW_MULTI`: from then on groups below can attach no program there.
    pub fn attach(cgroup: &Cgroup) -> Result<Self> {
        let program = bpf::load(SOCKET_ADDRESS, AT_CONNECT4, ALLOW).context("cannot load a program")?;
        let cgroup = File::open(cgroup.path()).context("cannot open the cgroup")?;
        let attached = Self { cgroup, program };
        bpf::call(ATTACH, &attached.attachment()).context("cannot attach a program")?;
        Ok(attached)
    }

    fn attachment(&self) -> Attachment {
        let raw = |fd: i32| fd.cast_unsigned();
        let (cgroup, program) = (raw(self.cgroup.as_raw_fd()), raw(self.program.as_raw_fd()));
        Attachment { cgroup, program, hook: AT_CONNECT4, flags: 0 }
    }
}

impl Drop for SoleProgram {
    fn drop(&mut self) {
        if let Err(error) = bpf::call(DETACH, &self.attachment()) {
            eprintln!("cannot detach a program: {error}");
        }
    }
}
