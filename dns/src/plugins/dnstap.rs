//! `dnstap SOCKET [full]`: queries of clients and their responses are sent to a collector, as dnstap messages over Frame
//! Streams (dnstap.info).
//!
//! Messages wait in a queue that is bounded by number and octets; above it, and while there is no collector for long, they
//! are dropped and counted. Queries never wait for a collector.

mod encoding;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

pub(crate) use encoding::ClientMessage;
use encoding::{Kind, Tapped, control, data_frame, payload};
use prometheus::IntCounter;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    sync::mpsc,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::directive::{IneffectiveOption, Repeated, hostname};
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement, Word},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dnstap {
    collector: Collector,
    /// Messages include the DNS messages.
    full: bool,
    /// The limit of waiting messages.
    queue: usize,
    identity: String,
    version: String,
    extra: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Collector {
    Unix(PathBuf),
    /// Host and port.
    Tcp(String),
}

/// The limit of waiting messages for each unit of the queue, as in CoreDNS.
const QUEUE: usize = 10_000;
const MAX_QUEUE_UNITS: usize = 4096;
const MAX_BUFFER_UNITS: usize = 1024;
/// Limit of the octets of waiting messages.
const MAX_WAITING: usize = 32 << 20;
const TIMEOUT: Duration = Duration::from_secs(4);
/// The pause before the next attempt to reach a collector.
const RETRY: Duration = Duration::from_secs(1);
/// Limit of the octets of a control frame of a collector.
const MAX_CONTROL: u32 = 512;
/// The size at which messages are written without collecting more.
const CHUNK: usize = 64 << 10;

const USAGE: &str = "dnstap SOCKET [full] [WRITEBUFFER] [QUEUE]";

impl Repeated for Dnstap {
    const NAME: &'static str = "dnstap";
    const SUMMARY: &'static str = "queries of clients and their responses, sent to a collector at a Unix or TCP socket; \
                                   not `tls://` and `listen`, and no placeholders in `extra`";
    const OPTIONS: &'static [&'static str] = &["identity", "version", "extra"];

    fn read(statement: &Statement, _zones: &Zones) -> Result<Self, CorefileError> {
        read(statement)
    }

    fn ineffective(statement: &Statement) -> Vec<IneffectiveOption> {
        let numbers = statement.words.iter().skip(1).filter(|word| !word.is("full"));
        let reason = "messages are written as they come, up to 64 KiB at once";
        numbers.take(1).map(|word| IneffectiveOption::new(word, reason)).collect()
    }
}

fn read(statement: &Statement) -> Result<Dnstap, CorefileError> {
    let Some((socket, mut rest)) = statement.words.split_first() else {
        return Err(statement.misused(USAGE));
    };
    let mut tap = Dnstap {
        collector: collector(socket)?,
        full: false,
        queue: QUEUE,
        identity: hostname(),
        version: concat!("portreeve-", env!("CARGO_PKG_VERSION")).to_owned(),
        extra: String::new(),
    };
    if let Some((_, after)) = rest.split_first().filter(|(word, _)| word.is("full")) {
        (tap.full, rest) = (true, after);
    }
    match rest {
        [] => {}
        [buffer] => drop(units(buffer, MAX_BUFFER_UNITS)?),
        [buffer, queue] => {
            units(buffer, MAX_BUFFER_UNITS)?;
            tap.queue = QUEUE * units(queue, MAX_QUEUE_UNITS)?;
        }
        [_, _, more, ..] => return Err(more.refuse(format!("it is to be written `{USAGE}`"))),
    }
    for option in &statement.body {
        option.no_body()?;
        let text =
            || option.exactly::<1>(&format!("{} TEXT", option.name.text)).map(|[word]| word.text.clone());
        match option.name.text.as_str() {
            "identity" => tap.identity = text()?,
            "version" => tap.version = text()?,
            "extra" => tap.extra = text()?,
            _ => return Err(statement.unknown_option(option)),
        }
    }
    Ok(tap)
}

fn collector(socket: &Word) -> Result<Collector, CorefileError> {
    if socket.is("listen") {
        return Err(socket.refuse("collectors are called, and not waited for; write `dnstap SOCKET`"));
    }
    match socket.text.split_once("://") {
        None => Ok(Collector::Unix(socket.path())),
        Some(("unix", path)) => Ok(Collector::Unix(path.into())),
        Some(("tcp", address))
            if address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) =>
        {
            Ok(Collector::Tcp(address.to_owned()))
        }
        Some(("tcp", address)) => {
            Err(socket.refuse(format!("`{address}` has no port; write `tcp://HOST:PORT`")))
        }
        Some((other, _)) => {
            Err(socket
                .refuse(format!("collectors at `{other}://` are not supported; use `tcp://` or `unix://`")))
        }
    }
}

