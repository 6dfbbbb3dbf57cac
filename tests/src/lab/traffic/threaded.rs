//! Lookups from dedicated threads: at the highest rate of a machine, and those of the C library, which block.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use super::{
    lookup::{TRIES, answered, question},
    report::{Answered, Failure},
};

/// A thread that is later than that does not catch up.
const LATE: Duration = Duration::from_secs(1);

/// The schedule of a thread's attempts, so that slow attempts do not reduce their number.
pub struct Schedule {
    due: Instant,
    interval: Duration,
}

impl Schedule {
    pub fn new(interval: Duration) -> Self {
        Self { due: Instant::now(), interval }
    }

    pub fn keep(&mut self) {
        let now = Instant::now();
        self.due = (self.due + self.interval).max(now.checked_sub(LATE).unwrap_or(now));
        thread::sleep(self.due.saturating_duration_since(now));
    }
}

/// `getaddrinfo`, with its own timeouts and tries: its result is that of the lookup.
pub fn getaddrinfo(name: &str) -> Result<Answered, Failure> {
    let addresses = (name, 0).to_socket_addrs().map_err(|error| Failure(format!("getaddrinfo: {error}")))?;
    let address = addresses.map(|address| address.ip()).find(|ip| ip.is_ipv4());
    let address = address.ok_or_else(|| Failure("getaddrinfo: no IPv4 address".to_owned()))?;
    Ok(Answered { name: address.to_string(), generation: 0, peer: None, source: None })
}

/// The query and the retries of a resolver, without the rest of it. Each lookup has its own socket.
pub fn query_udp(to: SocketAddr, limit: Duration) -> Result<Answered, Failure> {
    let mut socket = None;
    let mut failure = Failure("no try".to_owned());
    for _ in 0..TRIES {
        match attempt(&mut socket, to, limit) {
            Ok(answer) => return answered(&answer),
            Err(error) => {
                // A new socket after an error, the same one after a timeout.
                if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
                    socket = None;
                }
                failure = Failure::at("lookup")(error);
            }
        }
    }
    Err(failure)
}

fn attempt(open_socket: &mut Option<UdpSocket>, to: SocketAddr, limit: Duration) -> io::Result<Vec<u8>> {
    let socket = match open_socket {
        Some(socket) => socket,
        None => open_socket.insert(open(to, limit)?),
    };
    let question = question();
    socket.send(&question)?;
    let mut buffer = [0; 512];
    loop {
        let length = socket.recv(&mut buffer)?;
        // Others may be late answers to the first try.
        if buffer.get(..2) == question.get(..2) {
            return Ok(buffer.get(..length).unwrap_or_default().to_vec());
        }
    }
}

fn open(to: SocketAddr, limit: Duration) -> io::Result<UdpSocket> {
    let socket = match to {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }?;
    socket.set_read_timeout(Some(limit))?;
    socket.connect(to)?;
    Ok(socket)
}
