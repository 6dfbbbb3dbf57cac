//! Loads the embedded programs with the pinned maps, and creates missing maps.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, RandomState},
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Array, HashMap, MapData},
    programs::{
        CgroupSockAddr, ProgramError, ProgramInfo, SchedClassifier, SockOps, TestRun as _, TestRunOptions,
        Xdp,
    },
};
use proxy_ebpf::{
    abi::{
        Config, HashKeys, MAPS, MapKind, MapSpec, PROGRAMS, READ_SOCKETS, SOCK_OPS, ServiceName, TC_PROGRAMS,
        XDP_EXTERNAL, map,
    },
    explain,
};
use tracing::{Level, debug, enabled, info, warn};

use super::{open_sockets::OpenSockets, socket_reader::SocketReader};
use crate::{
    config::TableSizes,
    datapath::{
        kernel::{Jiffies, SocketFields},
        maps::{OpenError, OutgrownError, copy_outgrown, pinned_map},
        pins::{PinError, Pins, pin_name},
        sizes::{self, MapSize, group},
    },
    error::chain,
};

/// The most bytes that a program adds to a packet: an ICMP error quotes its headers.
const LONGEST_ANSWER: usize = 128;
/// From linux/bpf.h: allocate entries on demand.
const BPF_F_NO_PREALLOC: u32 = 1;

/// The global variable of aya-log that sets the log level in the programs, and its values.
const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
/// The ring buffer of log lines; it is not pinned and ends with the agent.
const LOG_RING: &str = "AYA_LOGS";
pub const LOGS_OFF: u8 = 0;
const LOGS_DEBUG: u8 = 4;

pub(super) static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/proxy-ebpf"));

