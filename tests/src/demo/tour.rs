//! The steps of the demo, and the picture of each.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tokio::time::{interval, sleep};

use crate::demo::{
    cluster::{Counts, DemoCluster},
    screen::{Screen, grouped},
};

/// Between two pictures.
const FRAME: Duration = Duration::from_millis(200);
/// A chapter lasts at least this long, so that it can be watched.
const CHAPTER: Duration = Duration::from_millis(3_500);
/// The limit for the expected effect of a chapter.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The bars show the share over this number of pictures.
const WINDOW: usize = 5;
const TRIES: u64 = 20;

/// The last samples, for shares and rates.
struct Window(VecDeque<(Instant, Counts)>);

pub async fn run(screen: &Screen, cluster: &mut DemoCluster) -> Result<()> {
    let mut window = Window(VecDeque::new());
    let all: Vec<_> = cluster.backends.keys().cloned().collect();
    // A pod that the client of the last chapter does not need.
    let leaving = cluster.backends.iter().max_by_key(|(_, pod)| &pod.node);
    let leaving = leaving.map(|(name, _)| name.clone()).unwrap_or_default();

    let caption = format!("{} pods on 2 nodes serve, dialled over IPv4 and IPv6", all.len());
    chapter(screen, cluster, &mut window, &caption, |now| all.iter().all(|name| now.share(name) > 0.0))
        .await?;
    report_chapter(screen, &window, &format!("balanced over {} pods, IPv4 and IPv6", all.len()));

    cluster.publish(|name| name != leaving)?;
    let caption = format!("{leaving} is removed");
    chapter(screen, cluster, &mut window, &caption, |now| now.share(&leaving) == 0.0).await?;
    report_chapter(screen, &window, &format!("{leaving} was removed"));

    cluster.publish(|_| true)?;
    let caption = format!("{leaving} is added again");
    chapter(screen, cluster, &mut window, &caption, |now| now.share(&leaving) > 0.2).await?;
    report_chapter(screen, &window, "it was added again and gets its share");

    cluster.kill_agent().await?;
    chapter(screen, cluster, &mut window, "the agent of node-1 is killed: its programs stay", |_| true)
        .await?;
    report_chapter(screen, &window, "the agent of node-1 was killed, without an effect on connections");

    cluster.restart_agent().await?;
    chapter(screen, cluster, &mut window, "a new agent adopts the pinned maps", |_| true).await?;
    report_chapter(screen, &window, "a new agent adopted the maps of the old one");

    let (name, report) = cluster.dial_itself(TRIES).await?;
    ensure!(report.answered_by(&name) == TRIES, "{name} does not reach itself: {report:?}");
    screen.done(&format!("{name} reached itself through its own Service"));
    Ok(())
}

/// Continues until Ctrl-C.
pub async fn run_until_interrupted(screen: &Screen, cluster: &mut DemoCluster) -> Result<()> {
    let mut window = Window(VecDeque::new());
    let mut ticks = interval(FRAME);
    loop {
        ticks.tick().await;
        window.push(cluster.counts().await?);
        screen.draw(&picture(screen, cluster, &window, "continues until Ctrl-C"));
    }
}

/// Redraws the picture for a while, and until the expected effect occurs.
async fn chapter(
    screen: &Screen,
    cluster: &DemoCluster,
    window: &mut Window,
    caption: &str,
    is_seen: impl Fn(&Window) -> bool,
) -> Result<()> {
    let start = Instant::now();
    window.0.clear();
    loop {
        window.push(cluster.counts().await?);
        let lines = picture(screen, cluster, window, caption);
        screen.draw(&lines);
        if start.elapsed() >= CHAPTER && is_seen(window) {
            if !screen.is_live() {
                lines.iter().for_each(|line| screen.say(line));
            }
            return Ok(());
        }
        ensure!(start.elapsed() < TIMEOUT, "not within {TIMEOUT:?}: {caption}");
        sleep(FRAME).await;
    }
}

fn report_chapter(screen: &Screen, window: &Window, text: &str) {
    let Some((_, counts)) = window.0.back() else { return };
    let failed = match counts.failed {
        0 => "0 failed".to_owned(),
        failed => screen.red(&format!("{failed} failed")),
    };
    screen.done(&format!("{text} {}", screen.dim(&format!("({failed})"))));
}

fn picture(screen: &Screen, cluster: &DemoCluster, window: &Window, caption: &str) -> Vec<String> {
    let Some((_, counts)) = window.0.back() else { return Vec::new() };
    let mut lines = vec![String::new(), format!(" {} {caption}", screen.bold("▸")), String::new()];
    for (name, pod) in &cluster.backends {
        let (share, count) = (window.share(name), counts.by_pod.get(name).copied().unwrap_or_default());
        let bar = screen.bar(share);
        let percent = share * 100.0;
        lines.push(format!("   {name:<22} {:<6} {bar}{percent:>4.0}%{:>9}", pod.node, grouped(count)));
    }
    lines.push(String::new());
    lines.push(totals(screen, window, counts));
    lines.push(String::new());
    lines
}

fn totals(screen: &Screen, window: &Window, counts: &Counts) -> String {
    let total = grouped(counts.v4 + counts.v6);
    let failed = match counts.failed {
        0 => screen.green("0 failed"),
        failed => screen.red(&format!("{} failed", grouped(failed))),
    };
    let milliseconds = f64::from(counts.p50_us) / 1_000.0;
    let (v4, v6) = (window.rate(|counts| counts.v4), window.rate(|counts| counts.v6));
    format!(
        "   IPv4 {v4:.0}/s   IPv6 {v6:.0}/s   median {milliseconds:.2} ms   {total} connections, {failed}"
    )
}

impl Window {
    fn push(&mut self, counts: Counts) {
        self.0.push_back((Instant::now(), counts));
        if self.0.len() > WINDOW {
            self.0.pop_front();
        }
    }

    /// The share of the last connections that reached this pod.
    fn share(&self, name: &str) -> f64 {
        let of = |counts: &Counts| counts.by_pod.get(name).copied().unwrap_or_default();
        let all = self.growth(|counts| counts.v4 + counts.v6);
        if all == 0 { 0.0 } else { self.growth(of) as f64 / all as f64 }
    }

    fn rate(&self, of: impl Fn(&Counts) -> u64) -> f64 {
        let (Some((first, _)), Some((last, _))) = (self.0.front(), self.0.back()) else { return 0.0 };
        let seconds = last.duration_since(*first).as_secs_f64();
        if seconds == 0.0 { 0.0 } else { self.growth(of) as f64 / seconds }
    }

    fn growth(&self, of: impl Fn(&Counts) -> u64) -> u64 {
        match (self.0.front(), self.0.back()) {
            (Some((_, first)), Some((_, last))) => of(last).saturating_sub(of(first)),
            _ => 0,
        }
    }
}
