//! The stories of the scripted API server with a real one. Needs the binaries named by `$KUBE_APISERVER` and `$ETCD`;
//! without them each story prints that it was skipped.

#![expect(clippy::print_stderr, reason = "skipped stories and measurements are reported")]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::api_server::{
    follower::{Follower, NODE},
    objects::{node, service, slice},
    real::{Binaries, RealApiServer},
};

/// Concurrent requests.
const AT_ONCE: usize = 32;

/// A server with a Service and the agent's Node. Returns `None` without the binaries.
async fn fixture(story: &str, flags: &[&str]) -> Result<Option<RealApiServer>> {
    let Some(binaries) = Binaries::named() else {
        eprintln!("{story}: skipped, as $KUBE_APISERVER and $ETCD name no binaries");
        return Ok(None);
    };
    let server = RealApiServer::start_with(binaries, flags).await?;
    server.put_all([service("web", 1000), slice("web", [1, 2]), node(NODE, "192.0.2.7")], 1).await?;
    Ok(Some(server))
}

fn has(follower: &Follower, service: &str, backends: usize) -> bool {
    follower.backends(service).is_some_and(|found| found.len() == backends)
}

/// Followed in every setup: streaming lists, pages, and without the watch cache.
#[tokio::test]
async fn a_real_server_is_followed() -> Result<()> {
    for flags in [&[][..], &["--feature-gates=WatchList=false"], &["--watch-cache=false"]] {
        let Some(server) = fixture("a_real_server_is_followed", flags).await? else { return Ok(()) };
        let mut follower = Follower::start(&server.kubeconfig()).await?;
        follower.synced().await;
        assert!(has(&follower, "web", 2), "{flags:?}");
        assert_eq!(follower.node_addresses(), 1, "{flags:?}");
        server.put(&slice("web", [1, 2, 3])).await?;
        server.put(&service("new", 3000)).await?;
        server.put(&slice("new", [9])).await?;
        follower.until("news came", |follower| has(follower, "web", 3) && has(follower, "new", 1)).await;
        server.delete(&service("new", 3000)).await?;
        follower.until("it went", |follower| follower.backends("new").is_none()).await;
        assert_eq!(follower.skipped, [""; 0], "{flags:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_real_server_that_dies_and_returns_costs_exactly_the_difference() -> Result<()> {
    let Some(mut server) = fixture("a_real_server_that_dies_and_returns", &[]).await? else { return Ok(()) };
    let mut follower = Follower::start(&server.kubeconfig()).await?;
    follower.synced().await;
    server.stop();
    follower.stays_unchanged_for(Duration::from_secs(1)).await?;
    assert!(has(&follower, "web", 2), "objects stay while the server is down");
    let before = follower.news;
    server.start_again().await?;
    server.put(&slice("web", [5])).await?;
    follower.until("the difference was heard", |follower| has(follower, "web", 1)).await;
    assert_eq!(follower.news - before, 1);
    Ok(())
}

/// Changes during the outage are compacted before the server returns: `410 Gone`.
#[tokio::test]
async fn a_real_server_that_forgot_the_past_costs_exactly_the_difference() -> Result<()> {
    for flags in [&[][..], &["--feature-gates=WatchList=false"], &["--watch-cache=false"]] {
        let Some(mut server) = fixture("a_real_server_that_forgot", flags).await? else { return Ok(()) };
        server.put_all([service("api", 2000), slice("api", [3])], 1).await?;
        let mut follower = Follower::start(&server.kubeconfig()).await?;
        follower.synced().await;
        let before = follower.news;
        server.stop();
        server.start_on_another_port().await?;
        server.put(&slice("web", [1, 2, 5])).await?;
        server.delete(&service("api", 2000)).await?;
        server.compact().await?;
        server.stop();
        follower.stays_unchanged_for(Duration::from_millis(300)).await?;
        server.start_again().await?;
        let holds = |follower: &Follower| has(follower, "web", 3) && follower.backends("api").is_none();
        follower.until(&format!("the difference was heard with {flags:?}"), holds).await;
        follower.stays_unchanged_for(Duration::from_millis(500)).await?;
        assert_eq!(follower.news - before, 2, "{flags:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_follower_waits_for_a_real_server() -> Result<()> {
    let Some(mut server) = fixture("a_follower_waits_for_a_real_server", &[]).await? else { return Ok(()) };
    server.stop();
    let mut follower = Follower::start(&server.kubeconfig()).await?;
    follower.stays_unchanged_for(Duration::from_millis(500)).await?;
    assert!(!follower.is_synced);
    server.start_again().await?;
    follower.synced().await;
    assert!(has(&follower, "web", 2));
    Ok(())
}

/// At the server's highest rate, which is printed.
#[tokio::test]
async fn changes_of_slices_arrive_at_the_rate_of_a_real_server() -> Result<()> {
    const SERVICES: u32 = 50;
    const CHANGES: u32 = 5_000;
    let Some(server) = fixture("changes_of_slices", &[]).await? else { return Ok(()) };
    let names: Vec<String> = (0..SERVICES).map(|n| format!("s{n}")).collect();
    let services = names.iter().zip(10_000..).map(|(name, n)| service(name, n));
    server.put_all(services, AT_ONCE).await?;
    let mut follower = Follower::start(&server.kubeconfig()).await?;
    follower.synced().await;
    let changes = (0..CHANGES).map(|n| slice(&names[(n % SERVICES) as usize], [1000 + n, 30_000 + n]));
    let start = Instant::now();
    let writing = server.put_all(changes, AT_ONCE);
    let heard = follower.until("the last change of each Service was heard", |follower| {
        (CHANGES - SERVICES..CHANGES).all(|n| {
            let found = follower.backends(&names[(n % SERVICES) as usize]);
            found.is_some_and(|found| found.first() == Some(&address(n)))
        })
    });
    let (written, ()) = tokio::join!(async { writing.await.map(|()| start.elapsed()) }, heard);
    let (written, heard) = (written?, start.elapsed());
    let rate = f64::from(CHANGES) / written.as_secs_f64();
    eprintln!("{CHANGES} changes written in {written:.2?} ({rate:.0}/s), all heard after {heard:.2?}");
    ensure!(heard < written + Duration::from_secs(5), "the last were heard {:?} late", heard - written);
    Ok(())
}

fn address(n: u32) -> String {
    let [_, _, high, low] = (1000 + n).to_be_bytes();
    format!("10.128.{high}.{low}:8080")
}
