//! What tells the programs, and other agents, whether names are answered here.
//!
//! The programs lead clients of the cluster's DNS Service to this node's own server only while the socket of a process is
//! in `NAME_SERVER`, from which the kernel takes it when the process ends in whatever way, and while the beat is young.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::{AsFd as _, OwnedFd, RawFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use aya::maps::{Map, MapData, SockMap};
use proxy_ebpf::abi::{MAPS, map};
use tracing::{debug, warn};

use crate::datapath::{
    kernel::{now, sys},
    maps::{Access, MmapArray, OpenError, mapped, pinned},
    pins::{maps_of, pin_name, versions},
};

/// Entries of `NAME_SERVER_BEAT`.
const SERVING: u32 = 0;
const WAITING: u32 = 1;
/// How often whoever waits says that it is still there.
const INTERVAL: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_nanos(map::NAME_SERVER_TIMEOUT);

#[derive(Debug, thiserror::Error)]
pub enum NameServerError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot make the socket that stands for the name server")]
    Socket(#[source] io::Error),
    #[error("cannot start the thread that stands for the name server")]
    Thread(#[source] io::Error),
    #[error("cannot tell the programs of the name server")]
    Appear(#[source] aya::maps::MapError),
    #[error("what tells the programs of the name server has ended")]
    Ended,
}

/// The beats of one pin directory; whoever has a clone may beat.
#[derive(Clone, Debug)]
pub struct Beats(Arc<Mutex<MmapArray<u64>>>);

/// From here on until this is dropped, clients are led to this process.
///
/// The socket that says so is kept by a thread, in a table of open files that is that thread's own. When a process is
/// killed, its files are closed only after all its memory was given back, and until then clients would be led to sockets
/// that nobody reads. The thread's are closed as soon as it ends, which is at once.
///
/// The thread keeps the server's sockets, too. When a thread ends, the kernel closes the files that nobody else has open from
/// the highest number down (`task_work_run`, which promises nothing but has done so since 4.3): this one is the highest, so
/// nobody is led to a socket that is closed already. Both tries of a resolver could be refused in a moment.
#[derive(Debug)]
pub struct Presence {
    _keeper: Keeper,
}

/// Says that an agent waits to take over, until it is dropped.
#[derive(Debug)]
pub struct Waiting {
    _keeper: Option<Keeper>,
}

/// A thread that goes on until this is dropped: its channel ends then.
#[derive(Debug)]
struct Keeper {
    stop: Option<mpsc::Sender<Infallible>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Beats {
    /// Of the maps in a directory.
    pub fn open(maps: &Path) -> Result<Self, OpenError> {
        Ok(Self(Arc::new(Mutex::new(mapped(maps, map::NAME_SERVER_BEAT, Access::Write)?))))
    }

    /// All who answer names were at work so long ago.
    pub fn serving(&self, age: Duration) {
        self.store(SERVING, now().saturating_sub(age));
    }

    /// Whether an agent waits to take over.
    pub fn has_successor(&self) -> bool {
        let beats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let beat = Duration::from_nanos(beats.read(WAITING).unwrap_or_default());
        beat != Duration::ZERO && now() < beat + PATIENCE
    }

    fn store(&self, index: u32, beat: Duration) {
        let nanoseconds = u64::try_from(beat.as_nanos()).unwrap_or(u64::MAX);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).publish(index, nanoseconds);
    }
}

impl Presence {
    /// Takes the place of whoever is there, for a server with these sockets. They stay open until this is dropped.
    pub fn appear(maps: &Path, sockets: &[RawFd]) -> Result<Self, NameServerError> {
        let (maps, sockets) = (maps.to_owned(), sockets.to_owned());
        let (tell, told) = mpsc::channel();
        let keeper = Keeper::begin(move |stopped| {
            // Where the kernel does not allow it, an end is noticed later, and nothing else is different.
            let _own = sys::own_open_files(&sockets);
            // Closed before those.
            let (outcome, _socket) = match stand_in(&maps, sockets.iter().copied().max()) {
                Ok(socket) => (Ok(()), Some(socket)),
                Err(error) => (Err(error), None),
            };
            // Whoever began this waits for it.
            let _ = tell.send(outcome);
            let _ = stopped.recv();
        })
        .map_err(NameServerError::Thread)?;
        told.recv().map_err(|_| NameServerError::Ended)??;
        Ok(Self { _keeper: keeper })
    }
}

/// A socket that is in the map as long as it is open, under a number above this one. Nothing ever comes to it.
fn stand_in(maps: &Path, highest: Option<RawFd>) -> Result<OwnedFd, NameServerError> {
    // A bound socket is not counted by the programs that look at it. The loopback is up wherever names are answered.
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(NameServerError::Socket)?;
    let socket = sys::duplicate_above(socket.as_fd(), highest.unwrap_or_default());
    let socket = socket.map_err(NameServerError::Socket)?;
    let (data, _) = pinned(maps, map::NAME_SERVER)?;
    let mut place: SockMap<MapData> = Map::SockMap(data).try_into().map_err(NameServerError::Appear)?;
    place.set(0, &socket, 0).map_err(NameServerError::Appear)?;
    Ok(socket)
}

impl Waiting {
    /// Below a pin directory that another agent holds. Where none of its maps is known here, nobody is told.
    pub fn begin(dir: &Path) -> Self {
        let beats: Vec<Beats> = known(dir).iter().filter_map(|maps| Beats::open(maps).ok()).collect();
        debug!(maps = beats.len(), "waiting to answer names");
        // Not a task: what comes before the wait is over may keep the runtime busy.
        let keeper = Keeper::begin(move |stopped| {
            loop {
                beats.iter().for_each(|beats| beats.store(WAITING, now()));
                if stopped.recv_timeout(INTERVAL) != Err(mpsc::RecvTimeoutError::Timeout) {
                    break;
                }
            }
            beats.iter().for_each(|beats| beats.store(WAITING, Duration::ZERO));
        });
        if let Err(error) = &keeper {
            warn!(%error, "the agent that answers names is not told that another one waits");
        }
        Self { _keeper: keeper.ok() }
    }
}

impl Keeper {
    fn begin(work: impl FnOnce(mpsc::Receiver<Infallible>) + Send + 'static) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new().name("names".to_owned()).spawn(move || work(stopped))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It cannot panic, and nothing hangs on it.
            let _ = thread.join();
        }
    }
}

/// The directories of all versions that have the map as we know it.
fn known(dir: &Path) -> Vec<PathBuf> {
    let spec = MAPS.iter().find(|spec| spec.name == map::NAME_SERVER_BEAT);
    let is_there = |maps: &PathBuf| spec.is_some_and(|spec| maps.join(pin_name(spec)).exists());
    let versions = versions(dir).unwrap_or_default();
    versions.into_iter().map(|version| maps_of(dir, version)).filter(is_there).collect()
}
