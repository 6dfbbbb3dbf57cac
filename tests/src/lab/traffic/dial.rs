//! Dialling: each attempt is a new flow that queries the server's name.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UdpSocket,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use super::{
    Dial, Family, How, Report, by_name, datagram,
    exchange::{answered, connect, connect_from, exchange_line, in_turn},
    lookup::look_up,
    now_us,
    report::{Answered, Failure, Tally},
    threaded::{self, Schedule},
};

/// Dialling in progress; shared by its workers and by requests for its report.
#[derive(Debug)]
pub(super) struct Dialling {
    dial: Dial,
    started: AtomicU64,
    halted: AtomicBool,
    tally: Mutex<Tally>,
}

impl Dialling {
    pub fn new(dial: Dial) -> Arc<Self> {
        Arc::new(Self {
            tally: Mutex::new(Tally::recording(dial.recorded)),
            dial,
            started: AtomicU64::new(0),
            halted: AtomicBool::new(false),
        })
    }

    /// Runs until all attempts are made, or it is halted.
    pub async fn run(self: Arc<Self>) -> Report {
        let mut workers = JoinSet::new();
        for _ in 0..self.dial.workers.max(1) {
            let worker = Arc::clone(&self);
            if self.dial.how.is_threaded() {
                workers.spawn_blocking(move || worker.work_alone());
            } else {
                workers.spawn(worker.work());
            }
        }
        while workers.join_next().await.is_some() {}
        self.tally().whole_report()
    }

    pub fn halt(&self) {
        self.halted.store(true, Ordering::Relaxed);
    }

    pub fn report(&self) -> Report {
        self.tally().report()
    }

    async fn work(self: Arc<Self>) {
        // Used for all attempts of an unconnected client, one of each family.
        let mut sockets = Sockets::default();
        while let Some(turn) = self.next() {
            if self.dial.how == How::ByName {
                self.by_name(turn).await;
            } else {
                self.by_address(turn, &mut sockets).await;
            }
            if self.dial.pause_us > 0 {
                sleep(Duration::from_micros(self.dial.pause_us)).await;
            }
        }
    }

    /// Runs on a thread of its own.
    fn work_alone(&self) {
        let mut schedule = Schedule::new(Duration::from_micros(self.dial.pause_us));
        while let Some(turn) = self.next() {
            let start = now_us();
            let outcome = self.look_up_alone(turn);
            self.tally().record("a lookup", start, outcome);
            schedule.keep();
        }
    }

    fn look_up_alone(&self, turn: usize) -> Result<Answered, Failure> {
        let nothing = || Failure("no target to dial".to_owned());
        if self.dial.how == How::Library {
            return threaded::getaddrinfo(in_turn(&self.dial.names, turn).ok_or_else(nothing)?);
        }
        let to = in_turn(&self.dial.to, turn).ok_or_else(nothing)?;
        threaded::query_udp(*to, Duration::from_millis(self.dial.timeout_ms))
    }

    async fn by_address(&self, turn: usize, sockets: &mut Sockets) {
        let start = now_us();
        let Some(to) = in_turn(&self.dial.to, turn).copied() else { return self.halt() };
        let deadline = Deadline::new(self.dial.timeout_ms);
        let outcome = self.attempt(to, deadline, sockets).await;
        self.tally().record(to, start, outcome);
    }

    async fn by_name(&self, turn: usize) {
        let start = now_us();
        let (outcome, failed_tries) = by_name::request(&self.dial, turn).await;
        let mut tally = self.tally();
        tally.tried(failed_tries);
        tally.record(self.dial.names.join(", "), start, outcome);
    }

    /// The number of the next attempt. Returns `None` if there are no more.
    fn next(&self) -> Option<usize> {
        if self.halted.load(Ordering::Relaxed) {
            return None;
        }
        let turn = self.started.fetch_add(1, Ordering::Relaxed);
        if self.dial.times.is_some_and(|times| turn >= times) {
            return None;
        }
        usize::try_from(turn).ok()
    }

