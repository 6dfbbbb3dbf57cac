//! A pod that queries a name server far more than a stub resolver does.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;

use super::stub::{connected, query};
use crate::lab::pod::Pod;

/// Over several sockets, so that each of the server's sockets has its part.
const SOCKETS: usize = 16;
const TICK: Duration = Duration::from_millis(1);
/// The part of a second that a sender may be late.
const LATE: u64 = 200;
/// The wait of a connect.
const CONNECT: Duration = Duration::from_secs(1);

/// What a pod does as a flood.
#[derive(Debug, Clone, Copy)]
pub enum Flood {
    /// Queries for different names below a domain, or for the domain itself. Replies are not read.
    Queries { below: &'static str, is_random: bool, at_once: u64, per_second: u64 },
    /// Connections that stay open; those that the server closes are replaced, one at each tick.
    Connections(usize),
}

/// A flood that goes on until this is dropped.
#[derive(Debug)]
pub struct Flooding {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    pub fn start(self, pod: &Arc<Pod>, server: SocketAddr) -> Result<Flooding> {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let under_way = UnderWay { stop: Arc::clone(&stop), done: Arc::clone(&done) };
        let thread = match self {
            Self::Queries { below, is_random, at_once, per_second } => {
                let sockets = connected(pod, server, SOCKETS, TICK)?;
                let name = move |n: u64| {
                    if is_random { format!("n{n:x}.{below}") } else { below.to_owned() }
                };
                let first = fresh();
                let send = move |n: u64| {
                    let socket = sockets.get(usize::try_from(n).unwrap_or_default() % SOCKETS);
                    // A full buffer is a lost query.
                    socket.map(|socket| socket.send(&query(n as u16, &name(first.wrapping_add(n)))));
                };
                thread::spawn(move || under_way.at_a_rate(at_once, per_second, send))
            }
            Self::Connections(held) => {
                let pod = Arc::clone(pod);
                thread::spawn(move || under_way.hold(&pod, server, held))
            }
        };
        Ok(Flooding { stop, done, thread: Some(thread) })
    }
}

impl Flooding {
    /// The queries sent, or connections made.
    pub fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }
}

impl Drop for Flooding {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        // A panic of the thread was reported already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct UnderWay {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
}

impl UnderWay {
    fn at_a_rate(&self, at_once: u64, per_second: u64, send: impl Fn(u64)) {
        let start = Instant::now();
        (0..at_once).for_each(&send);
        let mut passed = at_once;
        while !self.stop.load(Relaxed) {
            let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
            let due = at_once + micros.saturating_mul(per_second) / 1_000_000;
            // A thread that is late does not catch up: that would be another rate.
            (passed.max(due.saturating_sub(per_second / LATE))..due).for_each(&send);
            passed = due;
            self.done.store(passed, Relaxed);
            thread::sleep(TICK);
        }
    }

    fn hold(&self, pod: &Pod, server: SocketAddr, count: usize) {
        let mut held: Vec<TcpStream> = Vec::new();
        let mut next = 0;
        // The namespace of a socket is that of the thread which opens it.
        let work = || {
            while !self.stop.load(Relaxed) {
                if held.len() < count {
                    if let Ok(stream) = open(server) {
                        self.done.fetch_add(1, Relaxed);
                        held.push(stream);
                    }
                } else if held.get(next % count).is_some_and(is_closed) {
                    held.swap_remove(next % count);
                } else {
                    next += 1;
                }
                if held.len() == count {
                    thread::sleep(TICK);
                }
            }
            Ok(())
        };
        let _ = pod.netns().run(work);
    }
}

fn open(server: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, CONNECT)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn is_closed(stream: &TcpStream) -> bool {
    match stream.peek(&mut [0]) {
        Ok(octets) => octets == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

/// The first number of names that no flood of this process has used.
fn fresh() -> u64 {
    static FLOODS: AtomicU64 = AtomicU64::new(0);
    FLOODS.fetch_add(1, Relaxed) << 32
}
