//! The measured server.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::unistd::{SysconfVar, sysconf};

use crate::lab::{
    agent::{portreeve, tail},
    kernel::{netns::Netns, process::Process},
};

#[derive(Debug, Clone)]
pub enum Implementation {
    Portreeve,
    CoreDns(PathBuf),
}

pub struct Server {
    process: Process,
    address: SocketAddr,
    log: PathBuf,
    started: Instant,
}

const PORT: u16 = 53;

impl Implementation {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Portreeve => "portreeve",
            Self::CoreDns(_) => "CoreDNS",
        }
    }

    fn command(&self, corefile: &Path, kubeconfig: &Path) -> Result<Command> {
        Ok(match self {
            Self::Portreeve => {
                let mut command = Command::new(portreeve()?);
                command.arg("dns").arg("--corefile").arg(corefile).arg("--kubeconfig").arg(kubeconfig);
                command
            }
            Self::CoreDns(binary) => {
                let mut command = Command::new(binary);
                command.arg("-conf").arg(corefile);
                command
            }
        })
    }
}

impl Server {
    pub fn start(
        kind: Implementation,
        netns: &Netns,
        directory: &Path,
        kubeconfig: &Path,
        upstream: SocketAddr,
    ) -> Result<Self> {
        let corefile = directory.join("Corefile");
        fs::write(&corefile, configuration(kubeconfig, upstream)).context("cannot write a Corefile")?;
        let log = directory.join(format!("{}.log", kind.name()));
        let output = File::create(&log).context("cannot create a log")?;
        let mut command = kind.command(&corefile, kubeconfig)?;
        let errors = output.try_clone().context("cannot duplicate a descriptor")?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let process = Process::start(kind.name(), command, netns, None)?;
        let address = (Ipv4Addr::LOCALHOST, PORT).into();
        Ok(Self { process, address, log, started: Instant::now() })
    }

    pub fn since_start(&self) -> Duration {
        self.started.elapsed()
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        tail(&self.log, 20)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Processor time used so far, in user and kernel mode.
    pub fn processor_time(&self) -> Result<Duration> {
        let text = self.proc("stat")?;
        // The process name may contain a parenthesis.
        let (_, fields) = text.rsplit_once(')').context("an invalid stat file")?;
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
        let ticks = ticks.sum::<Result<u64, _>>().context("an invalid stat file")?;
        let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().context("no CLK_TCK")?;
        Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
    }

    /// Peak resident memory, in KiB.
    pub fn memory(&self) -> Result<u64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.split_whitespace().next()).context("no VmHWM")?;
        number.parse().context("an invalid VmHWM")
    }

    fn proc(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.process.id());
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }

    pub fn end(mut self) -> Result<()> {
        self.process.kill().map(drop)
    }
}

/// The Corefile of a stock cluster, without queries to external servers.
fn configuration(kubeconfig: &Path, upstream: SocketAddr) -> String {
    let kubeconfig = kubeconfig.display();
    format!(
        ". {{\n  errors\n  bind 127.0.0.1\n  kubernetes cluster.local in-addr.arpa ip6.arpa {{\n    kubeconfig {kubeconfig}\n    \
         pods insecure\n    fallthrough in-addr.arpa ip6.arpa\n    ttl 30\n  }}\n  forward . {upstream}\n  \
         cache 3600\n  loadbalance\n}}\n"
    )
}
