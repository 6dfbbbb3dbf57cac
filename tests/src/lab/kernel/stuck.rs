//! Threads of a process that do not go on, as in a deadlock; the other threads of the process do.

use std::{
    fs, io,
    path::PathBuf,
    sync::mpsc::{Receiver, Sender, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

/// The system calls in which an idle thread holds no lock.
const WAITING: [libc::c_long; 2] = [libc::SYS_epoll_pwait, libc::SYS_futex];
const PAUSE: Duration = Duration::from_millis(2);
const LIMIT: Duration = Duration::from_secs(10);

/// They go on when this is dropped.
#[derive(Debug)]
pub struct StuckThreads {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl StuckThreads {
    /// Stops each thread of this name where it waits for work.
    pub fn of(process: u32, name: &str) -> Result<Self> {
        let threads = named(process, name)?;
        ensure!(!threads.is_empty(), "process {process} has no thread {name}");
        let (stop, stopped) = channel();
        let (sender, ready) = channel();
        // The kernel lets a thread go on when the thread that traces it ends.
        let thread = thread::spawn(move || trace(&threads, &sender, &stopped));
        let stuck = Self { stop: Some(stop), thread: Some(thread) };
        ready.recv().context("the tracing thread has ended")??;
        Ok(stuck)
    }
}

impl Drop for StuckThreads {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A panic of the thread was reported already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn trace(threads: &[(libc::pid_t, PathBuf)], ready: &Sender<Result<()>>, stopped: &Receiver<()>) {
    let all = threads.iter().try_for_each(|(thread, directory)| stop(*thread, directory));
    let is_stopped = all.is_ok();
    // Its receiver waits.
    let _ = ready.send(all);
    if is_stopped {
        // Ends with an error when the sender is dropped.
        let _ = stopped.recv();
    }
}

fn named(process: u32, name: &str) -> Result<Vec<(libc::pid_t, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/task")).context("the process has ended")? {
        let path = entry?.path();
        // A thread may end at any time.
        let is_named = fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
        let id = path.file_name().and_then(|id| id.to_str()?.parse().ok());
        found.extend(id.filter(|_| is_named).map(|id| (id, path)));
    }
    Ok(found)
}

/// Stops a thread. One that does something may hold a lock, which would stop the others: it goes on, and is stopped later.
fn stop(thread: libc::pid_t, directory: &std::path::Path) -> Result<()> {
    ptrace(libc::PTRACE_SEIZE, thread).context("cannot trace a thread")?;
    let deadline = Instant::now() + LIMIT;
    loop {
        ptrace(libc::PTRACE_INTERRUPT, thread).context("cannot stop a thread")?;
        let mut status = 0;
        // SAFETY: waits for a thread that this one traces, and writes to a local variable.
        let waited = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
        ensure!(waited == thread, "cannot wait for a thread: {}", io::Error::last_os_error());
        let call = fs::read_to_string(directory.join("syscall")).context("cannot read a thread's state")?;
        let number = call.split(' ').next().and_then(|number| number.parse().ok());
        if number.is_some_and(is_waiting) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("the thread is never idle: {call}");
        }
        ptrace(libc::PTRACE_CONT, thread).context("cannot continue a thread")?;
        thread::sleep(PAUSE);
    }
}

fn is_waiting(call: libc::c_long) -> bool {
    #[cfg(target_arch = "x86_64")]
    if call == libc::SYS_epoll_wait {
        return true;
    }
    WAITING.contains(&call)
}

fn ptrace(request: libc::c_uint, thread: libc::pid_t) -> io::Result<()> {
    // SAFETY: these requests take no addresses.
    let result = unsafe { libc::ptrace(request, thread, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
