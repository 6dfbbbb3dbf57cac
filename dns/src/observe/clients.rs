//! Query statistics: queries by client and by topic, counted when they are answered.
//!
//! ```text
//!  query ─> the worker's totals, since the start  ──────────────────────> metrics, by topic only
//!      └──> the worker's table of clients, of this quarter of an hour ─┐
//!           and that of the one before                                 ├─> report
//! ```
//!
//! A query costs an addition to each of the two. There are no locks, no data is shared with other workers as long
//! as there are as many tables, and for a client in the table there is no allocation. The reader sums up the
//! tables.
//!
//! Statistics per client cover a limited time. The addresses of deleted pods are reused, the clients of last week
//! would hide those that send many queries now, and a table that is never cleared fills up. For the same reason
//! clients are not a label of a metric: each pod that ever existed would remain a series.

use std::{
    cmp::Reverse,
    collections::HashMap,
    net::IpAddr,
    num::NonZeroUsize,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::available_parallelism,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use hickory_server::proto::op::ResponseCode;
use tokio::time::{Instant, sleep_until};

use crate::cluster::topic::Topic;

mod counters;
mod window;

use counters::{Counters, Troubles};
pub use counters::{Counts, SLOW, Trouble};
use window::Window;

/// The duration of a window of the statistics per client.
pub const WINDOW: Duration = Duration::from_secs(15 * 60);
/// The maximum number of tables; more take memory and are not faster.
const MAX_SHARDS: usize = 16;

#[derive(Debug)]
pub struct Clients {
    /// All clients, since the start.
    totals: Box<[WorkerTotal]>,
    recent: ArcSwap<Recent>,
}

/// The totals of one worker, on cache lines of their own, as it writes them with every query.
#[derive(Debug, Default)]
#[repr(align(128))]
struct WorkerTotal(Counters);

#[derive(Debug)]
struct Recent {
    now: Arc<Window>,
    before: Option<Arc<Window>>,
}

/// The statistics of the last two windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub since: SystemTime,
    /// In descending order of queries.
    pub clients: Vec<(IpAddr, Counts)>,
    /// Clients without a slot in the table.
    pub others: Counts,
}

impl Default for Clients {
    fn default() -> Self {
        let workers = available_parallelism().map_or(1, NonZeroUsize::get);
        Self::new(workers.min(MAX_SHARDS), SystemTime::now())
    }
}

impl Clients {
    fn new(shards: usize, now: SystemTime) -> Self {
        let recent = Recent { now: Arc::new(Window::new(shards, now)), before: None };
        Self {
            totals: (0..shards).map(|_| WorkerTotal::default()).collect(),
            recent: ArcSwap::from_pointee(recent),
        }
    }

    /// Counts an answered query.
    pub fn record(&self, client: IpAddr, topic: Topic, rcode: ResponseCode, took: Duration) {
        let troubles = Troubles::of(rcode, took);
        let shard = thread() % self.totals.len();
        self.totals[shard].0.add(topic, troubles);
        self.recent.load().now.counters(shard, client, |counters| counters.add(topic, troubles));
    }

    /// The totals of all clients, since the start.
    pub fn total(&self) -> Counts {
        self.totals.iter().map(|WorkerTotal(counters)| counters.counts()).sum()
    }

    pub fn report(&self) -> Report {
        let recent = self.recent.load();
        let windows = recent.before.iter().chain([&recent.now]);
        let mut clients: HashMap<IpAddr, Counts> = HashMap::new();
        let mut others = Counts::default();
        for window in windows.clone() {
            window.each(|client, counts| *clients.entry(client).or_default() += counts);
            others += window.others();
        }
        let mut clients: Vec<_> = clients.into_iter().collect();
        clients.sort_by_key(|(client, counts)| (Reverse(counts.queries()), *client));
        Report {
            since: windows.map(|window| window.since).min().unwrap_or(recent.now.since),
            clients,
            others,
        }
    }

    /// Begins a new window and drops the one before the current. Queries counted at the same time may still go to
    /// the current one.
    fn rotate(&self, now: SystemTime) {
        let recent = self.recent.load();
        let next = Window::new(self.totals.len(), now);
        self.recent.store(Arc::new(Recent { now: Arc::new(next), before: Some(Arc::clone(&recent.now)) }));
    }
}

/// Rotates the windows until the statistics are dropped.
pub async fn rotate(clients: Weak<Clients>) {
    let mut next = Instant::now() + WINDOW;
    loop {
        sleep_until(next).await;
        next += WINDOW;
        let Some(clients) = clients.upgrade() else { return };
        clients.rotate(SystemTime::now());
    }
}

