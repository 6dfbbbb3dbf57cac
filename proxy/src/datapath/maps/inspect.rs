//! Inspection of pinned maps, with or without an agent: no writes, no lock.

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
};

use aya::maps::{MapInfo, MapType};
use proxy_ebpf::abi::{ABI_VERSION, MapKind};

use super::{flows::Flows, kernel_maps::KernelMaps, open::OpenError};
use crate::datapath::pins::{maps_of, versions};

/// From linux/bpf.h: the array may be mapped into user memory.
const BPF_F_MMAPABLE: u32 = 1 << 10;

#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error(
        "no data plane at {dir}: is the agent running? `portreeve run` creates it, --bpffs names another directory",
        dir = .0.display()
    )]
    NoDataPlane(PathBuf),
    #[error(
        "the data plane at {dir} has ABI version {found}, this portreeve reads {ABI_VERSION}: ask the portreeve that runs there",
        dir = dir.display()
    )]
    OtherVersion { dir: PathBuf, found: u32 },
    #[error("no permission to read {dir}: run as root", dir = .0.display())]
    Denied(PathBuf),
    #[error("cannot read {dir}", dir = dir.display())]
    Io {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read the data plane")]
    Open(#[from] OpenError),
    #[error("cannot read the data plane")]
    Unreadable(#[source] Box<dyn Error + Send + Sync>),
}

/// Opens the maps below a pin directory, read-only.
pub fn inspect(dir: &Path) -> Result<KernelMaps, InspectError> {
    open_existing(dir, KernelMaps::inspect)
}

/// Opens the flow tables, read-only.
pub fn inspect_flows(dir: &Path) -> Result<Flows, InspectError> {
    open_existing(dir, Flows::inspect)
}

pub(super) fn open_existing<T>(
    dir: &Path,
    open: impl FnOnce(&Path) -> Result<T, OpenError>,
) -> Result<T, InspectError> {
    let maps = maps_of(dir, ABI_VERSION);
    if let Err(source) = fs::metadata(&maps) {
        return Err(absent(dir, source));
    }
    open(&maps).map_err(|error| match io_error_kind(&error) {
        Some(io::ErrorKind::PermissionDenied) => InspectError::Denied(dir.to_owned()),
        // An earlier agent could not load its programs.
        Some(io::ErrorKind::NotFound) => InspectError::NoDataPlane(dir.to_owned()),
        Some(_) | None => error.into(),
    })
}

/// The kernel's description of a pinned map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinnedMap {
    /// `None`: a map type that is not used here. A `UserHash` is reported as `Hash`: the kernel cannot tell
    /// them apart.
    pub kind: Option<MapKind>,
    pub key: u32,
    pub value: u32,
    pub capacity: u32,
}

/// Describes the map pinned at a path.
#[expect(clippy::wildcard_enum_match_arm, reason = "there are thirty more kinds, and none of them is ours")]
pub fn pinned_map(path: &Path) -> Result<PinnedMap, OpenError> {
    let failed = |source| OpenError::Open { path: path.to_owned(), source };
    let info = MapInfo::from_pin(path).map_err(failed)?;
    let is_mmapped = info.map_flags() & BPF_F_MMAPABLE != 0;
    let kind = match info.map_type().map_err(failed)? {
        MapType::Array if is_mmapped => Some(MapKind::MmapArray),
        MapType::Array => Some(MapKind::Array),
        MapType::Hash => Some(MapKind::Hash),
        MapType::LruHash => Some(MapKind::LruHash),
        MapType::LpmTrie => Some(MapKind::LpmTrie),
        MapType::PerCpuArray => Some(MapKind::PerCpuArray),
        MapType::SkStorage => Some(MapKind::SocketStorage),
        MapType::SockMap => Some(MapKind::SockMap),
        _ => None,
    };
    Ok(PinnedMap { kind, key: info.key_size(), value: info.value_size(), capacity: info.max_entries() })
}

/// The reason why the map directory is missing.
fn absent(dir: &Path, source: io::Error) -> InspectError {
    let dir = dir.to_owned();
    if source.kind() == io::ErrorKind::PermissionDenied {
        return InspectError::Denied(dir);
    }
    if source.kind() != io::ErrorKind::NotFound {
        return InspectError::Io { dir, source };
    }
    match versions(&dir).ok().and_then(|versions| versions.last().copied()) {
        Some(found) => InspectError::OtherVersion { dir, found },
        None => InspectError::NoDataPlane(dir),
    }
}

/// The kind of the I/O error in the chain of causes.
fn io_error_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    std::iter::successors(Some(error), |&error| error.source())
        .find_map(|error| error.downcast_ref::<io::Error>())
        .map(io::Error::kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_data_plane_and_another_version_are_different_errors() {
        let dir = tempfile::tempdir().unwrap();
        let sentence = || inspect(dir.path()).err().unwrap().to_string();
        assert!(sentence().starts_with("no data plane at "), "{}", sentence());
        fs::create_dir_all(dir.path().join("abi-4294967295")).unwrap();
        assert!(sentence().contains(" has ABI version 4294967295, "), "{}", sentence());
    }
}
