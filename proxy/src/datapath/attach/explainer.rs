//! The programs that answer questions about flows, on the maps of the data plane and with the configuration of its programs.
//!
//! They are attached to nothing and end with the process. Invariant: a question changes no map.

use std::{
    fs,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::MapInfo,
    programs::{ProgramInfo, SchedClassifier, TestRun as _, TestRunOptions, loaded_programs},
};
use aya_obj::Object;
use proxy_ebpf::{
    abi::{ABI_VERSION, Config, MAPS, MapKind, map},
    explain::{Answer, EXPLAIN_PACKET, EXPLAIN_SOCKET, OFFSET, PACKET, PROGRAMS, Question},
};

use super::load::{LoadError, OBJECT, refused};
use crate::datapath::{
    kernel::bpf,
    pins::{links_of, maps_of, pin_name},
};

/// The section of the object that holds the configuration, and the name of its map.
const READ_ONLY: &str = ".rodata";
/// Of the read-only data outside the configuration, the bytes that may differ between runs: the log level.
const LOG_LEVEL_BYTES: usize = 1;
/// Offset of the device in `struct __sk_buff`.
const INTERFACE: usize = 40;

#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error("no program of the data plane is attached")]
    NoProgram,
    #[error("the programs of the data plane are of another build: ask the portreeve that runs there")]
    OtherBuild,
    #[error("cannot read the configuration of the data plane's programs")]
    Configuration(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot load the programs that explain flows")]
    Load(#[from] LoadError),
    #[error("the program {0} did not answer")]
    NoAnswer(&'static str),
}

/// The loaded programs.
#[derive(Debug)]
pub struct Explainer {
    ebpf: Ebpf,
}

impl Explainer {
    /// Loads the programs onto the maps below a pin directory, with the configuration of the programs that are attached.
    pub fn load(dir: &Path) -> Result<Self, ExplainError> {
        let config = configuration(&links_of(dir))?;
        Ok(Self::with_config(&maps_of(dir, ABI_VERSION), config)?)
    }

    /// Loads the programs onto pinned maps.
    pub fn with_config(maps: &Path, config: Config) -> Result<Self, LoadError> {
        let mut loader = EbpfLoader::new();
        loader.btf(None).override_global(map::CONFIG, &config, true);
        for spec in MAPS.iter().filter(|spec| spec.kind != MapKind::UserHash) {
            loader.map_pin_path(spec.name, maps.join(pin_name(spec)));
            // A size that the kernel refuses: a map that is not pinned (any more) must not be created.
            loader.map_max_entries(spec.name, u32::from(spec.kind == MapKind::SocketStorage));
        }
        let failed = |source| LoadError::Object { dir: maps.to_owned(), source: Box::new(source) };
        let mut explainer = Self { ebpf: loader.load(OBJECT).map_err(failed)? };
        for name in PROGRAMS {
            explainer.program(name)?.load().map_err(|error| refused(name, &error))?;
        }
        Ok(explainer)
    }

    /// The decision about a packet at a device.
    pub fn packet(&mut self, question: &Question) -> Result<Answer, ExplainError> {
        self.ask(EXPLAIN_PACKET, question)
    }

    /// The decision about a socket in connect.
    pub fn socket(&mut self, question: &Question) -> Result<Answer, ExplainError> {
        self.ask(EXPLAIN_SOCKET, question)
    }

    fn ask(&mut self, name: &'static str, question: &Question) -> Result<Answer, ExplainError> {
        let mut packet = [0; PACKET];
        // SAFETY: `Question` is `Pod`: plain numbers without padding.
        let octets =
            unsafe { std::slice::from_raw_parts((&raw const *question).cast::<u8>(), size_of::<Question>()) };
        packet[OFFSET..OFFSET + octets.len()].copy_from_slice(octets);
        let mut out = [0; PACKET];
        let mut context = [0; INTERFACE + 4];
        context[INTERFACE..].copy_from_slice(&question.device.to_ne_bytes());
        let options = TestRunOptions {
            data_in: Some(&packet),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        };
        let ran = self.program(name)?.test_run(options).map_err(|error| refused(name, &error))?;
        if ran.return_value != 0 || ran.data_size_out as usize != PACKET {
            return Err(ExplainError::NoAnswer(name));
        }
        // SAFETY: `Answer` is `Pod`, and the packet has its length behind the offset.
        let answer: Answer = unsafe { out.as_ptr().add(OFFSET).cast::<Answer>().read_unaligned() };
        answer.verdict().is_some().then_some(answer).ok_or(ExplainError::NoAnswer(name))
    }

    fn program(&mut self, name: &'static str) -> Result<&mut SchedClassifier, LoadError> {
        let program = self.ebpf.program_mut(name).ok_or(LoadError::NoProgram(name))?;
        program.try_into().map_err(|source| LoadError::WrongKind { name, source })
    }

    /// As `Programs::verified_instructions`.
    pub fn verified_instructions(&mut self, name: &'static str) -> Result<u32, LoadError> {
        let info = self.program(name)?.info().map_err(|error| refused(name, &error))?;
        Ok(info.verified_instruction_count().unwrap_or_default())
    }
}

/// The configuration of the attached programs: a part of their read-only data.
fn configuration(links: &Path) -> Result<Config, ExplainError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| ExplainError::Configuration(source);
    let program = attached(links).map_err(|error| failed(error.into()))?.ok_or(ExplainError::NoProgram)?;
    let maps = program.map_ids().map_err(|error| failed(error.into()))?.unwrap_or_default();
    let ours = read_only().map_err(|error| failed(error.into()))?;
    for id in maps {
        let info = MapInfo::from_id(id).map_err(|error| failed(error.into()))?;
        if info.name_as_str() != Some(READ_ONLY) {
            continue;
        }
        if info.value_size() as usize != ours.len() {
            return Err(ExplainError::OtherBuild);
        }
        let fd = info.fd().map_err(|error| failed(error.into()))?;
        let mut theirs = vec![0; ours.len()];
        bpf::map_lookup(fd.as_fd(), &0_u32.to_ne_bytes(), &mut theirs)
            .map_err(|error| failed(error.into()))?;
        return config_in(&theirs, &ours).ok_or(ExplainError::OtherBuild);
    }
    Err(ExplainError::OtherBuild)
}

/// A program at one of the pinned links.
fn attached(links: &Path) -> std::io::Result<Option<ProgramInfo>> {
    for entry in fs::read_dir(links)? {
        let link: OwnedFd = bpf::object_get(&entry?.path())?;
        let id = bpf::program_of(link.as_fd())?;
        // The list stops at the first program that ends meanwhile.
        let found = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The read-only data of the embedded object.
fn read_only() -> Result<Vec<u8>, aya_obj::ParseError> {
    let mut object = Object::parse(OBJECT)?;
    Ok(object.maps.remove(READ_ONLY).map(|map| map.data().to_vec()).unwrap_or_default())
}

/// The configuration in the read-only data of programs. `None`: they are not of this build.
fn config_in(theirs: &[u8], ours: &[u8]) -> Option<Config> {
    let default = Config::DEFAULT;
    // SAFETY: `Config` is `Pod`: plain numbers without padding.
    let default =
        unsafe { std::slice::from_raw_parts((&raw const default).cast::<u8>(), size_of::<Config>()) };
    let at = ours.windows(default.len()).position(|octets| octets == default)?;
    let end = at + default.len();
    let differing = |from: usize, to: usize| {
        theirs[from..to].iter().zip(&ours[from..to]).filter(|(one, other)| one != other).count()
    };
    if differing(0, at) + differing(end, ours.len()) > LOG_LEVEL_BYTES {
        return None;
    }
    // SAFETY: in bounds, and every pattern of the plain numbers is valid.
    Some(unsafe { theirs[at..end].as_ptr().cast::<Config>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets(config: &Config) -> Vec<u8> {
        // SAFETY: as in `config_in`.
        unsafe { std::slice::from_raw_parts((&raw const *config).cast::<u8>(), size_of::<Config>()) }.to_vec()
    }

    #[test]
    fn the_configuration_is_found_in_the_data_of_the_same_build() {
        let ours = read_only().unwrap();
        let default = octets(&Config::DEFAULT);
        let at = ours.windows(default.len()).position(|found| found == default).unwrap();
        let config = Config { host_netns: 4711, first_port: 40_000, ..Config::DEFAULT };
        let mut theirs = ours.clone();
        theirs[at..at + default.len()].copy_from_slice(&octets(&config));
        assert_eq!(config_in(&theirs, &ours), Some(config));
        // The log level.
        *theirs.last_mut().unwrap() ^= 4;
        assert_eq!(config_in(&theirs, &ours), Some(config));
        let other = (0..ours.len()).find(|n| !(at..at + default.len()).contains(n)).unwrap();
        theirs[other] ^= 1;
        assert_eq!(config_in(&theirs, &ours), None, "another build");
        assert_eq!(config_in(&ours, &vec![0; ours.len()]), None);
    }
}
