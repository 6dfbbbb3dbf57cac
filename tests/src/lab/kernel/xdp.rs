//! An XDP program that passes all packets: a foreign program at a hook of the agent.

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;

use crate::lab::kernel::netns::Netns;

/// From linux/bpf.h.
const LOAD: libc::c_int = 5;
const LINK: libc::c_int = 28;
const XDP: u32 = 6;
const AT_XDP: u32 = 37;
const IN_DRIVER: u32 = 1 << 2;
/// `r0 = XDP_PASS; exit`, eight bytes each.
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];

#[repr(C)]
#[derive(Default)]
struct Program {
    kind: u32,
    instructions: u32,
    first: u64,
    license: u64,
    rest: [u64; 8],
}

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
        let program = load().context("cannot load a program")?;
        let device = if_nametoindex(device)?;
        let raw = std::os::fd::AsRawFd::as_raw_fd(&program).cast_unsigned();
        let link = Link { program: raw, device, hook: AT_XDP, flags: IN_DRIVER, ..Link::default() };
        bpf(LINK, &link).context("cannot attach a program")
    })
}

fn load() -> io::Result<OwnedFd> {
    let program = Program {
        kind: XDP,
        instructions: 2,
        first: PASS.as_ptr().expose_provenance() as u64,
        license: c"GPL".as_ptr().expose_provenance() as u64,
        ..Program::default()
    };
    bpf(LOAD, &program)
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are complete, and the memory that they point to is static.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: on success both commands return a new descriptor without another owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
