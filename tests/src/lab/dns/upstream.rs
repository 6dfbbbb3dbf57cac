//! An upstream server of a story, in a pod of its own, whose faults can be switched on and off.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::lab::pod::Pod;

/// Names with this label are never answered.
pub const SILENT: &str = "silent";
/// The address in forged replies.
pub const FORGED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);
/// The time to live of answers, in seconds: they expire during a story.
pub const TTL: u8 = 1;

const PORT: u16 = 8053;
const HEADER: usize = 12;
/// The type and class behind a name.
const TYPE_AND_CLASS: usize = 4;
const POLL: Duration = Duration::from_millis(1);
/// An OPT record that offers 1232 octets.
const OPT: [u8; 11] = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];
/// Response, recursion desired and available; and the response code NXDOMAIN.
const FLAGS: [u8; 2] = [0x81, 0x80];
const NXDOMAIN: u8 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Answers at once, with EDNS, and in the case of the question.
    Sound,
    /// Answers after this time.
    Slow(Duration),
    LowersCase,
    /// Does not answer queries with EDNS.
    DropsEdns,
    /// Sends forged replies before the true one, as an attacker would who guesses.
    Lies,
    /// Says that no name exists.
    LosesNames,
    /// Has closed its socket.
    Dead,
}

/// Removed when dropped.
#[derive(Debug)]
pub struct Upstream {
    pub address: SocketAddr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    behaviour: Mutex<Behaviour>,
    /// The numbers of the last change of the behaviour, and of that in effect.
    changes: AtomicU64,
    in_effect: AtomicU64,
    queries: AtomicU64,
    stop: AtomicBool,
}

/// The address of a name: its own, so that an answer for another one is noticed.
pub fn address_of(name: &str) -> Ipv4Addr {
    let name = name.trim_end_matches('.').bytes();
    let hash = name.fold(0x811c_9dc5_u32, |hash, octet| {
        (hash ^ u32::from(octet.to_ascii_lowercase())).wrapping_mul(0x0100_0193)
    });
    Ipv4Addr::from(0x0a00_0000 | hash >> 8)
}

/// The address at which the upstream of a pod listens.
pub fn listens_at(pod: IpAddr) -> SocketAddr {
    SocketAddr::new(pod, PORT)
}

