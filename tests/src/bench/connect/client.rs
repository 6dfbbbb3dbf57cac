//! The client: one thread and one loop.

use std::{
    fs,
    net::{SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    libc,
    sys::socket::{SockType, SockaddrStorage, connect, setsockopt, sockopt},
};
use serde::{Deserialize, Serialize};

use crate::{
    bench::{clock::now, process, sockets},
    lab::traffic::Protocol,
};

/// Rounds at the start that are not counted: they warm up caches, neighbour entries and the server's threads.
const WARMUP: u32 = 3;
/// An answer that takes longer fails the measurement.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    pub protocol: Protocol,
    pub direct: SocketAddr,
    pub vip: SocketAddr,
    pub rounds: u32,
    pub connects: u32,
    /// A cgroup without programs, and the one with them.
    pub bare: PathBuf,
    pub covered: PathBuf,
}

/// Medians of one path in one round, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Medians {
    /// The system call `connect` alone.
    pub connect: f64,
    /// From creating the socket to closing it; for UDP with one datagram and its answer.
    pub whole: f64,
}

/// Every path once: the one without programs by itself, as it needs a change of cgroups; the other two
/// alternately.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Round {
    pub bare: Medians,
    pub direct: Medians,
    pub vip: Medians,
}

impl process::Task for Task {
    const NAME: &'static str = "connect";

    fn run(&self) -> Result<()> {
        measure(self)
    }
}

/// Measures, and prints every round.
fn measure(task: &Task) -> Result<()> {
    let mut rounds = Vec::new();
    for number in 0..WARMUP + task.rounds {
        let round = round(task)?;
        if number >= WARMUP {
            rounds.push(round);
        }
    }
    process::say(&serde_json::to_string(&rounds).context("cannot serialize the results")?)
}

fn round(task: &Task) -> Result<Round> {
    enter(&task.bare)?;
    let [bare] = alternate(task, [task.direct])?;
    enter(&task.covered)?;
    let [direct, vip] = alternate(task, [task.direct, task.vip])?;
    Ok(Round { bare, direct, vip })
}

/// Sockets belong to the cgroup of their process at creation.
fn enter(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0").with_context(|| format!("cannot enter {}", cgroup.display()))
}

/// Alternates between the paths, so that other load on the machine affects each alike.
fn alternate<const N: usize>(task: &Task, to: [SocketAddr; N]) -> Result<[Medians; N]> {
    let once = match task.protocol {
        Protocol::Tcp => tcp,
        Protocol::Udp => udp,
    };
    let mut times = to.map(|_| (Vec::new(), Vec::new()));
    for _ in 0..task.connects {
        for (to, (connects, wholes)) in to.into_iter().zip(&mut times) {
            let (connect, whole) = once(to).with_context(|| format!("cannot connect to {to}"))?;
            connects.push(connect);
            wholes.push(whole);
        }
    }
    Ok(times.map(|(connects, wholes)| Medians { connect: median(connects), whole: median(wholes) }))
}

/// The time of `connect` alone, and of the whole exchange.
fn tcp(to: SocketAddr) -> Result<(u64, u64)> {
    let address = SockaddrStorage::from(to);
    let opened = now();
    let socket = sockets::open(to, SockType::Stream)?;
    setsockopt(&socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    let began = now();
    connect(socket.as_raw_fd(), &address)?;
    let connected = now();
    drop(TcpStream::from(socket));
    Ok((connected - began, now() - opened))
}

fn udp(to: SocketAddr) -> Result<(u64, u64)> {
    let address = SockaddrStorage::from(to);
    let opened = now();
    let socket = sockets::open(to, SockType::Datagram)?;
    let began = now();
    connect(socket.as_raw_fd(), &address)?;
    let connected = now();
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.send(b"?")?;
    socket.recv(&mut [0])?;
    drop(socket);
    Ok((connected - began, now() - opened))
}

fn median(mut values: Vec<u64>) -> f64 {
    values.sort_unstable();
    values.get(values.len() / 2).map_or(f64::NAN, |middle| *middle as f64)
}
