//! The pin directory of maps and links, and its lock.
//!
//! Layout: `<dir>/links/<hook>` (of devices: `<dir>/links/<program>-<ifindex>`, see `tc`) and
//! `<dir>/abi-<version>/<MAP>-<layout>`. A link belongs to no version: its program is replaced in place. A
//! map whose layout is the same in two versions is pinned under both, so that flows and affinity survive an
//! upgrade and a downgrade.
//!
//! One agent at a time holds the lock on `<dir>`; the kernel releases it when the agent dies, however it
//! dies.

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::{
        fd::AsFd as _,
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    time::SystemTime,
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, Flock, FlockArg},
    sys::{
        stat::{UtimensatFlags, utimensat},
        statfs::{FsType, statfs},
        time::TimeSpec,
    },
};
use proxy_ebpf::abi::{ABI_VERSION, MAPS, MapSpec, PROGRAMS};

use super::kernel::bpf;

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPFFS: FsType = FsType(0xcafe_4a11);

#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error("{0} is not on a bpffs: mount one with `mount -t bpf bpf /sys/fs/bpf`, or name one with --bpffs")]
    NotBpffs(PathBuf),
    #[error("{dir} belongs to another agent: {holder}")]
    Held { dir: PathBuf, holder: String },
    #[error("cannot {action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A pin directory, locked by this process.
#[derive(Debug)]
pub struct Pins {
    dir: PathBuf,
    version: u32,
    /// Released with the process.
    _lock: Flock<File>,
}

/// The behaviour while another agent holds the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    Fail,
    /// Blocks until the other agent is gone.
    Wait,
}

impl Pins {
    /// Creates the directory if it is missing and takes its lock. `version` is `ABI_VERSION`, except in
    /// tests.
    pub fn acquire(dir: &Path, version: u32, busy: Busy) -> Result<Self, PinError> {
        require_bpffs(dir)?;
        let lock = loop {
            create(dir)?;
            let lock = lock(dir, busy)?;
            if is_same_directory(dir, &lock) {
                break lock;
            }
        };
        let pins = Self { dir: dir.to_owned(), version, _lock: lock };
        for doomed in pins.entries_with(DOOMED_PREFIX)? {
            remove_files(&doomed)?;
        }
        create(&pins.maps())?;
        create(&pins.links())?;
        pins.pin_shared_maps()?;
        Ok(pins)
    }

    /// Checks that pins can be created there.
    pub fn require_bpffs(dir: &Path) -> Result<(), PinError> {
        require_bpffs(dir)
    }

    /// Takes the lock of an existing directory. Returns `None` if there is none. Errors: no permission to
    /// look.
    pub fn acquire_existing(dir: &Path) -> Result<Option<Self>, PinError> {
        if !dir.try_exists().map_err(io_error("read", dir))? {
            return Ok(None);
        }
        require_bpffs(dir)?;
        Ok(Some(Self { dir: dir.to_owned(), version: ABI_VERSION, _lock: lock(dir, Busy::Fail)? }))
    }

    pub fn maps(&self) -> PathBuf {
        maps_of(&self.dir, self.version)
    }

    /// The directory of maps that larger ones replace, until their content is copied.
    pub fn outgrown(&self) -> PathBuf {
        self.dir.join(format!("{OUTGROWN_PREFIX}{}", self.version))
    }

    /// Moves the pin of a map to `outgrown`.
    pub fn set_aside(&self, spec: &MapSpec) -> Result<(), PinError> {
        create(&self.outgrown())?;
        self.move_pin(spec, &self.maps(), &self.outgrown())
    }

    /// Moves it back, in place of its successor.
    pub fn take_back(&self, spec: &MapSpec) -> Result<(), PinError> {
        if self.outgrown().join(pin_name(spec)).exists() {
            remove_pin(&self.maps().join(pin_name(spec)))?;
            self.move_pin(spec, &self.outgrown(), &self.maps())?;
        }
        Ok(())
    }

    /// Removes the pin of a map in `outgrown`.
    pub fn drop_outgrown(&self, spec: &MapSpec) -> Result<(), PinError> {
        remove_pin(&self.outgrown().join(pin_name(spec)))
    }

    fn move_pin(&self, spec: &MapSpec, from: &Path, to: &Path) -> Result<(), PinError> {
        let (from, to) = (from.join(pin_name(spec)), to.join(pin_name(spec)));
        // A copy from an earlier attempt is older.
        remove_pin(&to)?;
        fs::rename(&from, &to).map_err(io_error("rename", &from))
    }