impl Upstream {
    pub fn start(pod: Arc<Pod>) -> Result<Self> {
        let address = listens_at(pod.addresses.v4.into());
        let socket = open(&pod, address)?;
        let state = Arc::new(State {
            behaviour: Mutex::new(Behaviour::Sound),
            changes: AtomicU64::new(0),
            in_effect: AtomicU64::new(0),
            queries: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let mut server = Server {
            pod,
            address,
            socket: Some(socket),
            state: Arc::clone(&state),
            delayed: VecDeque::new(),
        };
        let thread = thread::spawn(move || server.serve());
        Ok(Self { address, state, thread: Some(thread) })
    }

    /// Changes the behaviour; it is in effect afterwards.
    pub fn behaves(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock().unwrap_or_else(PoisonError::into_inner) = behaviour;
        let change = self.state.changes.fetch_add(1, Release) + 1;
        while self.state.in_effect.load(Acquire) < change {
            thread::sleep(POLL);
        }
    }

    /// The queries received.
    pub fn queries(&self) -> u64 {
        self.state.queries.load(Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.state.stop.store(true, Relaxed);
        // A panic of the thread was reported already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Server {
    pod: Arc<Pod>,
    address: SocketAddr,
    socket: Option<UdpSocket>,
    state: Arc<State>,
    /// Replies to be sent later, the next one first.
    delayed: VecDeque<(Instant, Vec<u8>, SocketAddr)>,
}

impl Server {
    fn serve(&mut self) {
        while !self.state.stop.load(Relaxed) {
            let change = self.state.changes.load(Acquire);
            let behaviour = *self.state.behaviour.lock().unwrap_or_else(PoisonError::into_inner);
            if behaviour == Behaviour::Dead {
                self.socket = None;
            } else if self.socket.is_none() {
                self.socket = open(&self.pod, self.address).ok();
            }
            self.state.in_effect.store(change, Release);
            match &self.socket {
                None => thread::sleep(POLL),
                Some(socket) => {
                    while self.delayed.front().is_some_and(|(due, ..)| *due <= Instant::now()) {
                        let Some((_, reply, to)) = self.delayed.pop_front() else { break };
                        let _ = socket.send_to(&reply, to);
                    }
                    let mut packet = [0; 1500];
                    // Errors: no query yet, or a querier that is gone.
                    let Ok((length, from)) = socket.recv_from(&mut packet) else { continue };
                    self.state.queries.fetch_add(1, Relaxed);
                    let query = packet.get(..length).unwrap_or_default();
                    if let Some(delayed) = answer(socket, query, from, behaviour) {
                        self.delayed.push_back(delayed);
                    }
                }
            }
        }
    }
}

fn open(pod: &Pod, address: SocketAddr) -> Result<UdpSocket> {
    let socket = pod.netns().run(|| UdpSocket::bind(address).context("cannot bind"))?;
    socket.set_read_timeout(Some(POLL)).context("cannot set a timeout")?;
    Ok(socket)
}

/// Answers a query, or returns what is to be sent later.
fn answer(
    socket: &UdpSocket,
    query: &[u8],
    from: SocketAddr,
    behaviour: Behaviour,
) -> Option<(Instant, Vec<u8>, SocketAddr)> {
    let name = name_of(query)?;
    let has_edns = query.get(10..HEADER)? != [0, 0];
    let drops = behaviour == Behaviour::DropsEdns && has_edns;
    if drops || name.split('.').any(|label| label.eq_ignore_ascii_case(SILENT)) {
        return None;
    }
    let mut reply = reply_to(query, address_of(&name), has_edns)?;
    match behaviour {
        Behaviour::Sound | Behaviour::DropsEdns | Behaviour::Dead => {}
        Behaviour::Slow(delay) => return Some((Instant::now() + delay, reply, from)),
        Behaviour::LowersCase => {
            let end = question_end(query)?;
            reply.get_mut(HEADER..end - TYPE_AND_CLASS)?.make_ascii_lowercase();
        }
        Behaviour::Lies => forged(query).into_iter().for_each(|forged| drop(socket.send_to(&forged, from))),
        Behaviour::LosesNames => {
            reply.truncate(question_end(query)?);
            reply.get_mut(2..HEADER)?.copy_from_slice(&[
                FLAGS[0],
                FLAGS[1] | NXDOMAIN,
                0,
                1,
                0,
                0,
                0,
                0,
                0,
                0,
            ]);
        }
    }
    let _ = socket.send_to(&reply, from);
    None
}

/// Replies that must not be believed: of another id, another question, no question, a query, and a part of one.
fn forged(query: &[u8]) -> Vec<Vec<u8>> {
    let Some(forged) = reply_to(query, FORGED, false) else { return Vec::new() };
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut reply = forged.clone();
        change(&mut reply);
        reply
    };
    vec![
        changed(&|reply| reply[0] ^= 0xff),
        changed(&|reply| reply[HEADER + 1] = b'_'),
        changed(&|reply| reply[5] = 0),
        changed(&|reply| reply[2] &= 0x7f),
        changed(&|reply| reply.truncate(HEADER + 3)),
    ]
}

/// A reply with one address.
fn reply_to(query: &[u8], address: Ipv4Addr, has_edns: bool) -> Option<Vec<u8>> {
    let mut reply = query.get(..question_end(query)?)?.to_vec();
    let additional = u8::from(has_edns);
    reply.get_mut(2..HEADER)?.copy_from_slice(&[FLAGS[0], FLAGS[1], 0, 1, 0, 1, 0, 0, 0, additional]);
    // The name of the question, A, IN.
    reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, TTL, 0, 4]);
    reply.extend(address.octets());
    if has_edns {
        reply.extend(OPT);
    }
    Some(reply)
}

fn name_of(query: &[u8]) -> Option<String> {
    let (mut at, mut labels) = (HEADER, Vec::new());
    loop {
        let length = usize::from(*query.get(at)?);
        if length == 0 {
            return Some(labels.join("."));
        }
        labels.push(String::from_utf8_lossy(query.get(at + 1..at + 1 + length)?).into_owned());
        at += 1 + length;
    }
}

/// The octets up to the end of the first question.
fn question_end(packet: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    while *packet.get(at)? != 0 {
        at += 1 + usize::from(packet[at]);
    }
    Some(at + 1 + TYPE_AND_CLASS).filter(|end| *end <= packet.len())
}
