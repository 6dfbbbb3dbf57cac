//! The process of a pod: reads requests, runs them in parallel, writes responses.

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::resource::{Resource, getrlimit, setrlimit},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UdpSocket, unix::pipe},
    sync::{Mutex, mpsc},
};

use super::{
    Action, ActionOutput, Dial, Protocol, Request, Response, Serve, SocketAction, datagram, dial::Dialling,
    hold::Held, report::error_name, serve::Server,
};

type ActionResult = Result<ActionOutput, String>;

/// The state between requests.
#[derive(Debug, Default)]
struct State {
    servers: Mutex<HashMap<(Protocol, u16), Server>>,
    /// Part of every answer of every server.
    generation: Arc<AtomicU64>,
    /// By the id of the request that started it.
    dialling: Mutex<HashMap<u64, Arc<Dialling>>>,
    held: Mutex<HashMap<u64, Held>>,
    sockets: Mutex<HashMap<u64, Arc<UdpSocket>>>,
}

/// Serves requests from the standard input until it ends.
pub fn run() -> Result<()> {
    allow_many_connections()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime of a pod")?;
    runtime.block_on(serve_requests())
}

/// The limit of interactive shells is too low.
fn allow_many_connections() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit of open files")
}

async fn serve_requests() -> Result<()> {
    let input = pipe::Receiver::from_file(duplicate(io::stdin())?).context("the input is not a pipe")?;
    let output = pipe::Sender::from_file(duplicate(io::stdout())?).context("the output is not a pipe")?;
    let (answers, queue) = mpsc::unbounded_channel();
    tokio::spawn(write(output, queue));
    let state = Arc::new(State::default());
    let mut lines = BufReader::new(input).lines();
    while let Some(line) = lines.next_line().await.context("cannot read requests")? {
        let Request { id, order } = serde_json::from_str(&line).context("cannot parse a request")?;
        let (state, answers) = (Arc::clone(&state), answers.clone());
        tokio::spawn(async move {
            let answer = state.run_action(id, order).await;
            // The output is closed: the process is about to end.
            let _ = answers.send(Response { id, answer });
        });
    }
    Ok(())
}

fn duplicate(stream: impl std::os::fd::AsFd) -> Result<std::fs::File> {
    Ok(stream.as_fd().try_clone_to_owned().context("cannot duplicate a standard stream")?.into())
}

async fn write(mut output: pipe::Sender, mut queue: mpsc::UnboundedReceiver<Response>) -> io::Result<()> {
    while let Some(response) = queue.recv().await {
        let mut line = serde_json::to_vec(&response)?;
        line.push(b'\n');
        output.write_all(&line).await?;
    }
    Ok(())
}

impl State {
    async fn run_action(&self, id: u64, order: Action) -> ActionResult {
        match order {
            Action::Serve(serve) => self.serve(serve).await,
            Action::Stop { protocol, port } => self.stop(protocol, port).await,
            Action::Drain { protocol, port, idle_ms } => {
                self.drain(protocol, port, Duration::from_millis(idle_ms)).await
            }
            Action::ResolveBy { resolv_conf } => resolve_by(&resolv_conf)
                .map(|()| ActionOutput::Done)
                .map_err(|error| format!("cannot use {}: {error}", resolv_conf.display())),
            Action::Retag { generation } => {
                self.generation.store(generation, Ordering::Relaxed);
                Ok(ActionOutput::Done)
            }
            Action::Dial(dial) => self.dial(id, dial).await,
            Action::Progress { of } => Ok(ActionOutput::Report(Box::new(self.dialling(of).await?.report()))),
            Action::Halt { of } => {
                self.dialling(of).await?.halt();
                Ok(ActionOutput::Done)
            }
            Action::Hold { to, connections } => {
                let (held, report) = Held::open(&to, connections).await;
                self.held.lock().await.insert(id, held);
                Ok(ActionOutput::Report(Box::new(report)))
            }
            Action::Echo { of, bytes } => self.echo(of, bytes).await,
            Action::AwaitEnd { of, within_ms } => self.await_end(of, Duration::from_millis(within_ms)).await,
            Action::Release { of } => {
                let released = self.held.lock().await.remove(&of);
                released
                    .map(|_| ActionOutput::Done)
                    .ok_or_else(|| format!("no connections are held for request {of}"))
            }
            Action::Datagram(order) => self.datagram(id, order).await,
        }
    }

