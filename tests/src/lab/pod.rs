//! A pod: a network namespace, a cgroup and a process that runs actions on request.

use std::{
    collections::{HashMap, HashSet},
    env,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::unix::pipe,
    sync::oneshot,
    task::JoinHandle,
};

use crate::lab::{
    addresses::Addresses,
    agent::built_beside,
    dns::resolv_conf::resolv_conf,
    kernel::{cgroup::Cgroup, netns::Netns, process::Process},
    traffic::{Action, ActionOutput, Dial, Protocol, Report, Request, Response, Serve},
};

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<ActionOutput, String>>>>>;

#[derive(Debug)]
pub struct Pod {
    pub name: String,
    /// Its node; `None` outside the cluster.
    pub node: Option<String>,
    pub addresses: Addresses,
    served: tokio::sync::Mutex<HashSet<(Protocol, u16)>>,
    orders: tokio::sync::Mutex<pipe::Sender>,
    waiting: Waiting,
    next_id: AtomicU64,
    listener: JoinHandle<()>,
    process: Process,
    // After the process, which is in both.
    cgroup: Cgroup,
    netns: Arc<Netns>,
}

/// Dialling that continues in the pod until it is stopped.
#[derive(Debug)]
pub struct Dialling {
    pod: Arc<Pod>,
    id: u64,
    answer: oneshot::Receiver<Result<ActionOutput, String>>,
}

impl Pod {
    pub fn start(
        name: &str,
        node: Option<String>,
        addresses: Addresses,
        netns: Arc<Netns>,
        cgroup: Cgroup,
    ) -> Result<Self> {
        let mut command = program()?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(&format!("pod {name}"), command, &netns, Some(&cgroup))?;
        let child = process.child();
        let input = child.stdin.take().context("the pod's input is missing")?;
        let output = child.stdout.take().context("the pod's output is missing")?;
        let orders = pipe::Sender::from_owned_fd(input.into()).context("cannot use a pod's input")?;
        let answers = pipe::Receiver::from_owned_fd(output.into()).context("cannot use a pod's output")?;
        let waiting = Waiting::default();
        Ok(Self {
            name: name.to_owned(),
            node,
            addresses,
            served: tokio::sync::Mutex::default(),
            orders: tokio::sync::Mutex::new(orders),
            listener: tokio::spawn(listen(answers, Arc::clone(&waiting))),
            waiting,
            next_id: AtomicU64::new(1),
            process,
            cgroup,
            netns,
        })
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Requests an action and waits for its answer.
    pub async fn request(&self, action: Action) -> Result<ActionOutput> {
        let (_, answer) = self.begin(action).await?;
        self.finish(answer).await
    }

    /// Serves under the pod's own name; a port that is served already stays as it is.
    pub async fn serve(&self, protocol: Protocol, port: u16) -> Result<()> {
        let mut served = self.served.lock().await;
        if served.insert((protocol, port)) {
            let order = Serve { name: self.name.clone(), protocol, port, address: None };
            self.request(Action::Serve(order)).await?;
        }
        Ok(())
    }

    pub async fn stop(&self, protocol: Protocol, port: u16) -> Result<()> {
        self.served.lock().await.remove(&(protocol, port));
        self.request(Action::Stop { protocol, port }).await.map(|_| ())
    }

    /// Serves until there were no connections for this time, then stops.
    pub async fn drain(&self, protocol: Protocol, port: u16, idle: Duration) -> Result<()> {
        self.served.lock().await.remove(&(protocol, port));
        let idle_ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        self.request(Action::Drain { protocol, port, idle_ms }).await.map(|_| ())
    }

    /// Configures the resolver of the pod as the kubelet does for this namespace, with this server.
    pub async fn resolve_by(&self, namespace: &str, server: IpAddr, directory: &Path) -> Result<()> {
        let resolv_conf = resolv_conf(&self.name, namespace, server, directory)?;
        self.request(Action::ResolveBy { resolv_conf }).await.map(|_| ())
    }

    pub async fn dial(&self, dial: Dial) -> Result<Report> {
        report(self.request(Action::Dial(dial)).await?)
    }

    pub async fn dial_in_background(self: Arc<Self>, dial: Dial) -> Result<Dialling> {
        let (id, answer) = self.begin(Action::Dial(Dial { times: None, ..dial })).await?;
        Ok(Dialling { pod: self, id, answer })
    }

    /// Opens connections that stay open. Returns their number for later requests, and a report of their servers.
    pub async fn hold(&self, to: Vec<SocketAddr>, connections: usize) -> Result<(u64, Report)> {
        let (id, answer) = self.begin(Action::Hold { to, connections }).await?;
        Ok((id, report(self.finish(answer).await?)?))
    }

    pub async fn echo(&self, held: u64) -> Result<Report> {
        report(self.request(Action::Echo { of: held, bytes: 0 }).await?)
    }

    /// Sends this number of bytes over each connection, and reads them back.
    pub async fn transfer(&self, held: u64, bytes: usize) -> Result<Report> {
        report(self.request(Action::Echo { of: held, bytes }).await?)
    }

    /// Waits until the connections end, without sending, for no longer than this. Those that end are failures in the report.
    pub async fn await_end(&self, held: u64, within: Duration) -> Result<Report> {
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        report(self.request(Action::AwaitEnd { of: held, within_ms }).await?)
    }

    async fn begin(&self, order: Action) -> Result<(u64, oneshot::Receiver<Result<ActionOutput, String>>)> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut line = serde_json::to_vec(&Request { id, order }).context("cannot serialize a request")?;
        line.push(b'\n');
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting).insert(id, sender);
        let mut orders = self.orders.lock().await;
        orders.write_all(&line).await.with_context(|| format!("pod {} accepts no requests", self.name))?;
        Ok((id, receiver))
    }

    async fn finish(&self, answer: oneshot::Receiver<Result<ActionOutput, String>>) -> Result<ActionOutput> {
        answer
            .await
            .with_context(|| format!("the process of pod {} has ended", self.name))?
            .map_err(|error| anyhow!("pod {}: {error}", self.name))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Dialling {
    /// The report so far.
    pub async fn progress(&self) -> Result<Report> {
        report(self.pod.request(Action::Progress { of: self.id }).await?)
    }

    /// Stops after the attempts in progress.
    pub async fn stop(self) -> Result<Report> {
        self.pod.request(Action::Halt { of: self.id }).await?;
        report(self.pod.finish(self.answer).await?)
    }
}

fn report(answer: ActionOutput) -> Result<Report> {
    let ActionOutput::Report(report) = answer else { bail!("expected a report, got {answer:?}") };
    Ok(*report)
}

async fn listen(answers: pipe::Receiver, waiting: Waiting) {
    let mut lines = BufReader::new(answers).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // Other lines were printed by a library.
        let Ok(Response { id, answer }) = serde_json::from_str(&line) else { continue };
        if let Some(sender) = lock(&waiting).remove(&id) {
            let _ = sender.send(answer);
        }
    }
    // Ends the waiting requests: the process has ended.
    lock(&waiting).clear();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first argument by which a program of this crate becomes the process of a pod.
pub const POD: &str = "pod";

/// Test programs start the `pod` binary beside them; any other program of this crate starts itself with the
/// argument `pod`.
fn program() -> Result<Command> {
    let own = env::current_exe().context("cannot read the path of this program")?;
    let is_test = own.parent().is_some_and(|directory| directory.ends_with("deps"));
    let mut command = Command::new(if is_test { built_beside("pod")? } else { own });
    command.arg(POD);
    Ok(command)
}
