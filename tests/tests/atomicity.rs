//! A Service switches atomically: no connection is ever made to a backend after the switch away from it, and none
//! fails while one backend is ready.
//!
//! The story sees a switch in the pinned maps, as a program would. Who begins to connect after that and has an answer
//! before the backend is added again must have it from another one.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    net::IpAddr,
    time::{Duration, Instant},
};

use proxy::model::address::IpFamily;
use tests::{
    Cluster,
    pinned_maps::PinnedMaps,
    rng::Chance,
    traffic::{Report, now_us},
};

const CONNECTS: u64 = 20_000;
const BACKENDS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(5);
/// Asking how far the client is costs it time: not after every round.
const ROUNDS_BETWEEN: u64 = 10;

/// From when a backend was seen to be out until it was about to come back.
type Absences = BTreeMap<String, Vec<(u64, u64)>>;

#[tokio::test]
async fn nobody_reaches_a_backend_after_the_switch_away_from_it() {
    let connects = env::var("PORTREEVE_CONNECTS").map_or(CONNECTS, |text| text.parse().expect("a number"));
    let mut chance = Chance::new();
    println!("PORTREEVE_SEED={}", chance.seed);
    let cluster = Cluster::start("atomicity").await;
    let names: Vec<_> = (0..BACKENDS).map(|index| format!("b{index}")).collect();
    let backends = names.iter().map(String::as_str);
    let web = cluster.service("web").tcp(80).only(IpAddr::is_ipv4).backends(backends).await;
    let maps = PinnedMaps::open(cluster.node(0).bpffs()).expect("the maps are pinned");
    let frontend = maps.frontend(web.vip()).expect("it is programmed");
    let switched_to = |count| await_switch(&maps, frontend, count);

    let traffic = cluster.pod("client").dials(web.vip()).at_once(4).recorded().in_background().await;
    let (mut absences, mut periods, mut changes) = (Absences::new(), Vec::new(), 0);
    let begun = Instant::now();
    for round in 1_u64.. {
        // The first one always stays.
        let out: BTreeSet<_> = names.iter().skip(1).filter(|_| chance.coin()).cloned().collect();
        web.list_only(|name| !out.contains(name));
        switched_to(BACKENDS - out.len());
        // Instants are whole microseconds, cut off: only from the next one on did everybody begin after the switch.
        let gone = now_us() + 1;
        // Time for a few connections to begin and end while they are out.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let back = now_us();
        web.list_only(|_| true);
        switched_to(BACKENDS);
        changes += 2 * out.len();
        periods.push((gone, back));
        out.into_iter().for_each(|name| absences.entry(name).or_default().push((gone, back)));
        if round.is_multiple_of(ROUNDS_BETWEEN) {
            let progress = traffic.progress().await.expect("the client answers");
            if progress.attempts >= connects {
                break;
            }
        }
    }
    let rate = changes as f64 / begun.elapsed().as_secs_f64();
    let report = traffic.stop().await.expect("the client answers");
    println!("{} connects, {changes} changes at {rate:.0} a second", report.attempts);
    assert!(report.failures.is_empty(), "{:?} {:?}", report.failures, report.first_failures);
    absences.iter().for_each(|(name, absences)| check(&report, name, absences));
    // What makes it a test at all: enough connects lie wholly between two switches.
    let spans = report.answers.values().flat_map(|answers| &answers.spans_us);
    let met = spans.filter(|span| too_late(**span, &periods).is_some()).count();
    assert!(met > 100, "only {met} connects lie between two switches");
    println!("{met} of them between two switches");
}

/// Returns as soon as so many backends serve.
fn await_switch(maps: &PinnedMaps, frontend: u32, count: usize) {
    let begun = Instant::now();
    while maps.serving(frontend, IpFamily::V4).len() != count {
        assert!(begun.elapsed() < PATIENCE, "{count} backends do not come to serve");
        // The agent has another processor.
        std::thread::yield_now();
    }
}

fn check(report: &Report, name: &str, absences: &[(u64, u64)]) {
    let spans = &report.answers[name].spans_us;
    assert!(spans.len() > 100, "{name} was hardly reached");
    let late: Vec<String> = spans.iter().filter_map(|span| too_late(*span, absences)).collect();
    assert_eq!(late, [""; 0], "{name} was reached after the switch away from it");
}

/// How long after the switch away from a backend a connect to it began whose answer was there before it came back.
fn too_late((began, ended): (u64, u64), absences: &[(u64, u64)]) -> Option<String> {
    // Absences do not overlap and are in order: the last one that began before it is the only one to look at.
    let before = absences.partition_point(|(gone, _)| *gone <= began);
    let (gone, back) = before.checked_sub(1).and_then(|index| absences.get(index))?;
    (ended < *back).then(|| format!("{} us after, {} us before it came back", began - gone, back - ended))
}
