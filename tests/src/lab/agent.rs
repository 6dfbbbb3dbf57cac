//! One agent process: start, readiness, and each way to end it.

use std::{
    env,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use tokio::{net::UnixDatagram, time::timeout};

use crate::lab::{
    eventually::scaled,
    kernel::{confine::Confinement, netns::Netns, process::Process},
};

const TIMEOUT: Duration = Duration::from_secs(20);
/// An agent checks its hooks every ten seconds.
pub const VERIFICATION: Duration = Duration::from_secs(15);

/// The source of an agent's objects.
#[derive(Debug, Clone)]
pub enum Source {
    Manifests(PathBuf),
    /// With a kubeconfig.
    ApiServer(PathBuf),
}

/// The options of every agent of one node.
#[derive(Debug, Clone)]
pub struct AgentSetting {
    pub node: String,
    pub source: Source,
    pub cgroup: PathBuf,
    pub bpffs: PathBuf,
    /// Both output streams of all agents of this node, appended.
    pub log: PathBuf,
    /// The sd_notify socket for the agent's readiness.
    pub notify: PathBuf,
    pub more: Vec<String>,
    /// Instead of the one that was built with the tests.
    pub binary: Option<PathBuf>,
}

#[derive(Debug)]
pub struct Agent {
    process: Process,
    node: String,
    log: PathBuf,
    readiness: UnixDatagram,
}

impl AgentSetting {
    /// The directory of the agent's control socket; removed with the cluster.
    pub fn run_dir(&self) -> &Path {
        self.notify.parent().unwrap_or(Path::new("/"))
    }

    /// `portreeve run` with the options of this node.
    pub fn command(&self) -> Result<Command> {
        let binary = self.binary.clone().map_or_else(portreeve, Ok)?;
        let mut command = Command::new(binary);
        let (flag, path) = match &self.source {
            Source::Manifests(path) => ("--manifests", path),
            Source::ApiServer(path) => ("--kubeconfig", path),
        };
        command.arg("run").arg(flag).arg(path).args(["--node-name", &self.node]);
        command.arg("--cgroup").arg(&self.cgroup).arg("--bpffs").arg(&self.bpffs);
        command.arg("--run-dir").arg(self.run_dir()).args(&self.more);
        command.stdin(Stdio::null()).env("NO_COLOR", "1").env_remove("NOTIFY_SOCKET");
        Ok(command)
    }

    /// Starts a command of this node's agent with exactly the rights of the DaemonSet.
    pub fn start(&self, command: Command, netns: &Netns) -> Result<Process> {
        let confinement = Confinement::of_daemon_set(&self.bpffs, self.run_dir())?;
        Process::start_confined(&format!("the agent of {}", self.node), command, netns, confinement)
    }
}

impl Agent {
    /// Starts an agent. Returns before it is ready.
    pub fn spawn(setting: &AgentSetting, netns: &Netns) -> Result<Self> {
        // The socket of an earlier agent may exist.
        let _ = fs::remove_file(&setting.notify);
        let readiness =
            UnixDatagram::bind(&setting.notify).context("cannot listen for the agent's readiness")?;
        let log = OpenOptions::new().create(true).append(true).open(&setting.log).context("cannot log")?;
        let mut command = setting.command()?;
        command.env("NOTIFY_SOCKET", &setting.notify).stdout(log.try_clone()?).stderr(log);
        let process = setting.start(command, netns)?;
        Ok(Self { process, node: setting.node.clone(), log: setting.log.clone(), readiness })
    }

    /// Waits until it has programmed the manifests.
    pub async fn ready(&mut self) -> Result<()> {
        let limit = scaled(TIMEOUT);
        timeout(limit, self.until_ready())
            .await
            .with_context(|| format!("the agent of {} is not ready within {limit:?}", self.node))
            .flatten()
            .with_context(|| format!("its log ends with\n{}", tail(&self.log, 20)))
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill().map(|_| ())
    }

    /// SIGTERM. Returns the exit status.
    pub async fn terminate(mut self) -> Result<ExitStatus> {
        self.process.signal(Signal::SIGTERM)?;
        timeout(scaled(TIMEOUT), self.process.ended())
            .await
            .context("the agent does not end after SIGTERM")?
    }

    async fn until_ready(&mut self) -> Result<()> {
        let mut message = [0; 256];
        loop {
            tokio::select! {
                received = self.readiness.recv(&mut message) => {
                    let length = received.context("cannot receive from the agent")?;
                    let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default()).into_owned();
                    if text.lines().any(|line| line == "READY=1") {
                        return Ok(());
                    }
                }
                status = self.process.ended() => bail!("the agent ended before it was ready: {}", status?),
            }
        }
    }
}

/// The last lines of a file, for messages.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|error| format!("(unreadable: {error})"));
    let skipped = text.lines().count().saturating_sub(lines);
    text.lines().skip(skipped).collect::<Vec<_>>().join("\n")
}

/// The agent's binary: `$PORTREEVE_BIN`, else the one in the same target directory.
pub fn portreeve() -> Result<PathBuf> {
    if let Some(path) = env::var_os("PORTREEVE_BIN") {
        return Ok(path.into());
    }
    let path = built_beside("portreeve")?;
    ensure!(path.exists(), "there is no {}: build it with `cargo build --package proxy`", path.display());
    Ok(path)
}

/// A binary of this workspace, of the same profile as the running one.
pub fn built_beside(name: &str) -> Result<PathBuf> {
    let own = env::current_exe().context("cannot read the path of this program")?;
    // Tests are in `deps`, one directory below the binaries.
    let directory = own.parent().context("this program has no directory")?;
    let directory = match directory.parent() {
        Some(above) if directory.ends_with("deps") => above,
        Some(_) | None => directory,
    };
    Ok(directory.join(name))
}
