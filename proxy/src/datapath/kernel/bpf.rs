//! Commands of bpf(2) that aya lacks.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::Pod;

/// Commands of bpf(2), from `enum bpf_cmd`.
#[derive(Clone, Copy)]
enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    ProgramLoad = 5,
    ObjectPin = 6,
    ObjectGet = 7,
    ProgramTestRun = 10,
    InfoByFd = 15,
    ProgramQuery = 16,
    MapLookupBatch = 24,
    MapUpdateBatch = 26,
    LinkCreate = 28,
    LinkUpdate = 29,
    IteratorCreate = 33,
    LinkDetach = 34,
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct MapUpdate {
    map_fd: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The head; the rest is for programs with BTF, offload or a log.
#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
}

#[repr(C)]
#[derive(Default)]
struct ProgramTestRun {
    program_fd: u32,
    verdict: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    /// The length of a `struct __sk_buff`, or of its head, and its address.
    size_context: u32,
    size_context_out: u32,
    context: u64,
}

#[repr(C)]
#[derive(Default)]
struct MapBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ObjectAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    program_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    /// The program or link to attach before or after; 0: the first or the last position.
    relative: u32,
    zero: u32,
    expected_revision: u64,
}

/// The link of an iterator over a map.
#[repr(C)]
#[derive(Default)]
struct IteratorLinkCreate {
    program_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    /// The address of a `union bpf_iter_link_info`, which begins with the map, and its length.
    info: u64,
    info_len: u32,
    zero: u32,
}

#[repr(C)]
#[derive(Default)]
struct IteratorCreate {
    link_fd: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgramQuery {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    count: u32,
    zero: u32,
    /// Not requested, but the kernel writes the last of these whatever size it is given.
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The head of `struct bpf_link_info`. The fields after the ids depend on the kind of link.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program_id: u32,
    zero: u32,
    /// A cgroup: the two halves of its id in native order. A device: its ifindex and the attach type.
    target: [u32; 4],
}

/// Program and target of a cgroup link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupLinkInfo {
    pub program_id: u32,
    /// The inode number of the cgroup's directory; 0 once the cgroup is gone.
    pub cgroup_id: u64,
}

/// Program and target of a device link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLinkInfo {
    pub program_id: u32,
    /// 0 once the device is gone.
    pub device: u32,
}

/// The attach types of tcx, from `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcxHook {
    Ingress = 46,
    Egress = 47,
}

/// From `enum bpf_attach_type`.
const XDP: u32 = 37;

/// XDP attach mode: `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpFlags {
    SkbMode = 1 << 1,
    DrvMode = 1 << 2,
}

/// From `enum bpf_link_type`.
const LINK_TYPE_XDP: u32 = 6;
const LINK_TYPE_TCX: u32 = 11;
/// Attach before the given program, or before all others.
const BPF_F_BEFORE: u32 = 1 << 3;

/// Opens a pinned object.
pub fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjectAttr { pathname: path.as_ptr() as u64, ..ObjectAttr::default() };
    let fd = bpf(Command::ObjectGet, &mut attr)?;
    // SAFETY: on success BPF_OBJ_GET returns a new descriptor without another owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins a map, a program or a link. An object may have several pins.
pub fn object_pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr =
        ObjectAttr { pathname: path.as_ptr() as u64, bpf_fd: raw(object), ..ObjectAttr::default() };
    bpf(Command::ObjectPin, &mut attr).map(drop)
}

/// Replaces the program of a link, atomically for packets and sockets.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate { link_fd: raw(link), new_prog_fd: raw(program), ..LinkUpdate::default() };
    bpf(Command::LinkUpdate, &mut attr).map(drop)
}

/// Detaches the program at once: the kernel detaches a closed or unpinned link only some time later.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(Command::LinkDetach, &mut raw(link)).map(drop)
}

pub fn cgroup_link(link: BorrowedFd<'_>) -> io::Result<CgroupLinkInfo> {
    let LinkInfo { program_id, target: [first, second, ..], .. } = link_info(link)?;
    let (low, high) = if cfg!(target_endian = "little") { (first, second) } else { (second, first) };
    Ok(CgroupLinkInfo { program_id, cgroup_id: u64::from(high) << 32 | u64::from(low) })
}