    pub fn links(&self) -> PathBuf {
        links_of(&self.dir)
    }

    /// Pins the maps of other versions with a known layout under this version, too, until
    /// `drop_other_versions`.
    fn pin_shared_maps(&self) -> Result<(), PinError> {
        let names: Vec<_> = MAPS.iter().map(pin_name).collect();
        for other in self.other_versions()? {
            for name in &names {
                let (from, to) = (other.join(name), self.maps().join(name));
                if from.exists() && !to.exists() {
                    let map = bpf::object_get(&from).map_err(io_error("open", &from))?;
                    bpf::object_pin(map.as_fd(), &to).map_err(io_error("pin", &to))?;
                }
            }
        }
        Ok(())
    }

    /// Removes the maps of other versions, once none of their programs runs.
    pub fn drop_other_versions(&self) -> Result<(), PinError> {
        for other in self.other_versions()? {
            remove_version(&other)?;
        }
        for outgrown in self.entries_with(OUTGROWN_PREFIX)? {
            if outgrown != self.outgrown() {
                remove_files(&outgrown)?;
            }
        }
        Ok(())
    }

    fn other_versions(&self) -> Result<Vec<PathBuf>, PinError> {
        let mut found = self.entries_with(VERSION_PREFIX)?;
        found.retain(|path| *path != self.maps());
        Ok(found)
    }

    fn entries_with(&self, prefix: &str) -> Result<Vec<PathBuf>, PinError> {
        let mut found = entries(&self.dir)?;
        found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
        Ok(found)
    }

    /// Removes every pin of every version, links first, so that no program is left without its maps.
    pub fn remove(self) -> Result<usize, PinError> {
        let mut removed = 0;
        let mut links = entries(&self.links())?;
        links.sort_by_key(|link| Reverse(detach_order(link)));
        for link in links {
            drop_link(&link).map_err(io_error("detach", &link))?;
            removed += 1;
        }
        remove_files(&self.links())?;
        for version in self.entries_with(VERSION_PREFIX)? {
            removed += remove_version(&version)?;
        }
        for rest in [DOOMED_PREFIX, OUTGROWN_PREFIX] {
            for doomed in self.entries_with(rest)? {
                removed += remove_files(&doomed)?;
            }
        }
        remove_emptied(&self.dir)?;
        Ok(removed)
    }
}

/// Removes the emptied pin directory. In a container it is a mount point, which stays.
fn remove_emptied(dir: &Path) -> Result<(), PinError> {
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
        removed => removed.map_err(io_error("remove", dir)),
    }
}

/// The position of a socket hook in `PROGRAMS`, for detaching: a hook that rewrites a destination goes before
/// the one that restores the source of its replies.
fn detach_order(link: &Path) -> Option<usize> {
    let name = link.file_name()?.to_str()?;
    PROGRAMS.iter().position(|program| *program == name)
}

/// The directory of the links below a pin directory.
pub fn links_of(dir: &Path) -> PathBuf {
    dir.join("links")
}

/// The directory of the maps of an ABI version below a pin directory.
pub fn maps_of(dir: &Path, version: u32) -> PathBuf {
    dir.join(format!("{VERSION_PREFIX}{version}"))
}

/// The file name of a pinned map. bpffs reserves names with dots.
pub fn pin_name(spec: &MapSpec) -> String {
    format!("{}-{}", spec.name, spec.layout)
}

const VERSION_PREFIX: &str = "abi-";
/// Prefix of a directory that is being removed: half of a set must never be taken for a whole one.
const DOOMED_PREFIX: &str = "doomed-";
/// Prefix of the directory of maps that larger ones replace.
const OUTGROWN_PREFIX: &str = "outgrown-";

fn remove_version(dir: &Path) -> Result<usize, PinError> {
    let name = dir.file_name().unwrap_or_default().display();
    let doomed = dir.with_file_name(format!("{DOOMED_PREFIX}{name}"));
    if doomed.exists() {
        remove_files(&doomed)?;
    }
    fs::rename(dir, &doomed).map_err(io_error("rename", dir))?;
    remove_files(&doomed)
}

/// Whether the path is still the locked directory: `cleanup` may have removed that meanwhile.
fn is_same_directory(dir: &Path, lock: &File) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (fs::metadata(dir), lock.metadata()) {
        (Ok(there), Ok(held)) => identity(there) == identity(held),
        _ => false,
    }
}

