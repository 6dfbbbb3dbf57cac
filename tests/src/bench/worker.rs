//! The tasks of workers, by name.

use anyhow::{Context as _, Result, bail};

use super::{atomicity::dialler, connect, process::Task};

/// Runs the task that the arguments after [`WORKER`](super::process::WORKER) name.
pub fn run(name: &str, task: &str) -> Result<()> {
    match name {
        dialler::Task::NAME => run_as::<dialler::Task>(task),
        connect::ServerTask::NAME => run_as::<connect::ServerTask>(task),
        connect::Task::NAME => run_as::<connect::Task>(task),
        _ => bail!("there is no task {name}"),
    }
}

fn run_as<T: Task>(task: &str) -> Result<()> {
    serde_json::from_str::<T>(task).context("cannot parse the task")?.run()
}