/// Errors: the link is of another kind.
pub fn device_link(link: BorrowedFd<'_>) -> io::Result<DeviceLinkInfo> {
    let LinkInfo { kind, program_id, target: [device, ..], .. } = link_info(link)?;
    if kind == LINK_TYPE_TCX || kind == LINK_TYPE_XDP {
        Ok(DeviceLinkInfo { program_id, device })
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

/// The id of the program of a link.
pub fn program_of(link: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(link_info(link)?.program_id)
}

fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let mut attr = InfoByFd {
        bpf_fd: raw(link),
        info_len: size_of::<LinkInfo>() as u32,
        info: (&raw mut info).expose_provenance() as u64,
    };
    bpf(Command::InfoByFd, &mut attr)?;
    Ok(info)
}

/// Whether the kernel has tcx: a kernel without it rejects the query.
pub fn has_tcx() -> bool {
    /// The ifindex of the loopback device in every network namespace.
    const LOOPBACK: u32 = 1;
    let attach_type = TcxHook::Ingress as u32;
    let mut attr = ProgramQuery { target: LOOPBACK, attach_type, ..ProgramQuery::default() };
    match bpf(Command::ProgramQuery, &mut attr) {
        Ok(_) => true,
        // No program is attached, or the device is missing.
        Err(error) => matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)),
    }
}

/// The hooks of a cgroup for sockets, from `enum bpf_attach_type`.
pub const CGROUP_HOOKS: [(&str, u32); 21] = [
    ("ingress", 0),
    ("egress", 1),
    ("sock_create", 2),
    ("sock_ops", 3),
    ("bind4", 8),
    ("bind6", 9),
    ("connect4", 10),
    ("connect6", 11),
    ("post_bind4", 12),
    ("post_bind6", 13),
    ("sendmsg4", 14),
    ("sendmsg6", 15),
    ("recvmsg4", 19),
    ("recvmsg6", 20),
    ("getsockopt", 21),
    ("setsockopt", 22),
    ("getpeername4", 29),
    ("getpeername6", 30),
    ("getsockname4", 31),
    ("getsockname6", 32),
    ("sock_release", 34),
];

/// The ids of the programs that run at a hook of a cgroup, also those of its parents, in their order.
pub fn programs_at_cgroup(cgroup: BorrowedFd<'_>, hook: u32) -> io::Result<Vec<u32>> {
    /// `BPF_F_QUERY_EFFECTIVE`
    const EFFECTIVE: u32 = 1;
    /// The kernel's limit for one cgroup is 64.
    const MAX: usize = 256;
    let mut ids = vec![0_u32; MAX];
    let mut attr = ProgramQuery {
        target: raw(cgroup),
        attach_type: hook,
        query_flags: EFFECTIVE,
        program_ids: ids.as_mut_ptr().expose_provenance() as u64,
        count: MAX as u32,
        ..ProgramQuery::default()
    };
    bpf(Command::ProgramQuery, &mut attr)?;
    ids.truncate(attr.count as usize);
    Ok(ids)
}

/// Attaches a program before all others at a hook of a device, for the lifetime of the link.
pub fn link_tcx(program: BorrowedFd<'_>, device: u32, hook: TcxHook) -> io::Result<OwnedFd> {
    link_create(LinkCreate {
        program_fd: raw(program),
        target: device,
        attach_type: hook as u32,
        flags: BPF_F_BEFORE,
        ..LinkCreate::default()
    })
}

/// Attaches an XDP program to a device, for the lifetime of the link. Errors: another one is attached.
pub fn link_xdp(program: BorrowedFd<'_>, device: u32, mode: XdpFlags) -> io::Result<OwnedFd> {
    link_create(LinkCreate {
        program_fd: raw(program),
        target: device,
        attach_type: XDP,
        flags: mode as u32,
        ..LinkCreate::default()
    })
}

