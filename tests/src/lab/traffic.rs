//! The actions of a pod's process.
//!
//! The harness writes one `Request` as a JSON line to the standard input of the process and reads one `Response`
//! with the same id from its output. Requests run in parallel; the process ends with its input.

mod by_name;
mod datagram;
mod dial;
mod exchange;
mod hold;
mod lookup;
mod process;
mod report;
mod serve;
mod threaded;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

pub use lookup::IDENTITY_NAME;
pub use process::run;
pub use report::{Answers, FailedTry, Latency, Report, now_us};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    pub id: u64,
    pub order: Action,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Response {
    pub id: u64,
    pub answer: Result<ActionOutput, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Serve(Serve),
    /// Stops serving and closes the connections of the server, as the end of its process does.
    Stop {
        protocol: Protocol,
        port: u16,
    },
    /// Serves like a terminating process: until there were no new connections for this time and all have ended,
    /// then as `Stop`.
    Drain {
        protocol: Protocol,
        port: u16,
        idle_ms: u64,
    },
    /// Replaces /etc/resolv.conf by this file. Must precede the first lookup.
    ResolveBy {
        resolv_conf: PathBuf,
    },
    /// Changes the generation in the answers of all servers of this pod.
    Retag {
        generation: u64,
    },
    /// Answered at the end of the dialling.
    Dial(Dial),
    /// The report so far of the dialling of request `of`.
    Progress {
        of: u64,
    },
    /// Stops the dialling of request `of`, which is then answered.
    Halt {
        of: u64,
    },
    Hold {
        to: Vec<SocketAddr>,
        connections: usize,
    },
    /// Sends a word over each connection of request `of` and reads the answer; with a payload of this size, if
    /// not zero.
    Echo {
        of: u64,
        bytes: usize,
    },
    /// Reads each connection of request `of`, on which nothing is to come, until it ends or the time is over. Those that have not
    /// ended count as answered.
    AwaitEnd {
        of: u64,
        within_ms: u64,
    },
    Release {
        of: u64,
    },
    Datagram(SocketAction),
}

/// One call on a UDP socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SocketAction {
    /// Opens a UDP socket; the answer contains its number for later calls.
    Open {
        family: Family,
        bind: Option<SocketAddr>,
    },
    Connect {
        socket: u64,
        to: SocketAddr,
    },
    Send {
        socket: u64,
        to: Option<SocketAddr>,
        text: String,
    },
    Receive {
        socket: u64,
        within_ms: u64,
    },
    PeerName {
        socket: u64,
    },
    Close {
        socket: u64,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionOutput {
    Done,
    Report(Box<Report>),
    Socket(u64),
    Datagram { from: SocketAddr, text: String },
    Peer(SocketAddr),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    Tcp,
    Udp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    V4,
    V6,
}

/// A server on all addresses of the pod, or on one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Serve {
    /// The name in its answers.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub address: Option<IpAddr>,
}

/// Connections (or datagrams) made one after the other by each of `workers`, each with a query for the server's
/// name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dial {
    /// Used in turn.
    pub to: Vec<SocketAddr>,
    /// Names to dial instead, as `web.default:80`.
    #[serde(default)]
    pub names: Vec<String>,
    /// A second name that is dialled next; `{}` is replaced by the name of the server that answered the first.
    #[serde(default)]
    pub referred: Option<String>,
    /// A connection dialled by name is used a second time after this time.
    #[serde(default)]
    pub linger_ms: u64,
    /// Source address of TCP connections, instead of the kernel's choice.
    #[serde(default)]
    pub from: Option<SocketAddr>,
    /// `None`: until halted.
    pub times: Option<u64>,
    pub workers: usize,
    pub how: How,
    /// Pause of each worker between two attempts; for threads, from the start of one to the start of the next.
    pub pause_us: u64,
    /// The time after which an attempt fails.
    pub timeout_ms: u64,
    /// Record the start and end of each successful attempt.
    pub recorded: bool,
}

impl Default for Dial {
    fn default() -> Self {
        Self {
            to: Vec::new(),
            names: Vec::new(),
            referred: None,
            linger_ms: 0,
            from: None,
            times: None,
            workers: 1,
            how: How::Tcp,
            pause_us: 0,
            timeout_ms: 5_000,
            recorded: false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    Tcp,
    /// IPv4 addresses through IPv6 sockets, as `::ffff:a.b.c.d`.
    MappedTcp,
    Http,
    /// A new connected socket for each attempt.
    ConnectedUdp,
    /// One unconnected socket per worker for all attempts.
    UnconnectedUdp,
    /// One connected socket per worker for all attempts.
    OneConnectedUdp,
    /// Each of the names in turn until one answers, with a lookup of the C library each time: one attempt in
    /// total.
    ByName,
    /// Only lookups of the first name by the C library, each worker in its own thread; the IPv4 address
    /// identifies the server.
    Library,
    /// Resolver queries over UDP at the highest rate, each worker in its own thread.
    Stream,
    /// A resolver's query to a name server: the answer identifies the server.
    Lookup(Lookup),
}

impl How {
    /// Whether each worker has its own thread.
    fn is_threaded(self) -> bool {
        matches!(self, Self::Library | Self::Stream)
    }
}

/// The transport of a resolver; each lookup has its own socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lookup {
    /// As glibc.
    ConnectedUdp,
    /// As musl.
    UnconnectedUdp,
    Tcp,
}
