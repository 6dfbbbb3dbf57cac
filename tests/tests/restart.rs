//! The agent dies in every way, without effect on traffic.

use std::time::Duration;

use tests::{Cluster, node::Node, rng::Rng, service::Service};

const KILLS: u32 = 20;
const CONNECTS: u64 = 10_000;

#[tokio::test]
async fn no_connect_fails_while_the_agent_is_killed_again_and_again() {
    let mut rng = Rng::new();
    println!("PORTREEVE_SEED={}", rng.seed);
    let cluster = Cluster::start("kill").nodes(2).await;
    let web = cluster.service("web").tcp(80).backends(["a", "b", "c"]).await;
    let node = cluster.node(0);
    let runner = cluster.pod("runner").dials(web.vips()).at_once(2).every(Duration::from_micros(500));
    let traffic = runner.in_background().await;

    for kill in 0..KILLS {
        // The agent is applying a change, or starting and adopting.
        churn(&web, &mut rng).await;
        rng.sleep_up_to(Duration::from_millis(30)).await;
        node.kill_agent().await.expect("it was running");
        churn(&web, &mut rng).await;
        if kill % 2 == 1 {
            node.spawn_agent().await.expect("it starts");
            rng.sleep_up_to(Duration::from_millis(150)).await;
            node.kill_agent().await.expect("it was running");
            churn(&web, &mut rng).await;
        }
        node.start_agent().await.expect("it adopts the maps");
        equals_a_fresh_start(node, &format!("after kill {kill}")).await;
        let progress = traffic.progress().await.expect("the runner answers");
        assert!(progress.failures.is_empty(), "after kill {kill}: {progress:?}");
    }
    tests::eventually("every connect was made", async || {
        let progress = traffic.progress().await?;
        anyhow::ensure!(progress.attempts >= CONNECTS, "{} connects", progress.attempts);
        Ok(())
    })
    .await;
    let report = traffic.stop().await.expect("the runner answers");
    assert!(report.failures.is_empty(), "{report:?}");
    println!("{} connects, none failed", report.attempts);
}

/// Changes the endpoints; every pod keeps serving, and `a` is always an endpoint.
async fn churn(web: &Service<'_>, rng: &mut Rng) {
    for name in ["b", "c", "d"] {
        if rng.coin() { web.add(name).await } else { web.remove(name) }
    }
}

async fn equals_a_fresh_start(node: &Node, when: &str) {
    let fresh = node.fresh_state().await.expect("an agent starts beside");
    assert!(fresh.lines().count() > 1, "a fresh start programs nothing: {fresh}");
    let state = node.state().expect("the maps are pinned");
    assert_eq!(state, fresh, "{when}, the state differs from a fresh start's");
}

#[tokio::test]
async fn sigterm_leaves_the_data_plane_in_place() {
    let cluster = Cluster::start("sigterm").await;
    let web = cluster.service("web").tcp(80).backends(["a", "b"]).await;
    let client = cluster.pod("client");
    let (held, _) = client.start().await.hold(web.vips().into(), 20).await.expect("it opens");

    let status = cluster.node(0).terminate_agent().await.expect("it ends");
    assert_eq!(status.code(), Some(0), "{status}");
    client.clone().dials(web.vips()).times(40).reaches_each_of(["a", "b"]).await;
    assert_eq!(client.start().await.echo(held).await.expect("it answers").failed(), 0);

    web.remove("a");
    cluster.node(0).start_agent().await.expect("it adopts the maps");
    client.clone().dials(web.vips()).times(40).comes_to_reach_each_of(["b"]).await;
    assert_eq!(client.start().await.echo(held).await.expect("it answers").failed(), 0);
}

#[tokio::test]
async fn a_second_agent_on_the_same_pins_names_the_first() {
    let cluster = Cluster::start("second").await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let node = cluster.node(0);
    let holder = node.agent_id().await.expect("it runs").to_string();

    let second = node.setting().command().expect("portreeve is built").output().expect("it starts");
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{text}");
    assert!(
        text.lines().last().is_some_and(|line| line.contains(&holder)),
        "the message does not name {holder}: {text}"
    );
    assert_eq!(node.agent_id().await.map(|id| id.to_string()), Some(holder));
    cluster.pod("client").dials(web.vips()).times(10).always_reaches_one_of(["a"]).await;
}

#[tokio::test]
async fn thousands_of_long_lived_connections_outlive_agents() {
    const CONNECTIONS: usize = 4_000;
    let cluster = Cluster::start("long").nodes(2).await;
    let web = cluster.service("web").tcp(80).backends(["a", "b"]).await;
    let client = cluster.pod("client").start().await;
    let (held, opened) = client.hold(web.vips().into(), CONNECTIONS).await.expect("it opens");
    let all = u64::try_from(CONNECTIONS).expect("a small number");
    assert_eq!((opened.answered(), opened.failed()), (all, 0), "{opened:?}");

    let all_answer = async |when: &str| {
        let echo = client.echo(held).await.expect("it answers");
        assert_eq!((echo.answered(), echo.failed()), (all, 0), "{when}: {:?}", echo.first_failures);
    };
    cluster.node(0).kill_agent().await.expect("it was running");
    all_answer("while the agent is dead").await;
    cluster.node(0).start_agent().await.expect("it starts");
    all_answer("after a restart").await;
    web.remove("a");
    cluster.pod("other").dials(web.vips()).times(40).comes_to_reach_each_of(["b"]).await;
    all_answer("after their backend has left").await;
    web.delete();
    cluster.node(0).terminate_agent().await.expect("it ends");
    all_answer("after their Service has gone").await;
}
