//! A Service switches atomically: no connection reaches a backend after the switch away from it, and none fails while a
//! backend is ready.
//!
//! The story reads a switch from the pinned maps, as a program does. A connect that starts after the switch and is
//! answered before the backend returns must be answered by another backend.

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
    rng::Rng,
    traffic::{Report, now_us},
};

const CONNECTS: u64 = 20_000;
const BACKENDS: usize = 16;
const TIMEOUT: Duration = Duration::from_secs(5);
/// Rounds between progress requests, which cost the client time.
const ROUNDS_BETWEEN: u64 = 10;

/// Interval from the observed removal of a backend until just before its return.
type Absences = BTreeMap<String, Vec<(u64, u64)>>;

#[tokio::test]
async fn no_connect_reaches_a_backend_after_the_switch_away_from_it() {
    let connects = env::var("PORTREEVE_CONNECTS").map_or(CONNECTS, |text| text.parse().expect("a number"));
    let mut rng = Rng::new();
    println!("PORTREEVE_SEED={}", rng.seed);
    let cluster = Cluster::start("atomicity").await;
    let names: Vec<_> = (0..BACKENDS).map(|index| format!("b{index}")).collect();
    let backends = names.iter().map(String::as_str);
    let web = cluster.service("web").tcp(80).only(IpAddr::is_ipv4).backends(backends).await;
    let maps = PinnedMaps::open(cluster.node(0).bpffs()).expect("the maps are pinned");
    let frontend = maps.frontend(web.vip()).expect("it is programmed");
    let switched_to = |count| await_switch(&maps, frontend, count);

    let traffic = cluster.pod("client").dials(web.vip()).at_once(4).recorded().in_background().await;
    let (mut absences, mut periods, mut changes) = (Absences::new(), Vec::new(), 0);
    let start = Instant::now();
    for round in 1_u64.. {
        // The first backend always stays.
        let out: BTreeSet<_> = names.iter().skip(1).filter(|_| rng.coin()).cloned().collect();
        web.list_only(|name| !out.contains(name));
        switched_to(BACKENDS - out.len());
        // Instants are truncated to microseconds: only the next one is certainly after the switch.
        let gone = now_us() + 1;
        // Time for a few connects during the absence.
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
    let rate = changes as f64 / start.elapsed().as_secs_f64();
    let report = traffic.stop().await.expect("the client answers");
    println!("{} connects, {changes} changes at {rate:.0} a second", report.attempts);
    assert!(report.failures.is_empty(), "{:?} {:?}", report.failures, report.first_failures);
    absences.iter().for_each(|(name, absences)| check(&report, name, absences));
    // The test is significant only if enough connects lie between two switches.
    let spans = report.answers.values().flat_map(|answers| &answers.spans_us);
    let met = spans.filter(|span| too_late(**span, &periods).is_some()).count();
    assert!(met > 100, "only {met} connects lie between two switches");
    println!("{met} of them between two switches");
}

/// Waits until this many backends serve.
fn await_switch(maps: &PinnedMaps, frontend: u32, count: usize) {
    let start = Instant::now();
    while maps.serving(frontend, IpFamily::V4).expect("the maps are readable").len() != count {
        assert!(start.elapsed() < TIMEOUT, "{count} backends do not serve");
        // The agent runs on another processor.
        std::thread::yield_now();
    }
}

fn check(report: &Report, name: &str, absences: &[(u64, u64)]) {
    let spans = &report.answers[name].spans_us;
    assert!(spans.len() > 100, "{name} was hardly reached");
    let late: Vec<String> = spans.iter().filter_map(|span| too_late(*span, absences)).collect();
    assert_eq!(late, [""; 0], "{name} was reached after the switch away from it");
}

/// The delay of a connect after the switch away from its backend. Returns `None` if it did not lie in an absence.
fn too_late((began, ended): (u64, u64), absences: &[(u64, u64)]) -> Option<String> {
    // Absences are sorted and disjoint: only the last one that began before the connect matters.
    let before = absences.partition_point(|(gone, _)| *gone <= began);
    let (gone, back) = before.checked_sub(1).and_then(|index| absences.get(index))?;
    (ended < *back).then(|| format!("{} us after, {} us before it came back", began - gone, back - ended))
}
