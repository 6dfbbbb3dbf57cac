//! The state that tells programs, and other agents, whether this agent answers DNS queries.
//!
//! The programs redirect clients of the cluster's DNS Service to this node's own server only while
//! `NAME_SERVER` holds a socket of a live process, and while the heartbeat is recent. The kernel removes the
//! socket from the map when its process ends, however it ends.

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
use proxy_ebpf::abi::{ABI_VERSION, MAPS, map};
use tracing::{debug, warn};

use crate::datapath::{
    kernel::{fd_table, now},
    maps::{Access, MmapArray, OpenError, mapped, pinned},
    pins::{maps_of, pin_name, versions},
};

/// Indices in the heartbeat map.
const SERVING: u32 = 0;
const WAITING: u32 = 1;
/// Interval of the heartbeat of a waiting agent.
const WAITING_INTERVAL: Duration = Duration::from_millis(250);
const HEARTBEAT_TIMEOUT: Duration = Duration::from_nanos(map::NAME_SERVER_TIMEOUT);

#[derive(Debug, thiserror::Error)]
pub enum NameServerError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot create the socket of the DNS redirect")]
    Socket(#[source] io::Error),
    #[error("cannot start the thread of the DNS redirect")]
    Thread(#[source] io::Error),
    #[error("cannot register the name server with the programs")]
    Register(#[source] aya::maps::MapError),
    #[error("the thread of the DNS redirect has ended")]
    Ended,
}

/// The heartbeats in one pin directory. Any clone may write them.
#[derive(Clone, Debug)]
pub struct Heartbeats(Arc<Mutex<MmapArray<u64>>>);

/// Redirects DNS clients to this process until it is dropped.
///
/// The socket in `NAME_SERVER` belongs to a thread with a file descriptor table of its own. When a process is
/// killed, its files are closed only after all of its memory was freed, and until then clients would be
/// redirected to sockets that no thread reads. The thread's table is closed as soon as the thread ends, which
/// is at once.
///
/// The thread holds the server's sockets, too. When a thread ends, the kernel closes the files that are open
/// nowhere else from the highest descriptor down (`task_work_run`, not guaranteed but so since 4.3). The
/// socket in the map has the highest descriptor, so clients are never redirected to a socket that is already
/// closed. Otherwise both attempts of a resolver could be refused within a moment.
#[derive(Debug)]
pub struct DnsRedirect {
    _thread: ScopedThread,
}

/// Signals that an agent waits to take over, until it is dropped.
#[derive(Debug)]
pub struct SuccessorHeartbeat {
    _thread: Option<ScopedThread>,
}

/// A thread that runs until this is dropped, which closes its channel.
#[derive(Debug)]
struct ScopedThread {
    stop: Option<mpsc::Sender<Infallible>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Heartbeats {
    /// Opens the heartbeats among the maps of a directory.
    pub fn open(maps: &Path) -> Result<Self, OpenError> {
        let name = map::NAME_SERVER_BEAT;
        let heartbeats: MmapArray<u64> = mapped(maps, name, Access::Write)?;
        // It stays mapped from here on.
        heartbeats.read(SERVING).map_err(|source| OpenError::Map { name, source })?;
        Ok(Self(Arc::new(Mutex::new(heartbeats))))
    }

    /// Records that all DNS server threads were alive this long ago.
    pub fn record_serving(&self, age: Duration) {
        self.store(SERVING, now().saturating_sub(age));
    }

    /// The time since all DNS server threads were alive; `None`: they never were.
    pub fn serving_age(&self) -> Option<Duration> {
        let heartbeats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        age(heartbeats.read(SERVING).ok().flatten())
    }

    /// Whether an agent waits to take over.
    pub fn has_successor(&self) -> bool {
        let heartbeats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let heartbeat = heartbeats.read(WAITING).ok().flatten().unwrap_or_default();
        let heartbeat = Duration::from_nanos(heartbeat);
        heartbeat != Duration::ZERO && now() < heartbeat + HEARTBEAT_TIMEOUT
    }

    fn store(&self, index: u32, heartbeat: Duration) {
        let nanoseconds = u64::try_from(heartbeat.as_nanos()).unwrap_or(u64::MAX);
        let mut heartbeats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // It cannot fail, and to programs and other agents a lost heartbeat is a late one.
        let _ = heartbeats.publish(index, nanoseconds);
    }
}

/// Whether programs count the name server of a pin directory as alive, by its heartbeat. The agent may be gone.
pub fn name_server_is_alive(dir: &Path) -> Result<bool, OpenError> {
    let name = map::NAME_SERVER_BEAT;
    let heartbeats: MmapArray<u64> = mapped(&maps_of(dir, ABI_VERSION), name, Access::Read)?;
    let heartbeat = heartbeats.read(SERVING).map_err(|source| OpenError::Map { name, source })?;
    Ok(age(heartbeat).is_some_and(|age| age < HEARTBEAT_TIMEOUT))
}

fn age(heartbeat: Option<u64>) -> Option<Duration> {
    let heartbeat = heartbeat.filter(|heartbeat| *heartbeat != 0)?;
    Some(now().saturating_sub(Duration::from_nanos(heartbeat)))
}

impl DnsRedirect {
    /// Replaces the socket of another process, for a server with these sockets. They stay open until this is
    /// dropped.
    pub fn enable(maps: &Path, sockets: &[RawFd]) -> Result<Self, NameServerError> {
        let (maps, sockets) = (maps.to_owned(), sockets.to_owned());
        let (sender, result) = mpsc::channel();
        let thread = ScopedThread::start(move |stopped| {
            // If the kernel does not allow it, the end of the process is noticed later; nothing else changes.
            let _own = fd_table::unshare_fd_table(&sockets);
            // Closed before the server's sockets.
            let (outcome, _socket) = match register_socket(&maps, sockets.iter().copied().max()) {
                Ok(socket) => (Ok(()), Some(socket)),
                Err(error) => (Err(error), None),
            };
            // The caller waits for it.
            let _ = sender.send(outcome);
            let _ = stopped.recv();
        })
        .map_err(NameServerError::Thread)?;
        result.recv().map_err(|_| NameServerError::Ended)??;
        Ok(Self { _thread: thread })
    }
}

/// Puts a socket into the map, where it stays as long as it is open. Its descriptor is above `highest`. It
/// never receives anything.
fn register_socket(maps: &Path, highest: Option<RawFd>) -> Result<OwnedFd, NameServerError> {
    // Programs do not count a bound socket. The loopback device is up wherever DNS is served.
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(NameServerError::Socket)?;
    let socket = fd_table::duplicate_above(socket.as_fd(), highest.unwrap_or_default());
    let socket = socket.map_err(NameServerError::Socket)?;
    let (data, _) = pinned(maps, map::NAME_SERVER)?;
    let mut sock_map: SockMap<MapData> = Map::SockMap(data).try_into().map_err(NameServerError::Register)?;
    sock_map.set(0, &socket, 0).map_err(NameServerError::Register)?;
    Ok(socket)
}

impl SuccessorHeartbeat {
    /// Starts the heartbeat below a pin directory that another agent holds. Does nothing if no ABI version
    /// there has a known heartbeat map.
    pub fn start(dir: &Path) -> Self {
        let heartbeats: Vec<Heartbeats> =
            maps_with_heartbeat(dir).iter().filter_map(|maps| Heartbeats::open(maps).ok()).collect();
        debug!(maps = heartbeats.len(), "waiting to take over DNS");
        // A thread rather than a task: preparing may keep the runtime busy.
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
            warn!(%error, "cannot signal the running agent that a successor waits");
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
            // It cannot panic, and its result is not used.
            let _ = thread.join();
        }
    }
}

/// The map directories of all ABI versions with a heartbeat map of the known layout.
fn maps_with_heartbeat(dir: &Path) -> Vec<PathBuf> {
    let spec = MAPS.iter().find(|spec| spec.name == map::NAME_SERVER_BEAT);
    let is_there = |maps: &PathBuf| spec.is_some_and(|spec| maps.join(pin_name(spec)).exists());
    let versions = versions(dir).unwrap_or_default();
    versions.into_iter().map(|version| maps_of(dir, version)).filter(is_there).collect()
}
