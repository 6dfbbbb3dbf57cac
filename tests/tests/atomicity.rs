//! A Service switches atomically: no connection is ever made to a backend after the switch away from it, and none
//! fails while one backend is ready.
//!
//! The story sees a switch in the pinned maps, as a program would. Whoever begins to connect after that must not reach
//! the backend, until it is about to be added again.

use std::{
    collections::BTreeMap,
    env,
    time::{Duration, Instant},
};

use proxy::model::address::IpFamily;
use tests::{
    Cluster,
    dump::PinnedMaps,
    traffic::{Report, now_us},
};

const CONNECTS: u64 = 20_000;
const PATIENCE: Duration = Duration::from_secs(5);

/// From when a backend was seen to be out until it was about to come back.
type Absences = BTreeMap<String, Vec<(u64, u64)>>;

#[tokio::test]
async fn nobody_reaches_a_backend_after_the_switch_away_from_it() {
    let connects = env::var("PORTREEVE_CONNECTS").map_or(CONNECTS, |text| text.parse().expect("a number"));
    let cluster = Cluster::start("atomicity").await;
    let web =
        cluster.service("web").tcp(80).only(std::net::IpAddr::is_ipv4).backends(["a", "b", "c", "d"]).await;
    let maps = PinnedMaps::open(cluster.node(0).bpffs()).expect("the maps are pinned");
    let frontend = maps.frontend(web.vip()).expect("it is programmed");
    let serving = |count| {
        let begun = Instant::now();
        while maps.serving(frontend, IpFamily::V4).len() != count {
            assert!(begun.elapsed() < PATIENCE, "{count} backends do not come to serve");
            // The switch is to be seen as soon as it happens; the agent has another processor.
            std::thread::yield_now();
        }
    };

    let traffic = cluster.pod("client").dials(web.vip()).at_once(4).recorded().in_background().await;
    let (mut absences, mut changes) = (Absences::new(), 0_u64);
    let begun = Instant::now();
    loop {
        for name in ["b", "c", "d"] {
            web.remove(name);
            serving(3);
            let gone = now_us();
            // Time to be caught: a few connections begin while it is out.
            tokio::time::sleep(Duration::from_micros(500)).await;
            let back = now_us();
            web.add(name).await;
            serving(4);
            absences.entry(name.to_owned()).or_default().push((gone, back));
            changes += 2;
        }
        // Asking costs the client time: not after every change.
        if changes.is_multiple_of(60)
            && traffic.progress().await.expect("the client answers").attempts >= connects
        {
            break;
        }
    }
    let rate = changes as f64 / begun.elapsed().as_secs_f64();
    let report = traffic.stop().await.expect("the client answers");
    println!("{} connects, {changes} changes at {rate:.0} a second", report.attempts);
    assert!(report.failures.is_empty(), "{:?} {:?}", report.failures, report.first_failures);
    for (name, absences) in absences {
        check(&report, &name, &absences);
    }
}

fn check(report: &Report, name: &str, absences: &[(u64, u64)]) {
    let began = &report.answers[name].began_us;
    assert!(began.len() > 100, "{name} was hardly reached");
    let late =
        began.iter().filter(|began| absences.iter().any(|(gone, back)| gone <= began && *began < back));
    let late = late.collect::<Vec<_>>();
    assert!(late.is_empty(), "{name} was reached {} times after the switch away from it", late.len());
}
