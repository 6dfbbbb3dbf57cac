//! Opens pinned maps and checks their layout against the table of maps.

use std::{
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, PerCpuArray},
};
use proxy_ebpf::abi::MAPS;

use super::{
    batch::BatchMap,
    mmap_array::{Access, MmapArray},
};
use crate::{datapath::pins::pin_name, reconcile::MapError};

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot open the pinned map {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: aya::maps::MapError,
    },
    #[error(
        "the pinned map {name} has keys of {key} and values of {value} bytes, expected {want_key} and {want_value}"
    )]
    Layout { name: &'static str, key: u32, value: u32, want_key: usize, want_value: usize },
    #[error("cannot map {name} into memory")]
    Map {
        name: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot count the entries of {name}")]
    Count {
        name: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot adopt the counters of connections")]
    Adopt(#[source] Box<MapError>),
    #[error("cannot read the number of CPUs")]
    Cpus(#[source] io::Error),
}

pub fn refused(action: &'static str, map: &'static str) -> impl FnOnce(aya::maps::MapError) -> MapError {
    move |error| MapError::Refused { action, map, source: error.into() }
}

/// A write that failed: a hash without room answers E2BIG, a trie ENOSPC.
pub fn unwritten(map: &'static str, capacity: u32) -> impl FnOnce(aya::maps::MapError) -> MapError {
    move |error| {
        let is_full = io_error(&error).is_some_and(is_full);
        if is_full { MapError::Full { map, capacity } } else { refused("write", map)(error) }
    }
}

/// Whether the kernel refused a write because the map has no room.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::E2BIG))
}

fn io_error(error: &aya::maps::MapError) -> Option<&io::Error> {
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source())
        .find_map(|error| error.downcast_ref())
}

/// An array that could not be mapped into memory.
pub fn unmapped_array(map: &'static str) -> impl FnOnce(io::Error) -> MapError {
    move |error| MapError::Refused { action: "map", map, source: error.into() }
}

pub fn absent_is_fine(result: Result<(), aya::maps::MapError>, map: &'static str) -> Result<(), MapError> {
    match result {
        Ok(()) | Err(aya::maps::MapError::KeyNotFound) => Ok(()),
        Err(error) => Err(refused("remove from", map)(error)),
    }
}

pub fn mapped<T: Pod>(dir: &Path, name: &'static str, access: Access) -> Result<MmapArray<T>, OpenError> {
    let (data, length) = pinned(dir, name)?;
    let fd = data.fd().as_fd().try_clone_to_owned().map_err(|source| OpenError::Map { name, source })?;
    MmapArray::new(fd, length, access).map_err(|source| OpenError::Map { name, source })
}

pub fn batch(dir: &Path, name: &'static str) -> Result<BatchMap, OpenError> {
    let (data, _) = pinned(dir, name)?;
    let fd = data.fd().as_fd().try_clone_to_owned().map_err(|source| OpenError::Map { name, source })?;
    Ok(BatchMap::new(fd))
}

pub fn hash<K: Pod, V: Pod>(dir: &Path, name: &'static str) -> Result<HashMap<MapData, K, V>, OpenError> {
    let (data, _) = pinned(dir, name)?;
    HashMap::try_from(Map::HashMap(data)).map_err(open_error(&dir.join(name)))
}

pub fn lru_hash<K: Pod, V: Pod>(dir: &Path, name: &'static str) -> Result<HashMap<MapData, K, V>, OpenError> {
    let (data, _) = pinned(dir, name)?;
    HashMap::try_from(Map::LruHashMap(data)).map_err(open_error(&dir.join(name)))
}

pub fn per_cpu<V: Pod>(dir: &Path, name: &'static str) -> Result<PerCpuArray<MapData, V>, OpenError> {
    let (data, _) = pinned(dir, name)?;
    PerCpuArray::try_from(Map::PerCpuArray(data)).map_err(open_error(&dir.join(name)))
}

/// Opens a pinned map and checks its layout. Returns its capacity, too.
pub fn pinned(dir: &Path, name: &'static str) -> Result<(MapData, u32), OpenError> {
    let spec = MAPS.iter().find(|spec| spec.name == name).expect("every map is in the table");
    let path = dir.join(pin_name(spec));
    let data = MapData::from_pin(&path).map_err(open_error(&path))?;
    let info = data.info().map_err(open_error(&path))?;
    let (key, value) = (info.key_size(), info.value_size());
    if key as usize != spec.key || value as usize != spec.value {
        return Err(OpenError::Layout { name, key, value, want_key: spec.key, want_value: spec.value });
    }
    Ok((data, info.max_entries()))
}

pub fn open_error(path: &Path) -> impl FnOnce(aya::maps::MapError) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Open { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_without_room_is_full_and_other_errors_are_refusals() {
        for (errno, is_full) in
            [(libc::ENOSPC, true), (libc::E2BIG, true), (libc::ENOMEM, false), (libc::EPERM, false)]
        {
            let io_error = io::Error::from_raw_os_error(errno);
            let error = aya::sys::SyscallError { call: "bpf_map_update_elem", io_error };
            let error = unwritten("SOURCE_RANGES_V4", 9)(error.into());
            assert_eq!(matches!(error, MapError::Full { capacity: 9, .. }), is_full, "{error}");
        }
    }
}
