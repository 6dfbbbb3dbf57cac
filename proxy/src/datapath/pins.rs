//! Where maps and links are pinned, and who may write them.
//!
//! Layout: `<dir>/abi-<version>/maps/<MAP>` and `<dir>/abi-<version>/links/<hook>`. One agent at a time holds the
//! lock on `<dir>`; the kernel releases it when the agent dies, however it dies.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::statfs::{FsType, statfs},
};
use proxy_ebpf::abi::ABI_VERSION;

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

/// A pin directory that this process holds alone.
#[derive(Debug)]
pub struct Pins {
    dir: PathBuf,
    /// Released with the process.
    _lock: Flock<File>,
}

impl Pins {
    /// Creates the directory where it is missing and takes its lock.
    pub fn acquire(dir: &Path) -> Result<Self, PinError> {
        require_bpffs(dir)?;
        create(dir)?;
        let pins = Self { dir: dir.to_owned(), _lock: lock(dir)? };
        create(&pins.maps())?;
        create(&pins.links())?;
        Ok(pins)
    }

    /// Takes the lock of a directory that exists; `None` when there is none.
    pub fn acquire_existing(dir: &Path) -> Result<Option<Self>, PinError> {
        if !dir.exists() {
            return Ok(None);
        }
        require_bpffs(dir)?;
        Ok(Some(Self { dir: dir.to_owned(), _lock: lock(dir)? }))
    }

    pub fn maps(&self) -> PathBuf {
        maps_of(&self.dir)
    }

    pub fn links(&self) -> PathBuf {
        version_of(&self.dir).join("links")
    }

    /// Removes every pin of every version, links first, so that no program is left without its maps.
    pub fn remove(self) -> Result<usize, PinError> {
        let mut removed = 0;
        let versions = entries(&self.dir)?;
        for kind in ["links", "maps"] {
            for version in &versions {
                removed += remove_files(&version.join(kind))?;
            }
        }
        for dir in versions.iter().chain([&self.dir]) {
            fs::remove_dir(dir).map_err(io_error("remove", dir))?;
        }
        Ok(removed)
    }
}

/// Where the maps of this ABI version are pinned below a pin directory.
pub fn maps_of(dir: &Path) -> PathBuf {
    version_of(dir).join("maps")
}

fn version_of(dir: &Path) -> PathBuf {
    // bpffs reserves names with dots.
    dir.join(format!("abi-{ABI_VERSION}"))
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

fn lock(dir: &Path) -> Result<Flock<File>, PinError> {
    let file = File::open(dir).map_err(io_error("open", dir))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(file, errno)| {
        if errno == Errno::EWOULDBLOCK {
            PinError::Held { dir: dir.to_owned(), holder: holder(&file) }
        } else {
            io_error("lock", dir)(errno.into())
        }
    })
}

/// Who holds the lock, for people; from /proc/locks, whose lines end in `pid major:minor:inode start end`.
fn holder(file: &File) -> String {
    let inode = file.metadata().map(|metadata| metadata.ino()).unwrap_or_default();
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let pid = locks.lines().filter(|line| !line.contains("->")).find_map(|line| {
        let mut words = line.split_whitespace().skip(4);
        let (pid, place) = (words.next()?, words.next()?);
        let found: u64 = place.rsplit(':').next()?.parse().ok()?;
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
