//! BPF_PROG_TEST_RUN by descriptor, which several threads may do at once.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    time::Duration,
};

/// The head of `union bpf_attr` for BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    verdict: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// The result of one run.
pub struct Ran {
    pub action: i32,
    pub packet: Vec<u8>,
    /// By the kernel's clock.
    pub took: Duration,
}

/// Runs a program once on a packet.
pub fn test_run(program: BorrowedFd<'_>, packet: &[u8]) -> io::Result<Ran> {
    const BPF_PROG_TEST_RUN: libc::c_int = 10;
    let mut out = vec![0_u8; packet.len() + 128];
    let size =
        |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let mut attr = TestRun {
        program: program.as_raw_fd().cast_unsigned(),
        size_in: size(packet)?,
        size_out: size(&out)?,
        data_in: packet.as_ptr().expose_provenance() as u64,
        data_out: out.as_mut_ptr().expose_provenance() as u64,
        repeat: 1,
        ..TestRun::default()
    };
    // SAFETY: `attr` is valid for its size, and the memory at its addresses outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attr, size_of::<TestRun>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    out.truncate(attr.size_out as usize);
    let took = Duration::from_nanos(attr.duration.into());
    Ok(Ran { action: attr.verdict.cast_signed(), packet: out, took })
}