    async fn attempt(
        &self,
        to: SocketAddr,
        deadline: Deadline,
        sockets: &mut Sockets,
    ) -> Result<Answered, Failure> {
        match self.dial.how {
            How::Tcp => tcp(self.dial.from, to, deadline).await,
            How::MappedTcp => tcp(self.dial.from, mapped(to), deadline).await,
            How::Http => http(to, deadline).await,
            How::ConnectedUdp => connected_udp(to, deadline).await,
            How::ByName | How::Library | How::Stream => {
                Err(Failure("not a mode of dialling an address".to_owned()))
            }
            How::UnconnectedUdp => unconnected_udp(sockets.of(to)?, to, deadline).await,
            How::Lookup(how) => look_up(how, to, Duration::from_millis(self.dial.timeout_ms)).await,
            How::OneConnectedUdp => one_connected_udp(sockets.connected(to).await?, deadline).await,
        }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Sockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    connected: HashMap<SocketAddr, UdpSocket>,
}

impl Sockets {
    fn of(&mut self, to: SocketAddr) -> Result<&UdpSocket, Failure> {
        let (slot, family) = match to {
            SocketAddr::V4(_) => (&mut self.v4, Family::V4),
            SocketAddr::V6(_) => (&mut self.v6, Family::V6),
        };
        match slot {
            Some(socket) => Ok(socket),
            None => Ok(slot.insert(datagram::open(family, None).map_err(Failure::at("socket"))?)),
        }
    }
}

impl Sockets {
    async fn connected(&mut self, to: SocketAddr) -> Result<&UdpSocket, Failure> {
        match self.connected.entry(to) {
            Entry::Occupied(socket) => Ok(socket.into_mut()),
            Entry::Vacant(slot) => {
                let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
                let socket = datagram::open(family, None).map_err(Failure::at("socket"))?;
                socket.connect(to).await.map_err(Failure::at("connect"))?;
                Ok(slot.insert(socket))
            }
        }
    }
}

pub(super) fn mapped(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V6(_) => to,
    }
}

/// The limit of one attempt, all steps together.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    deadline: Instant,
}

impl Deadline {
    fn new(milliseconds: u64) -> Self {
        Self { deadline: Instant::now() + Duration::from_millis(milliseconds) }
    }

    /// Runs one step, whose name is in the failure.
    async fn with<T>(self, step: &str, work: impl Future<Output = io::Result<T>>) -> Result<T, Failure> {
        match timeout_at(self.deadline, work).await {
            Ok(done) => done.map_err(Failure::at(step)),
            Err(_) => Err(Failure(format!("{step}: timed out"))),
        }
    }
}

async fn tcp(from: Option<SocketAddr>, to: SocketAddr, deadline: Deadline) -> Result<Answered, Failure> {
    let mut stream = BufReader::new(deadline.with("connect", connect_from(from, to)).await?);
    let peer = stream.get_ref().peer_addr().map_err(Failure::at("getpeername"))?;
    let answer = deadline.with("exchange", exchange_line(&mut stream, "who")).await?;
    answered(&answer, Some(peer))
}

async fn http(to: SocketAddr, deadline: Deadline) -> Result<Answered, Failure> {
    let mut stream = deadline.with("connect", connect(to)).await?;
    let peer = stream.peer_addr().map_err(Failure::at("getpeername"))?;
    let request = format!("GET / HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\r\n");
    let mut text = String::new();
    deadline.with("exchange", stream.write_all(request.as_bytes())).await?;
    deadline.with("exchange", stream.read_to_string(&mut text)).await?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => answered(body.trim_end(), Some(peer)),
        Some(_) | None => Err(Failure("exchange: not a page".to_owned())),
    }
}

async fn connected_udp(to: SocketAddr, deadline: Deadline) -> Result<Answered, Failure> {
    let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
    let socket = datagram::open(family, None).map_err(Failure::at("socket"))?;
    deadline.with("connect", socket.connect(to)).await?;
    let peer = socket.peer_addr().map_err(Failure::at("getpeername"))?;
    socket.send(b"who ?").await.map_err(Failure::at("send"))?;
    let mut buffer = [0; 256];
    let length = deadline.with("receive", socket.recv(&mut buffer)).await?;
    answered(&String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()), Some(peer))
}

async fn one_connected_udp(socket: &UdpSocket, deadline: Deadline) -> Result<Answered, Failure> {
    let peer = socket.peer_addr().map_err(Failure::at("getpeername"))?;
    let token = now_us().to_string();
    socket.send(format!("who {token}").as_bytes()).await.map_err(Failure::at("send"))?;
    let mut buffer = [0; 256];
    loop {
        let length = deadline.with("receive", socket.recv(&mut buffer)).await?;
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        if text.ends_with(&token) {
            return answered(&text, Some(peer));
        }
    }
}

async fn unconnected_udp(
    socket: &UdpSocket,
    to: SocketAddr,
    deadline: Deadline,
) -> Result<Answered, Failure> {
    // A token of its own tells an answer from a late one to an earlier attempt that timed out.
    let token = now_us().to_string();
    socket.send_to(format!("who {token}").as_bytes(), to).await.map_err(Failure::at("send"))?;
    let mut buffer = [0; 256];
    loop {
        let (length, from) = deadline.with("receive", socket.recv_from(&mut buffer)).await?;
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        if !text.ends_with(&token) {
            continue;
        }
        if from != to {
            return Err(Failure(format!("receive: answer from {from} instead of {to}")));
        }
        return answered(&text, None);
    }
}
