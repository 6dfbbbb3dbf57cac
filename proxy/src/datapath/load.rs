//! Loads the embedded programs onto the pinned maps, creating those that are missing.

use std::path::PathBuf;

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{HashMap, MapData, MapError},
    programs::CgroupSockAddr,
};
use proxy_ebpf::abi::{Config, MAPS, MapKind, PROGRAMS, ServiceName, map};

use super::pins::Pins;

/// From linux/bpf.h: memory for entries is taken when they come.
const BPF_F_NO_PREALLOC: u32 = 1;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/proxy-ebpf"));

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot load the maps of the eBPF object onto {dir}")]
    Object {
        dir: PathBuf,
        #[source]
        source: Box<aya::EbpfError>,
    },
    #[error("cannot create the map {name}")]
    Create {
        name: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the eBPF object has no program {0}")]
    NoProgram(&'static str),
    #[error("{name} is not a program for sockets of a cgroup")]
    WrongKind {
        name: &'static str,
        #[source]
        source: aya::programs::ProgramError,
    },
    #[error("the kernel refuses the program {name}")]
    Refused {
        name: &'static str,
        #[source]
        source: aya::programs::ProgramError,
    },
}

/// The programs, loaded and verified, attached to nothing yet.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
}

impl Programs {
    pub(super) fn get(&mut self, name: &'static str) -> Result<&mut CgroupSockAddr, LoadError> {
        let program = self.ebpf.program_mut(name).ok_or(LoadError::NoProgram(name))?;
        program.try_into().map_err(|source| LoadError::WrongKind { name, source })
    }
}

/// Maps that are pinned already are used as they are, contents and all.
pub fn load(pins: &Pins, config: Config) -> Result<Programs, LoadError> {
    let dir = pins.maps();
    let mut loader = EbpfLoader::new();
    loader.override_global(map::CONFIG, &config, true);
    for spec in MAPS.iter().filter(|spec| spec.kind != MapKind::UserHash) {
        loader.map_pin_path(spec.name, dir.join(spec.name));
    }
    let ebpf = loader.load(OBJECT).map_err(|source| LoadError::Object { dir, source: source.into() })?;
    create_services(pins)?;
    let mut programs = Programs { ebpf };
    for name in PROGRAMS {
        programs.get(name)?.load().map_err(|source| LoadError::Refused { name, source })?;
    }
    Ok(programs)
}

/// The labels of service ports, unless an earlier agent left them.
fn create_services(pins: &Pins) -> Result<(), LoadError> {
    let path = pins.maps().join(map::SERVICES);
    if path.exists() {
        return Ok(());
    }
    let failed = |source| LoadError::Create { name: map::SERVICES, source };
    let created: Result<HashMap<MapData, u32, ServiceName>, MapError> =
        HashMap::create(map::MAX_SERVICES, BPF_F_NO_PREALLOC);
    created.map_err(|error| failed(error.into()))?.pin(&path).map_err(|error| failed(error.into()))
}
