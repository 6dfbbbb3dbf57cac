//! The processes of a measurement: the `bench` binary itself, told by its arguments what to do.

use std::{
    env,
    io::Write as _,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    process::{ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};

use super::{atomicity::dialler, connect};
use crate::lab::{
    agent::built_beside,
    kernel::{cgroup::Cgroup, netns::Netns, process::Process},
};

/// The word that tells the program it is a worker; its task follows as JSON.
pub const WORKER: &str = "worker";

#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub enum Worker {
    /// Connects to a frontend whose backends change, and is those backends.
    Dial(dialler::Task),
    /// Serves what `Connect` connects to.
    Serve(connect::Serving),
    /// Connects over one path and another by turns.
    Connect(connect::Task),
}

impl Worker {
    /// Does what the arguments after [`WORKER`] say.
    pub fn run(task: &str) -> Result<()> {
        match serde_json::from_str(task).context("cannot understand the task")? {
            Self::Dial(task) => dialler::run(&task),
            Self::Serve(task) => connect::serve(&task),
            Self::Connect(task) => connect::take_turns(&task),
        }
    }

    /// Starts a process with this task; what it prints is its result.
    pub(super) fn start(&self, netns: &Netns, cgroup: &Cgroup) -> Result<(Process, ChildStdout)> {
        let own = env::current_exe().context("this program does not know its own path")?;
        let is_test = own.parent().is_some_and(|directory| directory.ends_with("deps"));
        let mut command = Command::new(if is_test { built_beside("bench")? } else { own });
        command.arg(WORKER).arg(serde_json::to_string(self).context("cannot write a task")?);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Process::start("a worker", command, netns, Some(cgroup))?;
        let output = process.child().stdout.take().context("the worker's output is missing")?;
        Ok((process, output))
    }
}

/// Waits for a worker that has closed its output.
pub(super) async fn finish(mut process: Process) -> Result<()> {
    let status = process.ended().await?;
    ensure!(status.success(), "a worker failed: {status}");
    Ok(())
}

/// One listener for each family, so that IPv4 clients meet what most servers are.
pub(super) fn listeners(port: u16) -> Result<[TcpListener; 2]> {
    let wildcards = wildcards(port);
    let [v4, v6] = wildcards.map(|address| {
        let fd = unbound(address, SockType::Stream)?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).context("cannot bind")?;
        listen(&fd, Backlog::MAXALLOWABLE).context("cannot listen")?;
        Ok::<_, anyhow::Error>(TcpListener::from(fd))
    });
    Ok([v4?, v6?])
}

pub(super) fn datagram_sockets(port: u16) -> Result<[UdpSocket; 2]> {
    let [v4, v6] = wildcards(port).map(|address| {
        let fd = unbound(address, SockType::Datagram)?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).context("cannot bind")?;
        Ok::<_, anyhow::Error>(UdpSocket::from(fd))
    });
    Ok([v4?, v6?])
}

fn wildcards(port: u16) -> [SocketAddr; 2] {
    [(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
}

fn unbound(address: SocketAddr, kind: SockType) -> Result<OwnedFd> {
    let fd = open(address, kind)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true).context("cannot reuse an address")?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true).context("cannot keep the families apart")?;
    }
    Ok(fd)
}

/// A fresh socket of the family of an address.
pub(super) fn open(address: SocketAddr, kind: SockType) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket(family, kind, SockFlag::SOCK_CLOEXEC, None).context("cannot open a socket")
}

/// Tells whoever started this worker that it is at work.
pub(super) fn say(line: &str) -> Result<()> {
    let mut output = std::io::stdout();
    writeln!(output, "{line}").and_then(|()| output.flush()).context("nobody listens")
}
