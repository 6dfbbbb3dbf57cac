//! The process of a worker: the `bench` binary again, whose arguments name its task.

use std::{
    env,
    io::Write as _,
    process::{ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Serialize, de::DeserializeOwned};

use crate::lab::{
    agent::built_beside,
    kernel::{cgroup::Cgroup, netns::Netns, process::Process},
};

/// The first argument of a worker; the name of its task and the task as JSON follow.
pub const WORKER: &str = "worker";

/// A task of a worker.
pub trait Task: Serialize + DeserializeOwned {
    const NAME: &'static str;

    /// Runs in the worker's process.
    fn run(&self) -> Result<()>;
}

/// Starts a worker. Its result is its standard output.
pub fn start<T: Task>(task: &T, netns: &Netns, cgroup: &Cgroup) -> Result<(Process, ChildStdout)> {
    let own = env::current_exe().context("cannot read the path of this program")?;
    let is_test = own.parent().is_some_and(|directory| directory.ends_with("deps"));
    let mut command = Command::new(if is_test { built_beside("bench")? } else { own });
    command.args([WORKER, T::NAME]).arg(serde_json::to_string(task).context("cannot write a task")?);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut process = Process::start("a worker", command, netns, Some(cgroup))?;
    let output = process.child().stdout.take().context("the worker's output is missing")?;
    Ok((process, output))
}

/// Waits for a worker that has closed its output.
pub async fn finish(mut process: Process) -> Result<()> {
    let status = process.ended().await?;
    ensure!(status.success(), "a worker failed: {status}");
    Ok(())
}

/// Writes a line to the parent process.
pub fn say(line: &str) -> Result<()> {
    let mut output = std::io::stdout();
    writeln!(output, "{line}").and_then(|()| output.flush()).context("the parent does not read")
}
