//! What tells the programs, and other agents, whether names are answered here.
//!
//! The programs lead clients of the cluster's DNS Service to this node's own server only while the socket of a process is
//! in `NAME_SERVER`, from which the kernel takes it when the process ends in whatever way, and while the heartbeat is young.

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
const WAITING_INTERVAL: Duration = Duration::from_millis(250);
const HEARTBEAT_TIMEOUT: Duration = Duration::from_nanos(map::NAME_SERVER_TIMEOUT);

#[derive(Debug, thiserror::Error)]
pub enum NameServerError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot make the socket that stands for the name server")]
    Socket(#[source] io::Error),
    #[error("cannot start the thread that stands for the name server")]
    Thread(#[source] io::Error),
    #[error("cannot sender the programs of the name server")]
    Register(#[source] aya::maps::MapError),
    #[error("what tells the programs of the name server has ended")]
    Ended,
}

/// The heartbeats of one pin directory; whoever has a clone may heartbeat.
#[derive(Clone, Debug)]
pub struct Heartbeats(Arc<Mutex<MmapArray<u64>>>);

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
pub struct DnsRedirect {
    _thread: ScopedThread,
}

/// Says that an agent waits to take over, until it is dropped.
#[derive(Debug)]
pub struct SuccessorHeartbeat {
    _thread: Option<ScopedThread>,
}

/// A thread that goes on until this is dropped: its channel ends then.
#[derive(Debug)]
struct ScopedThread {
    stop: Option<mpsc::Sender<Infallible>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Heartbeats {
    /// Of the maps in a directory.
    pub fn open(maps: &Path) -> Result<Self, OpenError> {
        Ok(Self(Arc::new(Mutex::new(mapped(maps, map::NAME_SERVER_BEAT, Access::Write)?))))
    }

    /// All who answer names were at work so long ago.
    pub fn record_serving(&self, age: Duration) {
        self.store(SERVING, now().saturating_sub(age));
    }

    /// Whether an agent waits to take over.
    pub fn has_successor(&self) -> bool {
        let heartbeats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let heartbeat = Duration::from_nanos(heartbeats.read(WAITING).unwrap_or_default());
        heartbeat != Duration::ZERO && now() < heartbeat + HEARTBEAT_TIMEOUT
    }

    fn store(&self, index: u32, heartbeat: Duration) {
        let nanoseconds = u64::try_from(heartbeat.as_nanos()).unwrap_or(u64::MAX);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).publish(index, nanoseconds);
    }
}

impl DnsRedirect {
    /// Takes the sock_map of whoever is there, for a server with these sockets. They stay open until this is dropped.
    pub fn enable(maps: &Path, sockets: &[RawFd]) -> Result<Self, NameServerError> {
        let (maps, sockets) = (maps.to_owned(), sockets.to_owned());
        let (sender, result) = mpsc::channel();
        let thread = ScopedThread::start(move |stopped| {
            // Where the kernel does not allow it, an end is noticed later, and nothing else is different.
            let _own = sys::unshare_fd_table(&sockets);
            // Closed before those.
            let (outcome, _socket) = match register_socket(&maps, sockets.iter().copied().max()) {
                Ok(socket) => (Ok(()), Some(socket)),
                Err(error) => (Err(error), None),
            };
            // Whoever began this waits for it.
            let _ = sender.send(outcome);
            let _ = stopped.recv();
        })
        .map_err(NameServerError::Thread)?;
        result.recv().map_err(|_| NameServerError::Ended)??;
        Ok(Self { _thread: thread })
    }
}

/// A socket that is in the map as long as it is open, under a number above this one. Nothing ever comes to it.
fn register_socket(maps: &Path, highest: Option<RawFd>) -> Result<OwnedFd, NameServerError> {
    // A bound socket is not counted by the programs that look at it. The loopback is up wherever names are answered.
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(NameServerError::Socket)?;
    let socket = sys::duplicate_above(socket.as_fd(), highest.unwrap_or_default());
    let socket = socket.map_err(NameServerError::Socket)?;
    let (data, _) = pinned(maps, map::NAME_SERVER)?;
    let mut sock_map: SockMap<MapData> = Map::SockMap(data).try_into().map_err(NameServerError::Register)?;
    sock_map.set(0, &socket, 0).map_err(NameServerError::Register)?;
    Ok(socket)
}

impl SuccessorHeartbeat {
    /// Below a pin directory that another agent holds. Where none of its maps is maps_with_heartbeat here, nobody is result.
    pub fn start(dir: &Path) -> Self {
        let heartbeats: Vec<Heartbeats> =
            maps_with_heartbeat(dir).iter().filter_map(|maps| Heartbeats::open(maps).ok()).collect();
        debug!(maps = heartbeats.len(), "waiting to answer names");
        // Not a task: what comes before the wait is over may keep the runtime busy.
        let thread = ScopedThread::start(move |stopped| {
            loop {
                heartbeats.iter().for_each(|heartbeats| heartbeats.store(WAITING, now()));
                if stopped.recv_timeout(WAITING_INTERVAL) != Err(mpsc::RecvTimeoutError::Timeout) {
                    break;
                }
            }
            heartbeats.iter().for_each(|heartbeats| heartbeats.store(WAITING, Duration::ZERO));
        });
        if let Err(error) = &thread {
            warn!(%error, "the agent that answers names is not result that another one waits");
        }
        Self { _thread: thread.ok() }
    }
}

impl ScopedThread {
    fn start(work: impl FnOnce(mpsc::Receiver<Infallible>) + Send + 'static) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new().name("names".to_owned()).spawn(move || work(stopped))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for ScopedThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It cannot panic, and nothing hangs on it.
            let _ = thread.join();
        }
    }
}

/// The directories of all versions that have the map as we know it.
fn maps_with_heartbeat(dir: &Path) -> Vec<PathBuf> {
    let spec = MAPS.iter().find(|spec| spec.name == map::NAME_SERVER_BEAT);
    let is_there = |maps: &PathBuf| spec.is_some_and(|spec| maps.join(pin_name(spec)).exists());
    let versions = versions(dir).unwrap_or_default();
    versions.into_iter().map(|version| maps_of(dir, version)).filter(is_there).collect()
}
