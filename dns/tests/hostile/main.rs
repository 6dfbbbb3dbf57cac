//! Hostile packets: the server drops every input or answers it within its limits of size and time.
//!
//! `cargo test` makes a short run, `cargo xtask fuzz-dns` a run of any length. A failure reports the packet and the
//! seed, so that it can be reproduced.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    env,
    net::{IpAddr, Ipv4Addr},
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use dns::{
    observe::metrics::Transport,
    serve::handler::{Client, Handled},
};
use nix::time::{ClockId, clock_gettime};
use rand::{SeedableRng as _, rngs::StdRng};

mod fixture;
mod judge;
mod packets;

/// Packets in a short run.
const PACKETS: u64 = 20_000;
/// Limit of CPU time for one packet, in a build without optimisation.
const CPU_LIMIT: Duration = Duration::from_millis(500);
const SECONDS: &str = "FUZZ_SECONDS";
const SEED: &str = "FUZZ_SEED";

#[tokio::test]
async fn any_packet_is_answered_within_limits() {
    let seed = number(SEED).unwrap_or_else(rand::random);
    let seconds = number(SECONDS);
    println!("{SEED}={seed}");
    let fixture = fixture::Ground::start().await;
    let (mut random, mut tally) = (StdRng::seed_from_u64(seed), Counters::default());
    let (began, mut printed) = (Instant::now(), Instant::now());
    while seconds.map_or(tally.packets < PACKETS, |seconds| began.elapsed().as_secs() < seconds) {
        let packet = packets::next(&mut random);
        for transport in [Transport::Udp, Transport::Tcp] {
            one(&fixture, &packet, transport, &mut tally)
                .unwrap_or_else(|why| panic!("{why}\nseed {seed}, {transport:?}, packet {}", hex(&packet)));
        }
        if seconds.is_some() && printed.elapsed() > Duration::from_secs(10) {
            println!("{tally}");
            printed = Instant::now();
            // The only yield point: file watchers and probes of upstreams run here.
            tokio::task::yield_now().await;
        }
    }
    println!("{tally}");
    tally.assert_everything_happened();
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap())
}

fn one(
    fixture: &fixture::Ground,
    packet: &[u8],
    transport: Transport,
    tally: &mut Counters,
) -> Result<(), String> {
    let client = Client {
        transport,
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: 4242,
        local: IpAddr::V4(Ipv4Addr::LOCALHOST),
        is_encrypted: false,
        is_http: false,
    };
    let before = processor_time();
    let reply = catch_unwind(AssertUnwindSafe(|| match fixture.handler.handle(packet, client) {
        Handled::Dropped => (Outcome::Dropped, None),
        Handled::Transfer(_) => (Outcome::Answered, None),
        Handled::Reply(reply) => (Outcome::Answered, Some(reply)),
        Handled::Pending(pending) => (Outcome::Forwarded, Some(pending.refuse())),
    }));
    let took = processor_time().saturating_sub(before);
    let (outcome, reply) = reply.map_err(|_| "a panic".to_owned())?;
    tally.count(outcome, reply.as_deref().unwrap_or_default(), took);
    if fixture.metrics.panics() > 0 {
        return Err("a panic, caught by the server".to_owned());
    }
    if took > CPU_LIMIT {
        return Err(format!("{took:?} of CPU time"));
    }
    judge::judge(packet, transport, reply.as_deref())
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap()
}

fn hex(packet: &[u8]) -> String {
    packet.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Dropped,
    Answered,
    Forwarded,
}

/// Counts per outcome; a run that did not reach every outcome fails.
#[derive(Debug, Default)]
struct Counters {
    packets: u64,
    dropped: u64,
    refused: u64,
    answered: u64,
    forwarded: u64,
    truncated: u64,
    largest: usize,
    longest: Duration,
}

impl Counters {
    fn count(&mut self, outcome: Outcome, reply: &[u8], took: Duration) {
        self.packets += 1;
        match outcome {
            Outcome::Dropped => self.dropped += 1,
            Outcome::Answered if reply.len() == 12 => self.refused += 1,
            Outcome::Answered => self.answered += 1,
            Outcome::Forwarded => self.forwarded += 1,
        }
        self.truncated += u64::from(reply.get(2).is_some_and(|flags| flags & 2 != 0));
        self.largest = self.largest.max(reply.len());
        self.longest = self.longest.max(took);
    }

    fn assert_everything_happened(&self) {
        for (outcome, count) in [
            ("dropped", self.dropped),
            ("refused", self.refused),
            ("answered", self.answered),
            ("forwarded", self.forwarded),
            ("truncated", self.truncated),
        ] {
            assert!(count > self.packets / 5000, "hardly any packet was {outcome}: {self}");
        }
    }
}

impl std::fmt::Display for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { packets, dropped, refused, answered, forwarded, truncated, largest, longest } = self;
        write!(
            f,
            "{packets} packets: {dropped} dropped, {refused} refused with a bare header, {answered} answered, \
             {forwarded} to be forwarded; {truncated} truncated; largest {largest} octets, longest {longest:?}"
        )
    }
}
