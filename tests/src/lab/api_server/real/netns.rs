//! The network namespace of a server, and clients with sockets in it.

use std::{
    fs::OpenOptions,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use nix::sched::{CloneFlags, setns};
use tokio::runtime::{Builder, Runtime};

use crate::lab::kernel::{netns::Netns, process::Process};

pub struct ServerNetns {
    /// `None`: this program's own.
    netns: Option<Arc<Netns>>,
    /// Its threads are in the network namespace.
    runtime: Option<Runtime>,
}

impl ServerNetns {
    pub fn scaled() -> Result<Self> {
        let runtime = Some(Builder::new_multi_thread().worker_threads(1).enable_all().build()?);
        Ok(Self { netns: None, runtime })
    }

    pub fn inside(netns: &Arc<Netns>) -> Result<Self> {
        let target = Arc::clone(netns);
        let enter = move || setns(&*target, CloneFlags::CLONE_NEWNET).expect("its creator may enter it");
        let runtime =
            Builder::new_multi_thread().worker_threads(1).enable_all().on_thread_start(enter).build()?;
        Ok(Self { netns: Some(Arc::clone(netns)), runtime: Some(runtime) })
    }

    pub fn free_port(&self) -> Result<u16> {
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free");
        let listener = match &self.netns {
            Some(netns) => netns.run(bind),
            None => bind(),
        };
        Ok(listener?.local_addr()?.port())
    }

    pub fn spawn(&self, name: &str, mut command: Command, log: &Path) -> Result<Process> {
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        match &self.netns {
            Some(netns) => Process::start(name, command, netns, None),
            None => Process::start_here(name, command),
        }
    }

    /// A client for this address, with the credentials of a kubeconfig.
    pub async fn client(&self, kubeconfig: &Path, url: &str) -> Result<Client> {
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.cluster_url = url.parse()?;
        config.default_retry = false;
        self.make(config)
    }

    /// A client for a server without authentication.
    pub fn anonymous_client(&self, url: &str) -> Result<Client> {
        self.make(Config::new(url.parse()?))
    }

    fn make(&self, config: Config) -> Result<Client> {
        let _entered = self.runtime.as_ref().map(Runtime::enter);
        Ok(Client::try_from(config)?)
    }

    /// Runs this on a thread in the network namespace.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let runtime = self.runtime.as_ref().context("the runtime is shut down")?;
        runtime.spawn(work).await.context("a thread inside panicked")?
    }
}

impl Drop for ServerNetns {
    fn drop(&mut self) {
        // A runtime must not be dropped with waiting inside another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
