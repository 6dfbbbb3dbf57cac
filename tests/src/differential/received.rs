//! Packets as devices hand them to the stack: with a VLAN tag beside the packet, or of several segments.
//!
//! BPF_PROG_TEST_RUN cannot set a tag, so a small program sets it and tail-calls the one to run.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};

/// The head of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
}

/// The head of `union bpf_attr` for BPF_MAP_CREATE.
#[repr(C)]
#[derive(Default)]
struct Create {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
}

/// The head of `union bpf_attr` for BPF_MAP_UPDATE_ELEM.
#[repr(C)]
#[derive(Default)]
struct Update {
    map: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

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
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
}

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const SCHED_CLS: u32 = 3;
const PROG_ARRAY: u32 = 3;
/// The verdict of the small program itself, if the tail call fails.
const NOT_CALLED: i32 = 99;

/// The most bytes that a program adds to a packet.
const LONGEST_ANSWER: usize = 128;

/// A program that sets a VLAN tag and calls another program.
#[derive(Debug)]
pub struct Tagged {
    first: OwnedFd,
    /// Holds the other program.
    _programs: OwnedFd,
}

impl Tagged {
    /// `tag`: the TCI.
    pub fn new(program: BorrowedFd<'_>, tag: u16) -> Result<Self> {
        let programs = array_of(program).context("cannot create an array of programs")?;
        let first = load(tag, &programs).context("cannot load the program that sets the tag")?;
        Ok(Self { first, _programs: programs })
    }

    /// Runs the program on a packet whose tag the kernel has moved out of the frame. Returns its verdict and the frame
    /// afterwards, without the tag.
    pub fn run(&self, frame: &[u8]) -> Result<(i32, Vec<u8>)> {
        let ran = test_run(self.first.as_raw_fd(), frame, &[]).context("cannot run a program")?;
        ensure!(ran.0 != NOT_CALLED, "the tail call failed");
        Ok(ran)
    }
}

/// Runs a tc program on a packet at a device. Returns its verdict and the packet afterwards.
pub fn run_at(program: BorrowedFd<'_>, device: u32, packet: &[u8]) -> Result<(i32, Vec<u8>)> {
    /// Offset in `struct __sk_buff`.
    const INTERFACE: usize = 40;
    let mut context = [0; INTERFACE + 4];
    context[INTERFACE..].copy_from_slice(&device.to_ne_bytes());
    Ok(test_run(program.as_raw_fd(), packet, &context)?)
}

/// Runs a tc program on a packet that stands for several segments with this many bytes of payload each.
pub fn run_segments(program: BorrowedFd<'_>, payload: u32, frame: &[u8]) -> Result<(i32, Vec<u8>)> {
    /// Offsets in `struct __sk_buff`.
    const GSO_SEGMENTS: usize = 164;
    const GSO_SIZE: usize = 176;
    let mut context = [0; GSO_SIZE + 4];
    context[GSO_SEGMENTS..GSO_SEGMENTS + 4].copy_from_slice(&2_u32.to_ne_bytes());
    context[GSO_SIZE..].copy_from_slice(&payload.to_ne_bytes());
    Ok(test_run(program.as_raw_fd(), frame, &context)?)
}

fn test_run(program: i32, frame: &[u8], context: &[u8]) -> io::Result<(i32, Vec<u8>)> {
    let mut out = vec![0_u8; frame.len() + LONGEST_ANSWER];
    let size = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let mut attr = TestRun {
        program: program.cast_unsigned(),
        size_in: size(frame.len()),
        size_out: size(out.len()),
        data_in: address(frame.as_ptr()),
        data_out: out.as_mut_ptr().expose_provenance() as u64,
        context_size_in: size(context.len()),
        context_in: if context.is_empty() { 0 } else { address(context.as_ptr()) },
        ..TestRun::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut attr)?;
    out.truncate(attr.size_out as usize);
    Ok((attr.verdict.cast_signed(), out))
}

fn array_of(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = Create { kind: PROG_ARRAY, key: 4, value: 4, entries: 1 };
    let map = owned(bpf(BPF_MAP_CREATE, &mut attr)?);
    let (key, value) = (0_u32, program.as_raw_fd());
    let mut attr = Update {
        map: map.as_raw_fd().cast_unsigned(),
        key: address(&raw const key),
        value: address(&raw const value),
        ..Update::default()
    };
    bpf(BPF_MAP_UPDATE, &mut attr)?;
    Ok(map)
}

fn load(tag: u16, programs: &OwnedFd) -> io::Result<OwnedFd> {
    let code = code(tag, programs.as_raw_fd());
    let mut attr = Load {
        kind: SCHED_CLS,
        instructions: u32::try_from(code.len()).unwrap_or(u32::MAX),
        code: address(code.as_ptr()),
        license: address(c"GPL".as_ptr()),
    };
    bpf(BPF_PROG_LOAD, &mut attr).map(owned)
}

/// Sets the tag, then tail-calls the first program of the array.
fn code(tag: u16, programs: i32) -> Vec<u64> {
    const VLAN_PUSH: i32 = 18;
    const TAIL_CALL: i32 = 12;
    const VLAN: u16 = 0x8100;
    // Register 1 is the context, 6 is kept across calls.
    let mut code = vec![move_register(6, 1), move_number(2, VLAN.to_be().into()), move_number(3, tag.into())];
    code.extend([call(VLAN_PUSH), move_register(1, 6)]);
    code.extend(load_map(2, programs));
    code.extend([move_number(3, 0), call(TAIL_CALL), move_number(0, NOT_CALLED), EXIT]);
    code
}

const EXIT: u64 = 0x95;

/// An instruction in the memory layout of the kernel's `struct bpf_insn`.
fn instruction(code: u8, destination: u8, source: u8, number: i32) -> u64 {
    u64::from(code) | u64::from(destination | source << 4) << 8 | u64::from(number.cast_unsigned()) << 32
}

fn move_register(destination: u8, source: u8) -> u64 {
    instruction(0xbf, destination, source, 0)
}

fn move_number(destination: u8, number: i32) -> u64 {
    instruction(0xb7, destination, 0, number)
}

fn call(helper: i32) -> u64 {
    instruction(0x85, 0, 0, helper)
}

/// The address of a map, by its descriptor.
fn load_map(destination: u8, map: i32) -> [u64; 2] {
    [instruction(0x18, destination, 1, map), 0]
}

fn address<T>(of: *const T) -> u64 {
    of.expose_provenance() as u64
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the callers pass a new descriptor without another owner.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn bpf<A>(command: libc::c_int, attr: &mut A) -> io::Result<i32> {
    // SAFETY: `attr` is one of the structs above, valid for its size, and the memory at its addresses outlives
    // the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
