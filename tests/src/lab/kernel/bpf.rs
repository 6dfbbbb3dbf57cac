//! Loads a program of two instructions: a foreign program for a hook of the agent.

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd},
};

/// From linux/bpf.h.
const LOAD: libc::c_int = 5;
/// `exit`, eight bytes as every instruction.
const EXIT: u64 = 0x0000_0000_0000_0095;

#[repr(C)]
#[derive(Default)]
struct Program {
    kind: u32,
    instructions: u32,
    first: u64,
    license: u64,
    log: [u64; 2],
    version: u32,
    flags: u32,
    name: [u64; 2],
    device: u32,
    hook: u32,
    rest: [u64; 2],
}

/// A program of a kind, for a hook if its kind has several, that returns this number.
pub fn load(kind: u32, hook: u32, returns: u8) -> io::Result<OwnedFd> {
    // `r0 = returns`
    let instructions = [0x0000_0000_0000_00b7 | u64::from(returns) << 32, EXIT];
    let program = Program {
        kind,
        instructions: 2,
        first: instructions.as_ptr().expose_provenance() as u64,
        license: c"GPL".as_ptr().expose_provenance() as u64,
        hook,
        ..Program::default()
    };
    let fd = call(LOAD, &program)?;
    // SAFETY: on success the command returns a new descriptor without another owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bpf(2). The attributes are those of the command, and the memory that they point to lives as long as they do.
pub fn call<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the attributes are complete, as promised, and the kernel reads no more than their size.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    let result = i32::try_from(result).map_err(|_| io::ErrorKind::InvalidData)?;
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
