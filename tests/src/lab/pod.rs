//! A pod: a namespace, a cgroup and a process that does what it is told.

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
    traffic::{Action, Answer, Dial, Protocol, Report, Request, Response, Serve},
};

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Answer, String>>>>>;

#[derive(Debug)]
pub struct Pod {
    pub name: String,
    /// The node it runs on; none outside the cluster.
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

/// Dialling that goes on in the pod until it is stopped.
#[derive(Debug)]
pub struct Dialling {
    pod: Arc<Pod>,
    id: u64,
    answer: oneshot::Receiver<Result<Answer, String>>,
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

    /// Gives an order and waits for its answer.
    pub async fn order(&self, order: Action) -> Result<Answer> {
        let (_, answer) = self.begin(order).await?;
        self.finish(answer).await
    }

    /// Serves under the pod's own name; what is served already stays as it is.
    pub async fn serve(&self, protocol: Protocol, port: u16) -> Result<()> {
        let mut served = self.served.lock().await;
        if served.insert((protocol, port)) {
            let order = Serve { name: self.name.clone(), protocol, port, address: None };
            self.order(Action::Serve(order)).await?;
        }
        Ok(())
    }

    pub async fn stop(&self, protocol: Protocol, port: u16) -> Result<()> {
        self.served.lock().await.remove(&(protocol, port));
        self.order(Action::Stop { protocol, port }).await.map(|_| ())
    }

    /// Serves on until nobody has come for so long, then no more.
    pub async fn retire(&self, protocol: Protocol, port: u16, quiet: Duration) -> Result<()> {
        self.served.lock().await.remove(&(protocol, port));
        let quiet_ms = u64::try_from(quiet.as_millis()).unwrap_or(u64::MAX);
        self.order(Action::Retire { protocol, port, quiet_ms }).await.map(|_| ())
    }

    /// Names are looked up as the kubelet lets pods of a namespace do it, by this server.
    pub async fn resolve_by(&self, namespace: &str, server: IpAddr, directory: &Path) -> Result<()> {
        let resolv_conf = resolv_conf(&self.name, namespace, server, directory)?;
        self.order(Action::ResolveBy { resolv_conf }).await.map(|_| ())
    }

    pub async fn dial(&self, dial: Dial) -> Result<Report> {
        report(self.order(Action::Dial(dial)).await?)
    }

    pub async fn dial_on(self: Arc<Self>, dial: Dial) -> Result<Dialling> {
        let (id, answer) = self.begin(Action::Dial(Dial { times: None, ..dial })).await?;
        Ok(Dialling { pod: self, id, answer })
    }

    /// Opens connections that stay open; the number names them, the report tells who answers them.
    pub async fn hold(&self, to: Vec<SocketAddr>, connections: usize) -> Result<(u64, Report)> {
        let (id, answer) = self.begin(Action::Hold { to, connections }).await?;
        Ok((id, report(self.finish(answer).await?)?))
    }

    pub async fn echo(&self, held: u64) -> Result<Report> {
        report(self.order(Action::Echo { of: held, bytes: 0 }).await?)
    }

    /// Sends so many bytes over each connection, and gets them back.
    pub async fn carry(&self, held: u64, bytes: usize) -> Result<Report> {
        report(self.order(Action::Echo { of: held, bytes }).await?)
    }

    async fn begin(&self, order: Action) -> Result<(u64, oneshot::Receiver<Result<Answer, String>>)> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut line = serde_json::to_vec(&Request { id, order }).context("cannot write an order")?;
        line.push(b'\n');
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting).insert(id, sender);
        let mut orders = self.orders.lock().await;
        orders.write_all(&line).await.with_context(|| format!("pod {} takes no orders", self.name))?;
        Ok((id, receiver))
    }

    async fn finish(&self, answer: oneshot::Receiver<Result<Answer, String>>) -> Result<Answer> {
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
    /// How it stands.
    pub async fn progress(&self) -> Result<Report> {
        report(self.pod.order(Action::Progress { of: self.id }).await?)
    }

    /// Lets every attempt under way come to its end.
    pub async fn stop(self) -> Result<Report> {
        self.pod.order(Action::Halt { of: self.id }).await?;
        report(self.pod.finish(self.answer).await?)
    }
}

fn report(answer: Answer) -> Result<Report> {
    let Answer::Report(report) = answer else { bail!("expected a report, not {answer:?}") };
    Ok(*report)
}

async fn listen(answers: pipe::Receiver, waiting: Waiting) {
    let mut lines = BufReader::new(answers).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // Anything but an answer is what a library printed; nobody waits for it.
        let Ok(Response { id, answer }) = serde_json::from_str(&line) else { continue };
        if let Some(sender) = lock(&waiting).remove(&id) {
            let _ = sender.send(answer);
        }
    }
    // Whoever waits now learns that the process has ended.
    lock(&waiting).clear();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Word by which a program that uses this harness becomes the process of a pod.
pub const POD: &str = "pod";

/// Test programs find the `pod` binary beside them; any other program of this crate is one itself, by the word `pod`.
fn program() -> Result<Command> {
    let own = env::current_exe().context("this program does not know its own path")?;
    let is_test = own.parent().is_some_and(|directory| directory.ends_with("deps"));
    let mut command = Command::new(if is_test { built_beside("pod")? } else { own });
    command.arg(POD);
    Ok(command)
}