/// The index of this thread among those that have counted queries.
fn thread() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static THREAD: usize = THREADS.fetch_add(1, Relaxed);
    }
    THREAD.with(|number| *number)
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, thread};

    use super::*;

    const PODS: [IpAddr; 2] =
        [IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2))];

    fn record(clients: &Clients, client: IpAddr, topic: Topic, times: u64) {
        (0..times).for_each(|_| clients.record(client, topic, ResponseCode::NoError, Duration::ZERO));
    }

    fn queries(clients: &Clients) -> Vec<(IpAddr, u64)> {
        let report = clients.report();
        report.clients.iter().map(|(client, counts)| (*client, counts.queries())).collect()
    }

    #[test]
    fn counts_of_all_threads_are_summed() {
        let clients = Clients::new(2, SystemTime::now());
        thread::scope(|scope| {
            for _ in 0..5 {
                scope.spawn(|| {
                    record(&clients, PODS[0], Topic::Service, 100);
                    record(&clients, PODS[1], Topic::Search, 300);
                });
            }
        });
        assert_eq!(queries(&clients), [(PODS[1], 1500), (PODS[0], 500)]);
        assert_eq!(clients.report().clients[1].1, Counts::of(&[(Topic::Service, 500)], &[]));
        assert_eq!(clients.total(), Counts::of(&[(Topic::Service, 500), (Topic::Search, 1500)], &[]));
        assert_eq!(clients.report().others, Counts::default());
    }

    #[test]
    fn clients_expire_and_totals_do_not() {
        let at = |minutes: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(60 * minutes);
        let clients = Clients::new(1, at(0));
        record(&clients, PODS[0], Topic::Service, 1);
        clients.rotate(at(15));
        record(&clients, PODS[0], Topic::Service, 2);
        record(&clients, PODS[1], Topic::Service, 1);
        assert_eq!((queries(&clients), clients.report().since), (vec![(PODS[0], 3), (PODS[1], 1)], at(0)));
        clients.rotate(at(30));
        assert_eq!((queries(&clients), clients.report().since), (vec![(PODS[0], 2), (PODS[1], 1)], at(15)));
        clients.rotate(at(45));
        assert_eq!((queries(&clients), clients.report().since), (vec![], at(30)));
        assert_eq!(clients.total().queries(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn windows_rotate_until_the_statistics_are_dropped() {
        let clients = Arc::new(Clients::new(1, SystemTime::now()));
        let turning = tokio::spawn(rotate(Arc::downgrade(&clients)));
        record(&clients, PODS[0], Topic::Pod, 1);
        tokio::time::sleep(WINDOW * 3 / 2).await;
        assert_eq!(queries(&clients), [(PODS[0], 1)]);
        tokio::time::sleep(WINDOW).await;
        assert_eq!(queries(&clients), []);
        drop(clients);
        turning.await.unwrap();
    }

    #[test]
    fn the_table_of_clients_is_bounded() {
        const MANY: u32 = 100_000;
        let clients = Clients::new(1, SystemTime::now());
        (0..MANY).for_each(|n| record(&clients, Ipv4Addr::from(n).into(), Topic::External, 1));
        let report = clients.report();
        assert!(report.clients.len() <= window::SLOTS, "{}", report.clients.len());
        let found = report.clients.len() as u64 + report.others.queries();
        assert_eq!(found, u64::from(MANY));
    }

    /// As many pods as on a large node, with addresses of several patterns.
    #[test]
    fn all_pods_of_a_node_get_a_slot() {
        for (name, address) in [
            ("in a row", (|n| Ipv4Addr::from(0x0af4_0100 + n).into()) as fn(u32) -> IpAddr),
            ("far apart", |n| Ipv4Addr::from(n.wrapping_mul(0x9e37_79b1)).into()),
            ("by the last octet of the network", |n| Ipv4Addr::from(0x0a00_0001 + (n << 8)).into()),
            ("IPv6", |n| IpAddr::V6((0xfd00_u128 << 112 | u128::from(n)).into())),
            ("IPv6 networks", |n| IpAddr::V6((0xfd00_u128 << 112 | u128::from(n) << 64 | 1).into())),
        ] {
            let clients = Clients::new(1, SystemTime::now());
            (0..500).for_each(|n| record(&clients, address(n), Topic::External, 1));
            assert_eq!(
                (clients.report().clients.len(), clients.report().others.queries()),
                (500, 0),
                "{name}"
            );
        }
    }
}