/// The embedded object. It is not needed after the programs are loaded.
pub fn object() -> &'static [u8] {
    OBJECT
}

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
    #[error("cannot read the pinned maps")]
    Open(#[from] OpenError),
    #[error("cannot replace the pinned maps")]
    Pins(#[from] PinError),
    #[error("cannot copy the maps that larger ones replace")]
    Copy(#[from] OutgrownError),
    #[error("the eBPF object has no program {0}")]
    NoProgram(&'static str),
    #[error("the eBPF object has no map {0}")]
    NoMap(&'static str),
    #[error("cannot read or write the keys of the flow tables' hash")]
    Keys(#[source] Box<aya::maps::MapError>),
    #[error("cannot set the programs' standby")]
    Standby(#[source] Box<aya::maps::MapError>),
    #[error("{name} is a program of another kind")]
    WrongKind {
        name: &'static str,
        #[source]
        source: aya::programs::ProgramError,
    },
    #[error("the kernel refuses the program {name}: {verdict}")]
    Refused { name: &'static str, verdict: String },
}

/// The result of one test run of a program.
#[derive(Debug)]
pub struct ProgramRun {
    pub action: i32,
    pub packet: Vec<u8>,
    /// Measured by the kernel.
    pub took: Duration,
}

/// A program that the kernel has accepted.
#[derive(Clone, Copy, Debug)]
pub struct LoadedProgram<'a> {
    pub fd: BorrowedFd<'a>,
    /// The kernel's number for it.
    pub id: u32,
}

/// The programs, loaded and verified, not attached.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
    /// The reason for which connections of sockets are not counted.
    uncounted: Option<String>,
    /// Absent if the kernel has no such iterator: open connections are counted at their end.
    socket_reader: Option<SocketReader>,
    open_sockets: Option<OpenSockets>,
}

impl Programs {
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    pub fn get(&mut self, name: &'static str) -> Result<&mut CgroupSockAddr, LoadError> {
        let program = self.ebpf.program_mut(name).ok_or(LoadError::NoProgram(name))?;
        program.try_into().map_err(|source| LoadError::WrongKind { name, source })
    }

    pub fn sock_ops(&mut self) -> Result<&mut SockOps, LoadError> {
        let name = SOCK_OPS;
        let program = self.ebpf.program_mut(name).ok_or(LoadError::NoProgram(name))?;
        program.try_into().map_err(|source| LoadError::WrongKind { name, source })
    }

    /// The reason for which connections of sockets are not counted; `None` if they are.
    pub fn uncounted(&self) -> Option<&str> {
        self.uncounted.as_deref()
    }

    /// Goes on without the program that counts connections.
    pub fn set_uncounted(&mut self, reason: String) {
        self.uncounted = Some(reason);
    }

    /// The reader of the sockets of open connections, once.
    pub fn take_socket_reader(&mut self) -> Option<SocketReader> {
        self.socket_reader.take()
    }

    /// The listing of the sockets of open connections, once. `None`: they are unknown.
    pub fn take_open_sockets(&mut self) -> Option<OpenSockets> {
        self.open_sockets.take()
    }

    pub fn tc(&mut self, name: &'static str) -> Result<&mut SchedClassifier, LoadError> {
        let program = self.ebpf.program_mut(name).ok_or(LoadError::NoProgram(name))?;
        program.try_into().map_err(|source| LoadError::WrongKind { name, source })
    }

    fn xdp(&mut self, name: &'static str) -> Result<&mut Xdp, LoadError> {
        let program = self.ebpf.program_mut(name).ok_or(LoadError::NoProgram(name))?;
        program.try_into().map_err(|source| LoadError::WrongKind { name, source })
    }

    /// The instructions that the verifier processed, which the kernel limits to one million; 0 if the kernel
    /// does not report them.
    pub fn verified_instructions(&self, name: &'static str) -> Result<u32, LoadError> {
        Ok(self.info(name)?.verified_instruction_count().unwrap_or_default())
    }

    pub fn fd(&self, name: &'static str) -> Result<BorrowedFd<'_>, LoadError> {
        let program = self.ebpf.program(name).ok_or(LoadError::NoProgram(name))?;
        Ok(program.fd().map_err(|error| refused(name, &error))?.as_fd())
    }

    pub fn loaded(&self, name: &'static str) -> Result<LoadedProgram<'_>, LoadError> {
        Ok(LoadedProgram { fd: self.fd(name)?, id: self.info(name)?.id() })
    }

    /// While on standby, the programs create no flows: those of an earlier agent, behind them at the same hooks, do.
    pub fn set_standby(&mut self, is_on: bool) -> Result<(), LoadError> {
        let failed = |source| LoadError::Standby(Box::new(source));
        let map = self.ebpf.map_mut(map::STANDBY).ok_or(LoadError::NoMap(map::STANDBY))?;
        let mut map: Array<_, u32> = map.try_into().map_err(failed)?;
        map.set(0, u32::from(is_on), 0).map_err(failed)
    }

    pub fn info(&self, name: &'static str) -> Result<ProgramInfo, LoadError> {
        let program = self.ebpf.program(name).ok_or(LoadError::NoProgram(name))?;
        program.info().map_err(|error| refused(name, &error))
    }

    /// Runs a program of the packet plane on a packet, without a device. Returns the verdict and the
    /// resulting packet.
    pub fn run(&mut self, name: &'static str, packet: &[u8]) -> Result<(i32, Vec<u8>), LoadError> {
        let ProgramRun { action, packet, .. } = self.run_on(name, packet)?;
        Ok((action, packet))
    }

    /// Runs a tc or XDP program on a packet, without a device.
    pub fn run_on(&mut self, name: &'static str, packet: &[u8]) -> Result<ProgramRun, LoadError> {
        let mut out = vec![0; packet.len() + LONGEST_ANSWER];
        let options =
            TestRunOptions { data_in: Some(packet), data_out: Some(&mut out), ..TestRunOptions::new() };
        let outcome = if name == XDP_EXTERNAL {
            self.xdp(name)?.test_run(options)
        } else {
            self.tc(name)?.test_run(options)
        };
        let outcome = outcome.map_err(|error| refused(name, &error))?;
        out.truncate(outcome.data_size_out as usize);
        Ok(ProgramRun { action: outcome.return_value.cast_signed(), packet: out, took: outcome.duration })
    }

    /// Runs the XDP program on a frame received by a device. Returns the action and the resulting frame.
    pub fn run_xdp(&mut self, frame: &[u8], device: u32) -> Result<(u32, Vec<u8>), LoadError> {
        // `struct xdp_md`: start and end of the data, metadata, ingress ifindex, queue, egress ifindex.
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let context: Vec<u8> = [0, length, 0, device, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut out = vec![0; frame.len()];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        };
        let outcome =
            self.xdp(XDP_EXTERNAL)?.test_run(options).map_err(|error| refused(XDP_EXTERNAL, &error))?;
        out.truncate(outcome.data_size_out as usize);
        Ok((outcome.return_value, out))
    }

    /// The keys of the hash of tuples.
    fn hash_keys(&mut self) -> Result<Array<&mut MapData, HashKeys>, LoadError> {
        let name = map::HASH_KEYS;
        let map = self.ebpf.map_mut(name).ok_or(LoadError::NoMap(name))?;
        map.try_into().map_err(|source| LoadError::Keys(Box::new(source)))
    }

    /// Chooses keys, unless an earlier agent did: its flows are found by them.
    fn choose_hash_keys(&mut self) -> Result<(), LoadError> {
        let mut map = self.hash_keys()?;
        let found = map.get(&0, 0).map_err(|source| LoadError::Keys(Box::new(source)))?;
        if found.keys != HashKeys::default().keys {
            return Ok(());
        }
        // The standard library's source of random numbers: each is a SipHash under random keys.
        let random = RandomState::new();
        let keys = std::array::from_fn(|at| random.hash_one(at));
        map.set(0, HashKeys { keys }, 0).map_err(|source| LoadError::Keys(Box::new(source)))
    }

    /// The names of all programs and maps of the object, without the sections of global data and the ring
    /// buffer of aya-log.
    pub fn names(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let programs = self.ebpf.programs().map(|(name, _)| name.to_owned()).collect();
        let maps = self
            .ebpf
            .maps()
            .map(|(name, _)| name)
            .filter(|name| !name.starts_with('.') && *name != LOG_RING && !map::SCRATCH.contains(name))
            .filter(|name| *name != explain::SCRATCH);
        (programs, maps.map(ToOwned::to_owned).collect())
    }
}

/// Loads the embedded object. Pinned maps are reused with their contents.
pub fn load(pins: &Pins, config: Config) -> Result<Programs, LoadError> {
    load_object(OBJECT, pins, config)
}

/// Loads the embedded object onto maps of these sizes. Pinned maps are reused with their contents, unless larger ones
/// are wanted. If those cannot be created, the old ones are kept; the error is returned beside the programs.
pub fn load_with_sizes(
    pins: &Pins,
    config: Config,
    sizes: &TableSizes,
) -> Result<(Programs, Option<LoadError>), LoadError> {
    let maps = map_sizes(pins, sizes)?;
    let outgrown: Vec<&MapSpec> = maps.iter().filter(|size| size.is_outgrown).map(|size| size.spec).collect();
    if outgrown.is_empty() {
        return Ok((load_sized(OBJECT, pins, with_flows(config, &maps), &maps)?, None));
    }
    info!(maps = outgrown.len(), "larger tables replace those of an earlier agent");
    outgrown.iter().try_for_each(|spec| pins.set_aside(spec))?;
    match load_sized(OBJECT, pins, with_flows(config, &maps), &maps) {
        Ok(programs) => Ok((programs, None)),
        Err(error) => {
            // The whole groups: another agent may have set aside the rest.
            let groups: Vec<_> = outgrown.iter().map(|spec| group(spec)).collect();
            let replaced = MAPS.iter().filter(|spec| groups.contains(&group(spec)));
            replaced.into_iter().try_for_each(|spec| pins.take_back(spec))?;
            let maps = map_sizes(pins, &TableSizes::default())?;
            Ok((load_sized(OBJECT, pins, with_flows(config, &maps), &maps)?, Some(error)))
        }
    }
}

/// Loads another object instead of the embedded one: for tests of wrong programs.
pub fn load_object(object: &[u8], pins: &Pins, config: Config) -> Result<Programs, LoadError> {
    load_sized(object, pins, config, &map_sizes(pins, &TableSizes::default())?)
}

/// The sizes that the maps are to have.
fn map_sizes(pins: &Pins, sizes: &TableSizes) -> Result<Vec<MapSize>, LoadError> {
    let present = |spec: &'static MapSpec| {
        let path = pins.maps().join(pin_name(spec));
        let entries = path.exists().then(|| pinned_map(&path).map(|map| map.capacity)).transpose()?;
        Ok((spec, entries))
    };
    let present: Vec<_> = MAPS.iter().map(present).collect::<Result<_, LoadError>>()?;
    Ok(sizes::plan(&present, sizes))
}

/// The configuration for flow tables of these sizes.
fn with_flows(config: Config, sizes: &[MapSize]) -> Config {
    let flows = sizes.iter().filter(|size| matches!(size.spec.name, map::FLOWS_V4 | map::FLOWS_V6));
    Config { flows: flows.map(|size| size.entries).min().unwrap_or(config.flows), ..config }
}

fn load_sized(object: &[u8], pins: &Pins, config: Config, sizes: &[MapSize]) -> Result<Programs, LoadError> {
    let fields = SocketFields::read();
    let config = with_clock(with_sockets(config, fields.as_ref().copied().unwrap_or_default()));
    let dir = pins.maps();
    let mut loader = EbpfLoader::new();
    // The kernel's BTF takes much memory, and the programs use none of its types.
    loader.btf(None);
    let log_level = log_level();
    loader.override_global(map::CONFIG, &config, true).override_global(LOG_LEVEL, &log_level, true);
    for MapSize { spec, entries, .. } in sizes.iter().filter(|size| size.spec.kind != MapKind::UserHash) {
        loader.map_pin_path(spec.name, dir.join(pin_name(spec)));
        if group(spec).is_some() {
            loader.map_max_entries(spec.name, *entries);
        }
    }
    let ebpf = loader.load(object).map_err(|source| LoadError::Object { dir, source: source.into() })?;
    create_user_maps(pins, sizes)?;
    copy_outgrown(pins)?;
    let mut programs = Programs { ebpf, uncounted: None, socket_reader: None, open_sockets: None };
    programs.choose_hash_keys()?;
    for name in PROGRAMS {
        programs.get(name)?.load().map_err(|error| refused(name, &error))?;
    }
    for program in TC_PROGRAMS {
        programs.tc(program.name)?.load().map_err(|error| refused(program.name, &error))?;
    }
    programs.xdp(XDP_EXTERNAL)?.load().map_err(|error| refused(XDP_EXTERNAL, &error))?;
    for name in [map::START_SWEEPER, map::ADOPT_FLOWS] {
        programs.tc(name)?.load().map_err(|error| refused(name, &error))?;
    }
    programs.uncounted = match fields {
        // Without the errors all failed connections would look alike.
        Err(error) => Some(format!("the errors of sockets cannot be read: {error}")),
        Ok(_) => programs.sock_ops()?.load().err().map(|error| chain(&refused(SOCK_OPS, &error))),
    };
    if programs.uncounted.is_none() {
        load_iterators(&mut programs, pins);
    }
    Ok(programs)
}

/// The iterators need what `sock_ops` stores. Services work without them.
fn load_iterators(programs: &mut Programs, pins: &Pins) {
    let reader = SocketReader::new(&mut programs.ebpf, READ_SOCKETS, pins).inspect_err(|error| {
        warn!(error = %chain(error), "the bytes of open connections of sockets are counted when they close");
    });
    programs.socket_reader = reader.ok();
    let sockets = OpenSockets::new(&mut programs.ebpf, pins).inspect_err(|error| {
        warn!(error = %chain(error), "connections of sockets to pods that are gone do not end");
    });
    programs.open_sockets = sockets.ok();
}

/// Lets the programs read the kernel's sockets.
fn with_sockets(config: Config, fields: SocketFields) -> Config {
    let SocketFields { error, error_queue, tcp_totals, tcp_position } = fields;
    let [tcp_sent, tcp_received, tcp_retransmissions] = tcp_totals.unwrap_or_default();
    let [tcp_receive_next, tcp_send_next, socket_local6] = tcp_position.unwrap_or_default();
    Config {
        socket_error: error,
        socket_error_queue: error_queue,
        tcp_sent,
        tcp_received,
        tcp_retransmissions,
        tcp_receive_next,
        tcp_send_next,
        socket_local6,
        ..config
    }
}

/// Lets the programs read jiffies, if this kernel says how they relate to the monotonic clock.
fn with_clock(config: Config) -> Config {
    match Jiffies::read() {
        Ok(Jiffies { length, origin }) => Config { jiffy: length, jiffies_origin: origin, ..config },
        Err(error) => {
            debug!(%error, "no jiffies, the programs read the monotonic clock");
            config
        }
    }
}

/// The log level of the programs.
pub fn log_level() -> u8 {
    if enabled!(target: "proxy_ebpf", Level::DEBUG) { LOGS_DEBUG } else { LOGS_OFF }
}

/// A one-line error: the verifier's log runs to thousands of lines and ends with the verdict and some
/// statistics.
pub fn refused(name: &'static str, error: &ProgramError) -> LoadError {
    let verdict = if let ProgramError::LoadError { io_error, verifier_log } = error {
        let log = verifier_log.to_string();
        debug!(name, log, "refused");
        format!("{io_error}: {}", last_words(&log))
    } else {
        chain(error)
    };
    LoadError::Refused { name, verdict }
}

fn last_words(log: &str) -> &str {
    const STATISTICS: [&str; 3] = ["verification time", "stack depth", "processed"];
    let is_statistic = |line: &&str| STATISTICS.iter().any(|start| line.starts_with(start));
    log.lines()
        .rev()
        .find(|line| !line.is_empty() && !is_statistic(line))
        .unwrap_or("the verifier says nothing")
}

/// Creates the maps that no program reads, unless an earlier agent left them.
fn create_user_maps(pins: &Pins, sizes: &[MapSize]) -> Result<(), LoadError> {
    for MapSize { spec, entries, .. } in sizes.iter().filter(|size| size.spec.kind == MapKind::UserHash) {
        let path = pins.maps().join(pin_name(spec));
        if !path.exists() {
            create_services(*entries, &path)
                .map_err(|source| LoadError::Create { name: spec.name, source })?;
        }
    }
    Ok(())
}

fn create_services(entries: u32, path: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let created: HashMap<MapData, u32, ServiceName> = HashMap::create(entries, BPF_F_NO_PREALLOC)?;
    Ok(created.pin(path)?)
}
