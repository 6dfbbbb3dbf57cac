//! The few system calls that aya lacks.

use std::{
    ffi::CString,
    io,
    marker::PhantomData,
    net::{Ipv4Addr, UdpSocket},
    ops::RangeInclusive,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::Pod;

/// Commands of bpf(2), from `enum bpf_cmd`.
#[derive(Clone, Copy)]
enum Command {
    MapCreate = 0,
    MapUpdate = 2,
    ObjectPin = 6,
    ObjectGet = 7,
    InfoByFd = 15,
    ProgramQuery = 16,
    MapUpdateBatch = 26,
    LinkCreate = 28,
    LinkUpdate = 29,
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
    /// A program or a link to stand before or after; none: the first or the last place.
    relative: u32,
    zero: u32,
    expected_revision: u64,
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
    /// Not asked for, but the kernel writes the last of these whatever the size it is told.
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The head of `struct bpf_link_info`. What follows the ids depends on the kind of link.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program_id: u32,
    zero: u32,
    /// A cgroup: the two halves of its id, as they lie in memory. A device: its index, and the attach type.
    target: [u32; 4],
}

/// What a link to a cgroup leads from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupLinkInfo {
    pub program_id: u32,
    /// The inode number of the cgroup's directory; 0 once the cgroup is gone.
    pub cgroup_id: u64,
}

/// What a link to a device leads from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLinkInfo {
    pub program_id: u32,
    /// 0 once the device is gone.
    pub device: u32,
}

/// The values of `enum bpf_attach_type` for the two hooks of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcxHook {
    Ingress = 46,
    Egress = 47,
}

/// From `enum bpf_attach_type`.
const XDP: u32 = 37;

/// Where a device runs an XDP program: `XDP_FLAGS_DRV_MODE` and `XDP_FLAGS_SKB_MODE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpFlags {
    SkbMode = 1 << 1,
    DrvMode = 1 << 2,
}

/// From `enum bpf_link_type`.
const LINK_TYPE_XDP: u32 = 6;
const LINK_TYPE_TCX: u32 = 11;
/// Before the program that is named, or before all others.
const BPF_F_BEFORE: u32 = 1 << 3;

/// Opens what is pinned at a path.
pub fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjectAttr { pathname: path.as_ptr() as u64, ..ObjectAttr::default() };
    let fd = bpf(Command::ObjectGet, &mut attr)?;
    // SAFETY: on success BPF_OBJ_GET returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins a map, a program or a link under a path; it may be pinned under others already.
pub fn object_pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr =
        ObjectAttr { pathname: path.as_ptr() as u64, bpf_fd: raw(object), ..ObjectAttr::default() };
    bpf(Command::ObjectPin, &mut attr).map(drop)
}

/// Puts another program behind a link; no packet or connect meets a moment without one.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate { link_fd: raw(link), new_prog_fd: raw(program), ..LinkUpdate::default() };
    bpf(Command::LinkUpdate, &mut attr).map(drop)
}

/// Takes the program from its hook, now: the kernel detaches a link that is merely closed or unpinned some time later.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(Command::LinkDetach, &mut raw(link)).map(drop)
}

pub fn cgroup_link(link: BorrowedFd<'_>) -> io::Result<CgroupLinkInfo> {
    let LinkInfo { program_id, target: [first, second, ..], .. } = link_info(link)?;
    let (low, high) = if cfg!(target_endian = "little") { (first, second) } else { (second, first) };
    Ok(CgroupLinkInfo { program_id, cgroup_id: u64::from(high) << 32 | u64::from(low) })
}

/// Fails for links of another kind.
pub fn device_link(link: BorrowedFd<'_>) -> io::Result<DeviceLinkInfo> {
    let LinkInfo { kind, program_id, target: [device, ..], .. } = link_info(link)?;
    if kind == LINK_TYPE_TCX || kind == LINK_TYPE_XDP {
        Ok(DeviceLinkInfo { program_id, device })
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
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

/// Whether the kernel has tcx: one that does not know the hook refuses the question.
pub fn has_tcx() -> bool {
    /// Every network namespace has its loopback device under this index.
    const LOOPBACK: u32 = 1;
    let attach_type = TcxHook::Ingress as u32;
    let mut attr = ProgramQuery { target: LOOPBACK, attach_type, ..ProgramQuery::default() };
    match bpf(Command::ProgramQuery, &mut attr) {
        Ok(_) => true,
        // Nothing is attached there; or there is no such device.
        Err(error) => matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)),
    }
}

