//! An XDP program that passes all packets: a foreign program at a hook of the agent.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;

use crate::lab::kernel::{bpf, netns::Netns};

/// From linux/bpf.h.
const LINK: libc::c_int = 28;
const XDP: u32 = 6;
const AT_XDP: u32 = 37;
const IN_DRIVER: u32 = 1 << 2;
const PASS: u8 = 2;

#[repr(C)]
#[derive(Default)]
struct Link {
    program: u32,
    device: u32,
    hook: u32,
    flags: u32,
    rest: [u64; 4],
}

/// It is attached until the result is dropped.
pub fn pass_all(netns: &Netns, device: &str) -> Result<OwnedFd> {
    netns.run(|| {
        let program = bpf::load(XDP, 0, PASS).context("cannot load a program")?;
        let device = if_nametoindex(device)?;
        let raw = program.as_raw_fd().cast_unsigned();
        let link = Link { program: raw, device, hook: AT_XDP, flags: IN_DRIVER, ..Link::default() };
        let fd = bpf::call(LINK, &link).context("cannot attach a program")?;
        // SAFETY: on success the command returns a new descriptor without another owner.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    })
}
