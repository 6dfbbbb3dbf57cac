//! The stub resolver of a pod: one query after another, each with the time that its answer took.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::lab::pod::Pod;

/// Several, as the kernel distributes clients over the server's sockets by their ports.
const SOCKETS: usize = 8;
const HEADER: usize = 12;
/// The type A and the class IN.
const A_IN: [u8; 4] = [0, 1, 0, 1];

#[derive(Debug)]
pub struct Stub {
    sockets: Vec<UdpSocket>,
    sent: u16,
}

/// The answer to a query for an address.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    pub rcode: u8,
    /// The last record, if it is an address.
    pub address: Option<Ipv4Addr>,
    pub took: Duration,
}

impl Stub {
    /// Its sockets are seen by no program of the node: queries to a Service pass the packet plane. `timeout`: the wait
    /// for an answer.
    pub fn new(pod: &Pod, server: SocketAddr, timeout: Duration) -> Result<Self> {
        Ok(Self { sockets: connected(pod, server, SOCKETS, timeout)?, sent: 0 })
    }

    /// Queries for the address of a name. Errors: no answer within the timeout.
    pub fn query(&mut self, name: &str) -> Result<Answer> {
        self.sent = self.sent.wrapping_add(1);
        let (id, query) = (self.sent.to_be_bytes(), query(self.sent, name));
        let Some(socket) = self.sockets.get(usize::from(self.sent) % SOCKETS) else { bail!("no socket") };
        let start = Instant::now();
        socket.send(&query).context("cannot send a query")?;
        let mut reply = [0; 1500];
        loop {
            let length = socket.recv(&mut reply).with_context(|| format!("{name} is not answered"))?;
            // Others are late answers to earlier queries.
            match reply.get(..length) {
                Some(reply) if reply.get(..2) == Some(&id) && reply.len() >= HEADER => {
                    return Ok(answer(reply, start.elapsed()));
                }
                Some(_) | None => {}
            }
        }
    }
}

fn answer(reply: &[u8], took: Duration) -> Answer {
    // Without EDNS a single address ends the message.
    let address = (reply[7] > 0).then(|| reply.last_chunk::<4>()).flatten();
    Answer { rcode: reply[3] & 0x0f, address: address.map(|octets| Ipv4Addr::from(*octets)), took }
}

/// Sockets of a pod, connected to a server.
pub fn connected(pod: &Pod, server: SocketAddr, count: usize, timeout: Duration) -> Result<Vec<UdpSocket>> {
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let connect = || {
        let socket = UdpSocket::bind(any).context("cannot bind")?;
        socket.connect(server).context("cannot connect")?;
        socket.set_read_timeout(Some(timeout)).context("cannot set a timeout")?;
        Ok(socket)
    };
    pod.netns().run(|| (0..count).map(|_| connect()).collect())
}

/// A query for the address of a name.
pub fn query(id: u16, name: &str) -> Vec<u8> {
    let id = id.to_be_bytes();
    let mut query = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        query.push(u8::try_from(label.len()).unwrap_or_default());
        query.extend(label.bytes());
    }
    query.push(0);
    query.extend(A_IN);
    query
}
