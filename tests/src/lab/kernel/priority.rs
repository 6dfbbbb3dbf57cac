//! The priority of threads, for measurements beside other work of the machine.

use std::{fs, io};

use anyhow::{Context as _, Result, ensure};

/// Before ordinary threads, which have 0.
const NICE: i32 = -15;

/// Raises the priority of all threads of a process. Threads that they start have it, too.
pub fn raise(process: u32) -> Result<()> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).context("there is no such process")?;
    for task in tasks {
        let name = task.context("cannot list threads")?.file_name();
        let id: u32 = name.to_string_lossy().parse().context("the name of a thread is a number")?;
        // SAFETY: the call takes numbers only.
        let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, id, NICE) };
        ensure!(result == 0, "cannot raise the priority of {id}: {}", io::Error::last_os_error());
    }
    Ok(())
}

/// Runs the calling thread before all ordinary ones, as a clock does: what it measures does not include its own wait for a
/// processor. Threads that it starts are ordinary ones.
pub fn measure() -> Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameters outlive the call.
    let result = unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters)
    };
    ensure!(result == 0, "cannot set the scheduling policy: {}", io::Error::last_os_error());
    Ok(())
}