fn link_create(mut attr: LinkCreate) -> io::Result<OwnedFd> {
    let fd = bpf(Command::LinkCreate, &mut attr)?;
    // SAFETY: on success BPF_LINK_CREATE returns a new descriptor without another owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Links an iterator program to the map over which it is to run. Nothing runs yet.
pub fn link_iterator(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// From `enum bpf_attach_type`.
    const TRACE_ITER: u32 = 28;
    let info = raw(map);
    let mut attr = IteratorLinkCreate {
        program_fd: raw(program),
        attach_type: TRACE_ITER,
        info: (&raw const info).addr() as u64,
        info_len: size_of_val(&info) as u32,
        ..IteratorLinkCreate::default()
    };
    let fd = bpf(Command::LinkCreate, &mut attr)?;
    // SAFETY: on success BPF_LINK_CREATE returns a new descriptor without another owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A run of an iterator: reading the file to its end runs the program for each element.
pub fn iterator(link: BorrowedFd<'_>) -> io::Result<File> {
    let fd = bpf(Command::IteratorCreate, &mut IteratorCreate { link_fd: raw(link), flags: 0 })?;
    // SAFETY: on success BPF_ITER_CREATE returns a new descriptor without another owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// Creates a map without data, to be pinned as a marker.
pub fn marker_map() -> io::Result<OwnedFd> {
    map_create(MapCreate {
        map_type: ARRAY,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        ..MapCreate::default()
    })
}

/// Loads a program of some instructions, in the memory layout of `struct bpf_insn`.
pub fn load_program(code: &[u64]) -> io::Result<OwnedFd> {
    /// From `enum bpf_prog_type`: the kind for tc.
    const SCHED_CLS: u32 = 3;
    let mut attr = ProgramLoad {
        kind: SCHED_CLS,
        instructions: u32::try_from(code.len()).unwrap_or(u32::MAX),
        code: code.as_ptr().expose_provenance() as u64,
        license: c"GPL".as_ptr().expose_provenance() as u64,
    };
    let fd = bpf(Command::ProgramLoad, &mut attr)?;
    // SAFETY: on success BPF_PROG_LOAD returns a new descriptor without another owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs a program once, without a packet that matters. Returns the lower half of its `r0`.
pub fn run_program(program: BorrowedFd<'_>) -> io::Result<u32> {
    /// At least an Ethernet header.
    const PACKET: [u8; 14] = [0; 14];
    let mut attr = ProgramTestRun {
        program_fd: raw(program),
        size_in: PACKET.len() as u32,
        data_in: PACKET.as_ptr().expose_provenance() as u64,
        ..ProgramTestRun::default()
    };
    bpf(Command::ProgramTestRun, &mut attr)?;
    Ok(attr.verdict)
}

/// Runs a tc program once on a frame, as a packet of a device of this network namespace. Returns the lower half of its `r0`.
pub fn run_program_on(program: BorrowedFd<'_>, frame: &[u8], device: u32) -> io::Result<u32> {
    /// The offset of the device in `struct __sk_buff`.
    const DEVICE: usize = 40;
    let mut context = [0; DEVICE + 4];
    context[DEVICE..].copy_from_slice(&device.to_ne_bytes());
    let mut attr = ProgramTestRun {
        program_fd: raw(program),
        size_in: u32::try_from(frame.len()).unwrap_or(u32::MAX),
        data_in: frame.as_ptr().expose_provenance() as u64,
        size_context: context.len() as u32,
        context: context.as_ptr().expose_provenance() as u64,
        ..ProgramTestRun::default()
    };
    bpf(Command::ProgramTestRun, &mut attr)?;
    Ok(attr.verdict)
}

/// Reads an element of a map. `key` and `value` have the sizes of the map. Errors: there is no such element.
pub fn map_lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    let mut attr = MapUpdate {
        map_fd: raw(map),
        key: key.as_ptr().expose_provenance() as u64,
        value: value.as_mut_ptr().expose_provenance() as u64,
        ..MapUpdate::default()
    };
    bpf(Command::MapLookup, &mut attr).map(drop)
}

/// Waits until every running program has ended. Takes milliseconds: call it from a thread that may block.
///
/// membarrier's global command is `synchronize_rcu`, but returns at once on a machine with one CPU, where a
/// program may be preempted all the same; and kernels with `nohz_full` reject it. In those cases an update of
/// a map of maps does it: the kernel waits for running programs before it returns
/// (`maybe_wait_bpf_programs`).
pub fn grace_period() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: sysconf takes no pointers.
    let has_many_cpus = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) } > 1;
    // SAFETY: membarrier takes no pointers.
    if has_many_cpus && unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } == 0 {
        return Ok(());
    }
    grace_period_by_map()
}

