//! An upstream server with one address for every name, so that a cache has entries.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::lab::kernel::netns::Netns;

pub struct Upstream {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A record: the name of the question, A, IN, TTL one hour, four octets.
const ANSWER: [u8; 16] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4, 192, 0, 2, 1];
const HEADER: usize = 12;

impl Upstream {
    pub fn start(netns: &Netns) -> Result<Self> {
        let socket = netns.run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot bind"))?;
        socket.set_read_timeout(Some(Duration::from_millis(100))).context("cannot set a timeout")?;
        let address = socket.local_addr().context("a socket without an address")?;
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Relaxed) {
                answer_one(&socket);
            }
        });
        Ok(Self { address, stop, thread: Some(thread) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        // A panic of the thread was reported already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn answer_one(socket: &UdpSocket) {
    let mut packet = [0; 512];
    let Ok((length, from)) = socket.recv_from(&mut packet) else { return };
    let Some(question) = packet.get(..length).and_then(question_end).and_then(|end| packet.get(..end)) else {
        return;
    };
    let mut reply = question.to_vec();
    reply[2..HEADER].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    reply.extend(ANSWER);
    let _ = socket.send_to(&reply, from);
}

fn question_end(packet: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    while *packet.get(at)? != 0 {
        at += 1 + usize::from(packet[at]);
    }
    Some(at + 5)
}