    async fn serve(&self, serve: Serve) -> ActionResult {
        let server = Server::start(&serve, Arc::clone(&self.generation))
            .map_err(|error| format!("cannot serve on port {}: {}", serve.port, error_name(&error)))?;
        self.servers.lock().await.insert((serve.protocol, serve.port), server);
        Ok(ActionOutput::Done)
    }

    async fn stop(&self, protocol: Protocol, port: u16) -> ActionResult {
        let server = self.servers.lock().await.remove(&(protocol, port));
        server.ok_or_else(|| format!("no server on port {port}"))?.stop().await;
        Ok(ActionOutput::Done)
    }

    async fn drain(&self, protocol: Protocol, port: u16, idle: Duration) -> ActionResult {
        let server = self.servers.lock().await.remove(&(protocol, port));
        server.ok_or_else(|| format!("no server on port {port}"))?.drain(idle).await;
        Ok(ActionOutput::Done)
    }

    async fn dial(&self, id: u64, dial: Dial) -> ActionResult {
        let dialling = Dialling::new(dial);
        self.dialling.lock().await.insert(id, Arc::clone(&dialling));
        let report = dialling.run().await;
        self.dialling.lock().await.remove(&id);
        Ok(ActionOutput::Report(Box::new(report)))
    }

    async fn dialling(&self, of: u64) -> Result<Arc<Dialling>, String> {
        let dialling = self.dialling.lock().await.get(&of).cloned();
        dialling.ok_or_else(|| format!("request {of} does not dial"))
    }

    async fn echo(&self, of: u64, bytes: usize) -> ActionResult {
        let mut held = self.held.lock().await;
        let held = held.get_mut(&of).ok_or_else(|| format!("no connections are held for request {of}"))?;
        Ok(ActionOutput::Report(Box::new(held.echo(bytes).await)))
    }

    async fn await_end(&self, of: u64, within: Duration) -> ActionResult {
        let mut held = self.held.lock().await;
        let held = held.get_mut(&of).ok_or_else(|| format!("no connections are held for request {of}"))?;
        Ok(ActionOutput::Report(Box::new(held.await_end(within).await)))
    }

    async fn datagram(&self, id: u64, order: SocketAction) -> ActionResult {
        let named = |step: &'static str| move |error: io::Error| format!("{step}: {}", error_name(&error));
        match order {
            SocketAction::Open { family, bind } => {
                let socket = datagram::open(family, bind).map_err(named("bind"))?;
                self.sockets.lock().await.insert(id, Arc::new(socket));
                Ok(ActionOutput::Socket(id))
            }
            SocketAction::Connect { socket, to } => {
                let socket = self.socket(socket).await?;
                socket.connect(to).await.map_err(named("connect")).map(|()| ActionOutput::Done)
            }
            SocketAction::Send { socket, to, text } => {
                datagram::send(&*self.socket(socket).await?, to, &text).await
            }
            SocketAction::Receive { socket, within_ms } => {
                datagram::receive(&*self.socket(socket).await?, within_ms).await
            }
            SocketAction::PeerName { socket } => {
                self.socket(socket).await?.peer_addr().map(ActionOutput::Peer).map_err(named("getpeername"))
            }
            SocketAction::Close { socket } => {
                self.sockets.lock().await.remove(&socket);
                Ok(ActionOutput::Done)
            }
        }
    }

    async fn socket(&self, id: u64) -> Result<Arc<UdpSocket>, String> {
        self.sockets.lock().await.get(&id).cloned().ok_or_else(|| format!("there is no socket {id}"))
    }
}

/// For this thread and the threads that it starts from now on: all that look names up.
fn resolve_by(resolv_conf: &Path) -> nix::Result<()> {
    const NOTHING: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)?;
    mount(Some(resolv_conf), "/etc/resolv.conf", NOTHING, MsFlags::MS_BIND, NOTHING)
}
