//! The content of all maps, to see that nothing was written.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hasher as _},
    io,
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
};

use anyhow::{Context as _, Result, ensure};
use proxy_ebpf::abi::{MAPS, MapKind, MapSpec};

use super::fixture::ProgramFixture;

const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
/// Elements of one call.
const BATCH: usize = 4096;
/// The longest position in a map: a key of a trie.
const POSITION: usize = 64;

/// The head of `union bpf_attr` for batches.
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// A digest of each pinned map, with keys, values and times, and its number of elements.
#[derive(Debug, PartialEq, Eq)]
pub struct Dump(BTreeMap<&'static str, (u64, usize)>);

impl Dump {
    pub fn of(fixture: &ProgramFixture) -> Result<Self> {
        let digest = |spec: &MapSpec| {
            let map = fixture.map(spec.name)?;
            digest(map.fd().as_fd().as_raw_fd(), spec).with_context(|| format!("cannot read {}", spec.name))
        };
        // Storage of sockets and sockets by number have no elements that can be listed; no sockets are here.
        let listed =
            MAPS.iter().filter(|spec| !matches!(spec.kind, MapKind::SocketStorage | MapKind::SockMap));
        Ok(Self(listed.map(|spec| Ok((spec.name, digest(spec)?))).collect::<Result<_>>()?))
    }

    pub fn ensure_same(&self, other: &Self) -> Result<()> {
        let differing: Vec<_> =
            self.0.iter().filter(|(name, digest)| other.0.get(*name) != Some(digest)).collect();
        ensure!(differing.is_empty(), "written: {differing:?}");
        Ok(())
    }
}

fn digest(map: RawFd, spec: &MapSpec) -> io::Result<(u64, usize)> {
    let cpus = if spec.kind == MapKind::PerCpuArray { possible_cpus() } else { 1 };
    let value = spec.value.next_multiple_of(if cpus > 1 { 8 } else { 1 }) * cpus;
    let (mut keys, mut values) = (vec![0_u8; spec.key * BATCH], vec![0_u8; value * BATCH]);
    let mut position = [0_u8; POSITION];
    let at = position.as_mut_ptr().expose_provenance() as u64;
    let (mut hasher, mut total) = (DefaultHasher::new(), 0);
    loop {
        let mut attr = Batch {
            in_batch: if total == 0 { 0 } else { at },
            out_batch: at,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: BATCH as u32,
            map: map as u32,
            ..Batch::default()
        };
        // SAFETY: `attr` is valid for its size, and its addresses are of buffers of the sizes that the map has.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attr, size_of::<Batch>()) };
        let error = io::Error::last_os_error();
        let read = attr.count as usize;
        if result < 0 && error.raw_os_error() != Some(libc::ENOENT) {
            return Err(error);
        }
        hasher.write(&keys[..read * spec.key]);
        hasher.write(&values[..read * value]);
        total += read;
        if result < 0 {
            return Ok((hasher.finish(), total));
        }
    }
}

/// Of the kernel's list of CPUs, `0-3`, the number.
fn possible_cpus() -> usize {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    let last = text.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<usize>().ok());
    last.map_or(1, |last| last + 1)
}
