//! Queries at full speed, and one at a time.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    population::{Expect, Group, Population},
    server::Server,
};
use crate::lab::{kernel::netns::Netns, rng::Rng};

/// The client's sockets. Several, as the kernel distributes clients over the server's sockets by their ports.
pub struct Load {
    sockets: Vec<UdpSocket>,
    time: Duration,
    window: u16,
}

/// Results of one group of names.
#[derive(Debug, Clone)]
pub struct Figures {
    pub name: &'static str,
    pub answered: u64,
    pub lost: u64,
    /// At full speed, by the clock and by the server's processor time.
    pub per_second: f64,
    pub per_core: f64,
    /// With one query at a time: the percentiles 50, 90, 99 and 99.9, in microseconds.
    pub latency: [f64; 4],
}

const SOCKETS: usize = 8;
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// An answer that takes longer is lost.
const LOST: Duration = Duration::from_millis(500);
const HEADER: usize = 12;
/// An OPT record that offers 1232 octets.
const OPT: [u8; 11] = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];
const PERCENTILES: [f64; 4] = [50.0, 90.0, 99.0, 99.9];

impl Load {
    pub fn new(netns: &Netns, server: SocketAddr, time: Duration, window: u16) -> Result<Self> {
        let connected = || {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot bind")?;
            socket.connect(server).context("cannot connect")?;
            socket.set_read_timeout(Some(LOST)).context("cannot set a timeout")?;
            Ok(socket)
        };
        let sockets = netns.run(|| (0..SOCKETS).map(|_| connected()).collect())?;
        Ok(Self { sockets, time, window })
    }

    /// Waits until the server has all objects. Returns the time since its start.
    pub async fn wait_until_known(&self, server: &Server, population: &Population) -> Result<Duration> {
        let last = population.last();
        while !self.is_answered(&last)? {
            ensure!(
                server.since_start() < START_TIMEOUT,
                "{last} is not answered; the server's log ends with\n{}",
                server.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(server.since_start())
    }

    /// Whether the server has the address of a name.
    fn is_answered(&self, name: &str) -> Result<bool> {
        let query = query(name, 1)?;
        let socket = &self.sockets[0];
        // The server may not listen yet.
        if socket.send(&query).is_err() {
            return Ok(false);
        }
        let mut reply = [0; 2048];
        let length = socket.recv(&mut reply).unwrap_or_default();
        Ok(Expect::Records(1).is_met(&reply[..length]))
    }

    pub fn measure(&self, group: &Group, server: &Server) -> Result<Figures> {
        let mut queries =
            group.names.iter().map(|(name, kind)| query(name, *kind)).collect::<Result<Vec<_>>>()?;
        shuffle(&mut queries, &mut Rng::new());
        // Once without measuring, to fill the caches.
        self.one_by_one(&queries, group.expect, queries.len(), Duration::MAX)?;
        let latency = percentiles(self.one_by_one(&queries, group.expect, usize::MAX, self.time)?);
        let (clock, before) = (Instant::now(), server.processor_time()?);
        let (answered, lost) = self.flood(&queries, group.expect)?;
        let took = (clock.elapsed(), server.processor_time()? - before);
        Ok(Figures {
            name: group.name,
            answered,
            lost,
            per_second: answered as f64 / took.0.as_secs_f64(),
            per_core: answered as f64 / took.1.as_secs_f64(),
            latency,
        })
    }

    /// The latency of each answer.
    fn one_by_one(
        &self,
        queries: &[Vec<u8>],
        expect: Expect,
        most: usize,
        time: Duration,
    ) -> Result<Vec<Duration>> {
        let began = Instant::now();
        let mut times = Vec::new();
        let mut reply = [0; 2048];
        for (at, query) in queries.iter().cycle().enumerate().take(most) {
            if began.elapsed() > time {
                break;
            }
            let socket = &self.sockets[at % SOCKETS];
            let asked = Instant::now();
            socket.send(query).context("cannot send a query")?;
            let length = socket.recv(&mut reply).context("a single query is not answered")?;
            ensure!(expect.is_met(&reply[..length]), "a wrong answer: {:?}", &reply[..length.min(64)]);
            times.push(asked.elapsed());
        }
        Ok(times)
    }

    /// Keeps a window of queries in flight on all sockets together. Returns the numbers of answered and lost
    /// queries.
    fn flood(&self, queries: &[Vec<u8>], expect: Expect) -> Result<(u64, u64)> {
        let end = Instant::now() + self.time;
        std::thread::scope(|scope| {
            let window = usize::from(self.window).div_ceil(SOCKETS);
            let half = SOCKETS / 2;
            let clients: Vec<_> = self
                .sockets
                .chunks(half)
                .enumerate()
                .map(|(at, sockets)| {
                    let offset = at * queries.len() / 2;
                    scope.spawn(move || keep_busy(sockets, queries, offset, window, expect, end))
                })
                .collect();
            let mut sum = (0, 0);
            for client in clients {
                let (answered, lost) = client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
                sum = (sum.0 + answered, sum.1 + lost);
            }
            Ok(sum)
        })
    }
}

/// Fills each socket's window with queries, then sends one for each answer.
fn keep_busy(
    sockets: &[UdpSocket],
    queries: &[Vec<u8>],
    offset: usize,
    window: usize,
    expect: Expect,
    end: Instant,
) -> Result<(u64, u64)> {
    let mut next = queries.iter().cycle().skip(offset);
    let (mut answered, mut lost) = (0, 0);
    let mut reply = [0; 2048];
    while Instant::now() < end {
        for socket in sockets {
            let mut under_way = 0;
            for query in next.by_ref().take(window) {
                // A full receive buffer of the server counts as a lost query.
                under_way += u64::from(socket.send(query).is_ok());
            }
            for left in (1..=under_way).rev() {
                match socket.recv(&mut reply) {
                    Ok(length) => {
                        ensure!(expect.is_met(&reply[..length]), "a wrong answer at full speed");
                        answered += 1;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        lost += left;
                        break;
                    }
                    Err(error) => return Err(error).context("cannot receive an answer"),
                }
            }
        }
    }
    Ok((answered, lost))
}

impl Expect {
    fn is_met(self, reply: &[u8]) -> bool {
        let Some(header) = reply.get(..HEADER) else { return false };
        let (rcode, answers) = (header[3] & 0xf, u16::from_be_bytes([header[6], header[7]]));
        match self {
            Self::Records(least) => rcode == 0 && answers >= least,
            Self::Missing => rcode == 3 && answers == 0,
            Self::Anything => true,
        }
    }
}

fn query(name: &str, kind: u16) -> Result<Vec<u8>> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).context("a long label")?);
        query.extend(label.as_bytes());
    }
    query.push(0);
    query.extend(kind.to_be_bytes());
    query.extend([0, 1]);
    query.extend(OPT);
    Ok(query)
}

fn shuffle<T>(items: &mut [T], rng: &mut Rng) {
    for at in (1..items.len()).rev() {
        let other = usize::try_from(rng.below(at as u64 + 1)).unwrap_or_default();
        items.swap(at, other);
    }
}

fn percentiles(mut times: Vec<Duration>) -> [f64; 4] {
    times.sort_unstable();
    PERCENTILES.map(|percent| {
        let at = ((times.len().saturating_sub(1)) as f64 * percent / 100.0) as usize;
        times.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_all_times() {
        let times = (1..=1000).rev().map(Duration::from_micros).collect();
        assert_eq!(percentiles(times).map(f64::round), [500.0, 900.0, 990.0, 999.0]);
    }
}