fn units(word: &Word, max: usize) -> Result<usize, CorefileError> {
    let number = word.number()?;
    if (1..=max).contains(&number) {
        Ok(number)
    } else {
        Err(word.refuse(format!("write a number from 1 to {max}")))
    }
}

/// The taps of one block.
#[derive(Debug)]
pub(crate) struct Taps(Vec<Tap>);

#[derive(Debug)]
struct Tap {
    setting: Dnstap,
    sender: mpsc::Sender<Vec<u8>>,
    /// The octets of waiting messages.
    waiting: Arc<AtomicUsize>,
    dropped: IntCounter,
}

impl Taps {
    /// Must be called within a runtime: each tap has a task, which ends with it.
    pub(crate) fn start(settings: &[Dnstap], dropped: &IntCounter) -> Self {
        Self(settings.iter().map(|setting| Tap::start(setting, dropped.clone())).collect())
    }

    pub(crate) fn query(&self, message: &ClientMessage<'_>) {
        self.0.iter().for_each(|tap| tap.send(Kind::ClientQuery, message));
    }

    pub(crate) fn response(&self, message: &ClientMessage<'_>) {
        self.0.iter().for_each(|tap| tap.send(Kind::ClientResponse, message));
    }
}

impl Tap {
    fn start(setting: &Dnstap, dropped: IntCounter) -> Self {
        let (sender, messages) = mpsc::channel(setting.queue);
        let waiting = Arc::new(AtomicUsize::new(0));
        tokio::spawn(serve(setting.collector.clone(), messages, Arc::clone(&waiting)));
        Self { setting: setting.clone(), sender, waiting, dropped }
    }

    fn send(&self, kind: Kind, message: &ClientMessage<'_>) {
        let Dnstap { identity, version, extra, full, .. } = &self.setting;
        let tapped = Tapped { kind, message, is_full: *full };
        let payload = payload([identity, version, extra].map(String::as_bytes), &tapped);
        let length = payload.len();
        let fits = self.waiting.fetch_add(length, Relaxed) + length <= MAX_WAITING;
        if !fits || self.sender.try_send(payload).is_err() {
            self.waiting.fetch_sub(length, Relaxed);
            self.dropped.inc();
        }
    }
}

/// Writes messages to the collector until the tap is dropped, and calls it again after each failure.
async fn serve(collector: Collector, mut messages: mpsc::Receiver<Vec<u8>>, waiting: Arc<AtomicUsize>) {
    let mut is_failing = false;
    loop {
        let ended = match &collector {
            Collector::Unix(path) => match timeout(TIMEOUT, UnixStream::connect(path)).await {
                Ok(Ok(stream)) => write(stream, &mut messages, &waiting).await,
                Ok(Err(error)) => Err(error),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            },
            Collector::Tcp(address) => match timeout(TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => write(stream, &mut messages, &waiting).await,
                Ok(Err(error)) => Err(error),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            },
        };
        match ended {
            Ok(()) => return,
            // The tap was dropped, and there is no collector for what is left.
            Err(_) if messages.is_closed() => return,
            Err(error) if !is_failing => {
                warn!(?collector, %error, "dnstap collector not reached, messages wait")
            }
            Err(_) => {}
        }
        is_failing = true;
        sleep(RETRY).await;
    }
}

/// Writes messages until the last. Errors: the collector does not take them.
async fn write(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    messages: &mut mpsc::Receiver<Vec<u8>>,
    waiting: &AtomicUsize,
) -> io::Result<()> {
    timeout(TIMEOUT, greet(&mut stream)).await??;
    info!("dnstap collector reached");
    let mut out = Vec::new();
    while let Some(message) = messages.recv().await {
        let mut next = Some(message);
        while let Some(message) = next {
            waiting.fetch_sub(message.len(), Relaxed);
            data_frame(&message, &mut out);
            next = if out.len() < CHUNK { messages.try_recv().ok() } else { None };
        }
        timeout(TIMEOUT, stream.write_all(&out)).await??;
        out.clear();
    }
    timeout(TIMEOUT, stream.write_all(&control(encoding::STOP))).await?
}

/// The handshake of a bidirectional stream.
async fn greet(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    stream.write_all(&control(encoding::READY)).await?;
    if stream.read_u32().await? != 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let length = stream.read_u32().await?;
    if !(4..=MAX_CONTROL).contains(&length) || stream.read_u32().await? != encoding::ACCEPT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // The content types that the collector takes, of which there is one.
    let mut fields = vec![0; usize::try_from(length).unwrap_or_default() - 4];
    stream.read_exact(&mut fields).await?;
    stream.write_all(&control(encoding::START)).await
}

#[cfg(test)]
mod tests;