/// The ABI versions with pins below a pin directory.
pub fn versions(dir: &Path) -> Result<Vec<u32>, PinError> {
    let number = |path: PathBuf| path.file_name()?.to_str()?.strip_prefix(VERSION_PREFIX)?.parse().ok();
    let mut versions: Vec<u32> = entries(dir)?.into_iter().filter_map(number).collect();
    versions.sort_unstable();
    Ok(versions)
}

/// The nearest ancestor that exists must be on a bpffs.
fn require_bpffs(dir: &Path) -> Result<(), PinError> {
    let existing = dir.ancestors().find(|ancestor| ancestor.exists());
    let is_bpffs = existing.is_some_and(|dir| statfs(dir).is_ok_and(|fs| fs.filesystem_type() == BPFFS));
    if is_bpffs { Ok(()) } else { Err(PinError::NotBpffs(dir.to_owned())) }
}

fn create(dir: &Path) -> Result<(), PinError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error("create", dir))
}

fn lock(dir: &Path, busy: Busy) -> Result<Flock<File>, PinError> {
    let file = File::open(dir).map_err(io_error("open", dir))?;
    let how = match busy {
        Busy::Fail => FlockArg::LockExclusiveNonblock,
        Busy::Wait => FlockArg::LockExclusive,
    };
    Flock::lock(file, how).map_err(|(file, errno)| {
        if errno == Errno::EWOULDBLOCK {
            PinError::Held { dir: dir.to_owned(), holder: holder(&file) }
        } else {
            io_error("lock", dir)(errno.into())
        }
    })
}

/// The lock's holder, for messages; from /proc/locks, whose lines end in `pid major:minor:inode start end`.
fn holder(file: &File) -> String {
    let inode = file.metadata().map(|metadata| metadata.ino()).unwrap_or_default();
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let pid = locks.lines().filter(|line| !line.contains("->")).find_map(|line| {
        let mut words = line.split_whitespace().skip(4);
        let (pid, file) = (words.next()?, words.next()?);
        let found: u64 = file.rsplit(':').next()?.parse().ok()?;
        (found == inode && line.contains("FLOCK")).then(|| pid.to_owned())
    });
    match pid {
        Some(pid) => match fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(name) => format!("process {pid} ({})", name.trim_end()),
            Err(_) => format!("process {pid}"),
        },
        None => "a process outside of this container".to_owned(),
    }
}

/// Sets the time of a pin directory, which outlives the agent and its pod: since when none runs is read from it.
pub fn mark_alive(dir: &Path) -> io::Result<()> {
    let now = TimeSpec::UTIME_NOW;
    Ok(utimensat(AT_FDCWD, dir, &now, &now, UtimensatFlags::NoFollowSymlink)?)
}

/// When an agent was alive last, to the second; `None`: there is no pin directory, or it cannot be read.
pub fn last_alive(dir: &Path) -> Option<SystemTime> {
    fs::symlink_metadata(dir).ok()?.modified().ok()
}

/// The names of the pins in a directory.
pub fn names_in(dir: &Path) -> io::Result<BTreeSet<String>> {
    let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    match fs::read_dir(dir) {
        Ok(found) => found.map(name).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

/// Detaches a link, if there is one, and removes its pin. Other open descriptors of the link lose the
/// program, too.
pub fn drop_link(pin: &Path) -> io::Result<()> {
    if let Ok(link) = bpf::object_get(pin) {
        // A pin that is not a link, or whose device or cgroup is gone, has nothing to detach.
        let _ = bpf::link_detach(link.as_fd());
    }
    remove_if_there(pin)
}

/// Removes a pin, if there is one.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn remove_pin(path: &Path) -> Result<(), PinError> {
    remove_if_there(path).map_err(io_error("remove", path))
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, PinError> {
    let found = match fs::read_dir(dir) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("read", dir)(error)),
    };
    found.map(|entry| Ok(entry.map_err(io_error("read", dir))?.path())).collect()
}

fn remove_files(dir: &Path) -> Result<usize, PinError> {
    let files = entries(dir)?;
    for file in &files {
        fs::remove_file(file).map_err(io_error("remove", file))?;
    }
    if dir.exists() {
        fs::remove_dir(dir).map_err(io_error("remove", dir))?;
    }
    Ok(files.len())
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PinError {
    move |source| PinError::Io { action, path: path.to_owned(), source }
}