/// Map types, from `enum bpf_map_type`.
const ARRAY: u32 = 2;
const ARRAY_OF_MAPS: u32 = 12;

fn grace_period_by_map() -> io::Result<()> {
    let inner = marker_map()?;
    let outer = map_create(MapCreate {
        map_type: ARRAY_OF_MAPS,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        inner_map_fd: raw_owned(&inner),
        ..MapCreate::default()
    })?;
    let (key, value) = (0_u32, raw_owned(&inner));
    let mut attr = MapUpdate {
        map_fd: raw_owned(&outer),
        key: (&raw const key).expose_provenance() as u64,
        value: (&raw const value).expose_provenance() as u64,
        ..MapUpdate::default()
    };
    bpf(Command::MapUpdate, &mut attr).map(drop)
}

/// Writes elements in order. Returns how many were written, and the error that stopped it. Per-CPU maps take
/// one value per CPU for each key.
pub fn map_update_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> (usize, io::Result<()>) {
    debug_assert!(values.len() >= keys.len());
    let mut attr = MapBatch {
        keys: keys.as_ptr().expose_provenance() as u64,
        values: values.as_ptr().expose_provenance() as u64,
        count: u32::try_from(keys.len()).unwrap_or(u32::MAX),
        map_fd: raw(map),
        ..MapBatch::default()
    };
    let result = bpf(Command::MapUpdateBatch, &mut attr).map(drop);
    // A kernel without the command leaves the count unchanged.
    let is_refused = result.as_ref().is_err_and(|_| attr.count as usize == keys.len());
    (if is_refused { 0 } else { attr.count as usize }, result)
}

/// Counts the values of a hash or an array that `is_counted` selects. An element of a hash that is added or removed
/// meanwhile may be missed. `key` and `value` are the sizes of the map.
///
/// Thousands of elements per system call: one by one, the count of a full table would take a tenth of a second; and an
/// array that is mapped for it would count as memory of this process.
pub fn map_count(
    map: BorrowedFd<'_>,
    (key, value): (usize, usize),
    is_counted: impl Fn(&[u8]) -> bool,
) -> io::Result<u32> {
    /// The elements of one call. A longer bucket of a hash would answer ENOSPC.
    const BATCH: usize = 4096;
    let (mut keys, mut values) = (vec![0_u8; key * BATCH], vec![0_u8; value * BATCH]);
    // The next bucket of a hash, or the last key of an array.
    let mut position = 0_u32;
    let mut total = 0_u32;
    for call in 0_u64.. {
        let at = (&raw mut position).expose_provenance() as u64;
        let mut attr = MapBatch {
            in_batch: if call == 0 { 0 } else { at },
            out_batch: at,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: BATCH as u32,
            map_fd: raw(map),
            ..MapBatch::default()
        };
        let is_last = match bpf(Command::MapLookupBatch, &mut attr) {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        let read = values.chunks_exact(value.max(1)).take(attr.count as usize);
        total += u32::try_from(read.filter(|value| is_counted(value)).count()).unwrap_or_default();
        if is_last {
            break;
        }
    }
    Ok(total)
}

fn map_create(mut attr: MapCreate) -> io::Result<OwnedFd> {
    let fd = bpf(Command::MapCreate, &mut attr)?;
    // SAFETY: on success BPF_MAP_CREATE returns a new descriptor without another owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bpf(2). `attr` is one of the structs above, which mirror the head of `union bpf_attr` for the command; the
/// kernel takes the rest as zeroes.
fn bpf<A>(command: Command, attr: &mut A) -> io::Result<i32> {
    // SAFETY: `attr` is valid for its size, and the addresses in it are of values that outlive the call in
    // the functions above.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, &raw mut *attr, size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn raw_owned(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd() as u32
}
