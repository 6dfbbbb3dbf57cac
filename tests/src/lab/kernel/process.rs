//! A child process in a network namespace and a cgroup: killed and reaped when dropped.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd as _, FromRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, ExitStatus},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sched::{CloneFlags, setns},
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::{Pid, write},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::lab::kernel::{cgroup::Cgroup, confine::Confinement, netns::Netns};

#[derive(Debug)]
pub struct Process {
    /// The name in messages.
    name: String,
    child: Child,
    /// Becomes readable when the child ends.
    ended: AsyncFd<OwnedFd>,
}

impl Process {
    /// Starts `command` in `netns`, and in `cgroup` if one is given.
    ///
    /// The child dies with the calling thread, so that it does not outlive a killed test. It is in a process
    /// group of its own and does not receive the terminal's Ctrl-C: the owner of this value ends it.
    pub fn start(name: &str, command: Command, netns: &Netns, cgroup: Option<&Cgroup>) -> Result<Self> {
        let netns = netns.as_fd().try_clone_to_owned().context("cannot duplicate a descriptor")?;
        let entrance = cgroup.map(Cgroup::entrance).transpose()?;
        Self::spawn(name, command, Some(netns), entrance)
    }

    /// As [`Self::start`], with the rights of a container.
    pub fn start_confined(
        name: &str,
        mut command: Command,
        netns: &Netns,
        confinement: Confinement,
    ) -> Result<Self> {
        let netns = netns.as_fd().try_clone_to_owned().context("cannot duplicate a descriptor")?;
        // SAFETY: both closures run between fork and exec and make only system calls on values made before; they take no
        // lock and allocate nothing.
        unsafe {
            command.pre_exec(move || enter(Some(&netns), None));
            command.pre_exec(move || confinement.enter());
        }
        Self::spawn(name, command, None, None)
    }

    /// The same in the namespaces of this program, which needs no privileges.
    pub fn start_here(name: &str, command: Command) -> Result<Self> {
        Self::spawn(name, command, None, None)
    }

    fn spawn(
        name: &str,
        mut command: Command,
        netns: Option<OwnedFd>,
        entrance: Option<File>,
    ) -> Result<Self> {
        command.process_group(0);
        // SAFETY: the closure runs between fork and exec and makes only system calls on descriptors opened
        // before; it takes no lock and allocates nothing.
        unsafe { command.pre_exec(move || enter(netns.as_ref(), entrance.as_ref())) };
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("cannot start {name} ({program})"))?;
        // From here on `child` has an owner that ends it.
        let mut guard = Guard(Some(child));
        let pidfd = guard.0.as_ref().map(pidfd_open).context("no child")??;
        // SAFETY: an `OwnedFd` is the same open descriptor for its whole lifetime, and here `AsyncFd` owns it.
        let ended = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        let ended = ended.context("cannot watch a child")?;
        let child = guard.0.take().context("no child")?;
        Ok(Self { name: name.to_owned(), child, ended })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits until the process has ended by itself or by a signal.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        let _readable = self.ended.readable().await.context("cannot watch a child")?;
        self.child.wait().with_context(|| format!("cannot wait for {}", self.name))
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).context("a process id out of range")?);
        kill(pid, signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Kills the process.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .with_context(|| format!("cannot kill {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Ends a child that did not become a `Process`.
struct Guard(Option<Child>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            end(child);
        }
    }
}

fn end(child: &mut Child) {
    // A child that has ended and was reaped reports its status again; no other error is possible here.
    let _ = child.kill();
    let _ = child.wait();
}

fn enter(netns: Option<&OwnedFd>, entrance: Option<&File>) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if let Some(netns) = netns {
        setns(netns, CloneFlags::CLONE_NEWNET)?;
    }
    if let Some(entrance) = entrance {
        write(entrance, b"0")?;
    }
    Ok(())
}

fn pidfd_open(child: &Child) -> Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and accesses no memory of this process.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), libc::PIDFD_NONBLOCK) };
    if fd < 0 {
        bail!("cannot open a pidfd: {}", io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).context("a descriptor out of range")?;
    // SAFETY: the kernel just returned this descriptor, which has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
