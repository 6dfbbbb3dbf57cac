//! What a pod can be told to do, and the process that does it.
//!
//! The harness writes one `Request` as a JSON line to the standard input of the pod's process and reads one `Response`
//! with the same id from its output. Requests run side by side; the process ends when its input does.

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

pub use lookup::WHO;
pub use process::run;
pub use report::{Answers, Latency, Report, Vain, now_us};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    pub id: u64,
    pub order: Action,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Response {
    pub id: u64,
    pub answer: Result<Answer, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Serve(Serve),
    /// Stops serving and closes the connections served there, as a process that ends does.
    Stop {
        protocol: Protocol,
        port: u16,
    },
    /// Serves on as one that was told to end: until nobody has come for so long and all who came have gone, then as `Stop`.
    Retire {
        protocol: Protocol,
        port: u16,
        quiet_ms: u64,
    },
    /// Names are looked up as this file says, instead of /etc/resolv.conf. To come before the first lookup.
    ResolveBy {
        resolv_conf: PathBuf,
    },
    /// Changes the generation that every server of this pod puts into its answers.
    Retag {
        generation: u64,
    },
    /// Answered when the dialling is over.
    Dial(Dial),
    /// How the dialling that request `of` started stands.
    Progress {
        of: u64,
    },
    /// Lets the dialling that request `of` started end; that request is then answered.
    Halt {
        of: u64,
    },
    Hold {
        to: Vec<SocketAddr>,
        connections: usize,
    },
    /// Sends a word over each connection that request `of` holds and reads the answer; one of so many bytes, if any.
    Echo {
        of: u64,
        bytes: usize,
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
    /// Opens a UDP socket; the answer's number names it from then on.
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
pub enum Answer {
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

/// A server on every address of the pod, or on one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Serve {
    /// Who it says it is.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub address: Option<IpAddr>,
}

/// Connections (or datagrams) made one after the other by each of `workers`, each of which asks who answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dial {
    /// Taken in turn.
    pub to: Vec<SocketAddr>,
    /// What is dialled by name instead, as `web.default:80`.
    #[serde(default)]
    pub names: Vec<String>,
    /// Whom those who answer to these names refer to: dialled next, `{}` being who answered.
    #[serde(default)]
    pub referred: Option<String>,
    /// A connection dialled by name is used once more after so long.
    #[serde(default)]
    pub linger_ms: u64,
    /// Where TCP connections come from, if the kernel shall not choose.
    #[serde(default)]
    pub from: Option<SocketAddr>,
    /// Without it, until halted.
    pub times: Option<u64>,
    pub workers: usize,
    pub how: How,
    /// Rest of each worker between two attempts; where workers are threads, from the beginning of one to that of the next.
    pub pause_us: u64,
    /// After this an attempt counts as failed.
    pub timeout_ms: u64,
    /// Keep when each attempt that succeeded began and ended.
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
    /// One new connected socket per attempt.
    ConnectedUdp,
    /// One unconnected socket per worker for all attempts.
    UnconnectedUdp,
    /// One connected socket per worker for all attempts.
    OneConnectedUdp,
    /// Each of the names in turn until one answers, looked up with the C library each time: one attempt for all of that.
    ByName,
    /// Only lookups of the first name by the C library, each worker in a thread of its own; the IPv4 address says who answers.
    Library,
    /// The question of a resolver over UDP, and as many of them as there can be: each worker in a thread of its own.
    Stream,
    /// The question of a resolver, to a server of names: the answer says who that is.
    Lookup(Lookup),
}

impl How {
    /// Whether each worker is a thread of its own.
    fn is_threaded(self) -> bool {
        matches!(self, Self::Library | Self::Stream)
    }
}

/// How a resolver asks; each lookup from a socket of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lookup {
    /// As glibc does.
    ConnectedUdp,
    /// As musl does.
    UnconnectedUdp,
    Tcp,
}