/// Puts a program before all others at a hook of a device, for as long as the link lives.
pub fn link_tcx(program: BorrowedFd<'_>, device: u32, hook: TcxHook) -> io::Result<OwnedFd> {
    link_create(LinkCreate {
        program_fd: raw(program),
        target: device,
        attach_type: hook as u32,
        flags: BPF_F_BEFORE,
        ..LinkCreate::default()
    })
}

/// Gives a device an XDP program, for as long as the link lives; fails where one stands already.
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
    // SAFETY: on success BPF_LINK_CREATE returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A map that holds nothing: something to pin where the name of the pin is the message.
pub fn marker_map() -> io::Result<OwnedFd> {
    map_create(MapCreate {
        map_type: ARRAY,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        ..MapCreate::default()
    })
}

/// Identifies the network namespace of this thread, as the programs know it.
pub fn netns_cookie() -> io::Result<u64> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the socket is open, and `cookie` and `length` are valid for what the kernel writes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// From asm-generic/socket.h, since Linux 5.14; libc has it for some targets only.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Waits until every program that runs now has ended. Takes milliseconds: call it from a thread that may block.
///
/// membarrier's global command is `synchronize_rcu`, but returns at once on a machine with one CPU, where a program may
/// be preempted all the same; and kernels with `nohz_full` refuse it. There an update of a map of maps does it: the
/// kernel waits for running programs before it returns (`maybe_wait_bpf_programs`).
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

/// Kinds of map, from `enum bpf_map_type`.
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

/// Writes elements in order; how many were written, and why not all. Maps with a copy for each CPU take as many values
/// for each key.
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
    // A kernel that does not know the command leaves the count as it was.
    let is_refused = result.as_ref().is_err_and(|_| attr.count as usize == keys.len());
    (if is_refused { 0 } else { attr.count as usize }, result)
}

fn map_create(mut attr: MapCreate) -> io::Result<OwnedFd> {
    let fd = bpf(Command::MapCreate, &mut attr)?;
    // SAFETY: on success BPF_MAP_CREATE returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bpf(2). The attributes are one of the structs above, which mirror the head of `union bpf_attr` for the command;
/// the kernel takes the rest as zeroes.
fn bpf<A>(command: Command, attr: &mut A) -> io::Result<i32> {
    // SAFETY: `attr` is valid for its size, and the addresses inside it are of values that live across the call in
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

/// Descriptors below this are what programs are started with.
const FIRST_NON_STDIO: u32 = 3;

/// The table of open files of one thread. All of them are closed with this, in which the end of the thread would be late: it
/// can be joined before the kernel has closed them.
#[derive(Debug)]
pub struct PrivateFdTable(PhantomData<*const ()>);

impl Drop for PrivateFdTable {
    fn drop(&mut self) {
        // Nothing can be done about an error, and the end of the thread is near.
        let _ = close_range(FIRST_NON_STDIO..=u32::MAX, 0);
    }
}

/// Gives this thread a table of open files of its own, with nothing in it but these and what programs are started with.
/// An error leaves it with the table of its process.
pub fn unshare_fd_table(kept: &[RawFd]) -> io::Result<PrivateFdTable> {
    let mut kept: Vec<u32> = kept.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    kept.sort_unstable();
    let after_last = kept.last().map_or(FIRST_NON_STDIO, |last| last + 1);
    close_range(after_last..=u32::MAX, libc::CLOSE_RANGE_UNSHARE)?;
    let mut first = FIRST_NON_STDIO;
    for fd in kept {
        if first < fd {
            close_range(first..=fd - 1, 0)?;
        }
        first = fd + 1;
    }
    Ok(PrivateFdTable(PhantomData))
}

/// The same open file under a number above this one.
pub fn duplicate_above(file: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes three integers.
    let duplicate = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, number.saturating_add(1)) };
    if duplicate < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: on success F_DUPFD_CLOEXEC returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}

fn close_range(descriptors: RangeInclusive<u32>, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: the call takes three integers. It is used for the table of this thread only, of which nobody else knows: whoever
    // owns those descriptors has them in the table that it came from.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, *descriptors.start(), *descriptors.end(), flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
