//! The worker: all backends, and the clients.

use std::{
    collections::VecDeque,
    io::{self, BufReader, Read, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    process::ChildStdout,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    libc,
    sys::socket::{SockType, SockaddrStorage, connect, setsockopt, sockopt},
};
use serde::{Deserialize, Serialize};

use super::fixture::{self, BACKEND_PORT};
use crate::bench::{clock::now, process, sockets};

/// An answer that takes longer counts as failed.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that a server keeps before it closes the oldest: by then its client has reset it, and no TIME_WAIT
/// remains.
const KEPT: usize = 64;
/// Records per write.
const BATCH: u64 = 256;

#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    pub vips: [SocketAddr; 2],
    /// Of all clients together.
    pub connects: u64,
    /// Per family.
    pub clients: u8,
}

/// One connect, and the generation that answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Read before the call of `connect`.
    pub began: u64,
    /// Read after the return of `connect`.
    pub connected: u64,
    pub reached: Result<u32, Failure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Failure {
    pub step: Step,
    /// 0: the connection ended before an answer arrived.
    pub errno: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Connect,
    Answer,
}

impl process::Task for Task {
    const NAME: &'static str = "dial";

    fn run(&self) -> Result<()> {
        run(self)
    }
}

fn run(task: &Task) -> Result<()> {
    for listener in sockets::listeners(BACKEND_PORT)? {
        thread::spawn(move || serve(&listener));
    }
    let left = Arc::new(AtomicU64::new(task.connects));
    let vips = task.vips.iter().flat_map(|vip| (0..task.clients).map(|_| *vip));
    let clients: Vec<_> = vips
        .map(|vip| {
            let left = Arc::clone(&left);
            thread::spawn(move || dial(vip, &left))
        })
        .collect();
    for client in clients {
        client.join().map_err(|_| anyhow!("a client panicked"))??;
    }
    Ok(())
}

/// Answers every connection with the generation of its local address.
fn serve(listener: &TcpListener) {
    let mut kept = VecDeque::with_capacity(KEPT);
    loop {
        // A client that aborts reports it itself.
        let Ok((mut stream, _)) = listener.accept() else { continue };
        let Ok(reached) = stream.local_addr() else { continue };
        let _ = stream.write_all(&fixture::generation(reached.ip()).to_le_bytes());
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(stream);
    }
}

fn dial(vip: SocketAddr, left: &AtomicU64) -> Result<()> {
    let mut batch = Vec::new();
    loop {
        let had =
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(BATCH)));
        let had = had.unwrap_or_default();
        if had == 0 {
            return Ok(());
        }
        batch.clear();
        for _ in 0..had.min(BATCH) {
            batch.extend_from_slice(&connect_once(vip)?.to_bytes());
        }
        // The lock of the standard output keeps batches in one piece.
        io::stdout().lock().write_all(&batch).context("the parent does not read the records")?;
    }
}

fn connect_once(vip: SocketAddr) -> Result<Record> {
    let socket = sockets::open(vip, SockType::Stream)?;
    // Closing sends a reset: no connection waits for its last packets, and ports are free again.
    setsockopt(&socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    let address = SockaddrStorage::from(vip);
    let began = now();
    let outcome = connect(socket.as_raw_fd(), &address);
    let connected = now();
    let reached = match outcome {
        Ok(()) => answer(TcpStream::from(socket)),
        Err(errno) => Err(Failure { step: Step::Connect, errno: errno as i32 }),
    };
    Ok(Record { began, connected, reached })
}

fn answer(mut stream: TcpStream) -> Result<u32, Failure> {
    let mut generation = [0; 4];
    let outcome = stream.set_read_timeout(Some(TIMEOUT)).and_then(|()| stream.read_exact(&mut generation));
    let failure = |error: io::Error| Failure { step: Step::Answer, errno: error.raw_os_error().unwrap_or(0) };
    outcome.map(|()| u32::from_le_bytes(generation)).map_err(failure)
}

/// All records of the worker, once it has ended.
pub fn read(output: ChildStdout) -> Result<Vec<Record>> {
    let mut output = BufReader::with_capacity(1 << 16, output);
    let mut records = Vec::new();
    let mut bytes = [0; Record::BYTES];
    loop {
        match output.read_exact(&mut bytes) {
            Ok(()) => records.push(Record::from_bytes(bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(records),
            Err(error) => return Err(error).context("cannot read the records"),
        }
    }
}

impl Record {
    const BYTES: usize = 24;

    /// Two clock values, the generation or the errno, and a tag that tells them apart.
    fn to_bytes(self) -> [u8; Self::BYTES] {
        let (what, kind) = match self.reached {
            Ok(generation) => (generation, 0),
            Err(Failure { step: Step::Connect, errno }) => (errno as u32, 1),
            Err(Failure { step: Step::Answer, errno }) => (errno as u32, 2),
        };
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.began.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.connected.to_le_bytes());
        bytes[16..20].copy_from_slice(&what.to_le_bytes());
        bytes[20..].copy_from_slice(&u32::to_le_bytes(kind));
        bytes
    }

    fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let half = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let whole = |at| u64::from(half(at)) | u64::from(half(at + 4)) << 32;
        let failed = |step| Err(Failure { step, errno: half(16) as i32 });
        let reached = match half(20) {
            0 => Ok(half(16)),
            1 => failed(Step::Connect),
            _ => failed(Step::Answer),
        };
        Self { began: whole(0), connected: whole(8), reached }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_the_pipe() {
        let failed = |step, errno| Err(Failure { step, errno });
        for reached in [Ok(0), Ok(u32::MAX), failed(Step::Connect, 111), failed(Step::Answer, 0)] {
            let record = Record { began: 1 << 40 | 7, connected: u64::MAX - 1, reached };
            assert_eq!(Record::from_bytes(record.to_bytes()), record);
        }
    }
}
