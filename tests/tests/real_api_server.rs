//! What is told of the scripted API server, told of a real one. It needs the binaries that `$KUBE_APISERVER` and `$ETCD`
//! name; without them each story says that it was not told.

#![expect(clippy::print_stderr, reason = "what is left out is said")]

use std::time::Duration;

use anyhow::Result;
use tests::api_server::{
    follower::{Follower, NODE},
    objects::{node, service, slice},
    real::{Binaries, RealApiServer},
};

/// A server with a Service and our Node; none where there are no binaries.
async fn shop(story: &str) -> Result<Option<RealApiServer>> {
    let Some(binaries) = Binaries::named() else {
        eprintln!("{story}: not told, as $KUBE_APISERVER and $ETCD name no binaries");
        return Ok(None);
    };
    let server = RealApiServer::start(binaries).await?;
    for object in [service("web", 1), slice("web", [1, 2]), node(NODE, "192.0.2.7")] {
        server.put(&object).await?;
    }
    Ok(Some(server))
}

fn has(follower: &Follower, service: &str, backends: usize) -> bool {
    follower.backends(service).is_some_and(|found| found.len() == backends)
}

#[tokio::test]
async fn a_real_server_is_followed() -> Result<()> {
    let Some(server) = shop("a_real_server_is_followed").await? else { return Ok(()) };
    let mut follower = Follower::start(&server.kubeconfig()).await?;
    follower.synced().await;
    assert!(has(&follower, "web", 2));
    assert_eq!(follower.node_addresses(), 1);
    server.put(&slice("web", [1, 2, 3])).await?;
    server.put(&service("new", 3)).await?;
    server.put(&slice("new", [9])).await?;
    follower.until("news came", |follower| has(follower, "web", 3) && has(follower, "new", 1)).await;
    server.delete(&service("new", 3)).await?;
    follower.until("it went", |follower| follower.backends("new").is_none()).await;
    Ok(())
}

#[tokio::test]
async fn a_real_server_that_dies_and_returns_costs_exactly_the_difference() -> Result<()> {
    let Some(mut server) = shop("a_real_server_that_dies_and_returns").await? else { return Ok(()) };
    let mut follower = Follower::start(&server.kubeconfig()).await?;
    follower.synced().await;
    server.stop();
    follower.hears_no_news_for(Duration::from_secs(1)).await?;
    assert!(has(&follower, "web", 2), "nothing goes while nobody answers");
    let before = follower.news;
    server.start_again().await?;
    server.put(&slice("web", [5])).await?;
    follower.until("the difference was heard", |follower| has(follower, "web", 1)).await;
    assert_eq!(follower.news - before, 1);
    Ok(())
}

#[tokio::test]
async fn a_follower_waits_for_a_real_server() -> Result<()> {
    let Some(mut server) = shop("a_follower_waits_for_a_real_server").await? else { return Ok(()) };
    server.stop();
    let mut follower = Follower::start(&server.kubeconfig()).await?;
    follower.hears_no_news_for(Duration::from_millis(500)).await?;
    assert!(!follower.is_synced);
    server.start_again().await?;
    follower.synced().await;
    assert!(has(&follower, "web", 2));
    Ok(())
}
