//! Watches of an API server that fails in every way. Needs no privileges: no map is written.

use std::{path::Path, time::Duration};

use anyhow::Result;
use proxy::k8s::{
    access::{Access, Credentials},
    watch::Timing,
};
use tempfile::TempDir;
use tests::{
    api_server::{
        ApiServer, Behaviour,
        follower::{Follower, NODE, timing},
        objects::{node, service, slice},
    },
    eventually,
};

/// A server with two Services, and its kubeconfig.
fn fixture() -> Result<(ApiServer, TempDir)> {
    let server = ApiServer::start()?;
    let directory = tempfile::tempdir()?;
    server.kubeconfig(directory.path())?;
    server.put_all(cluster_objects());
    Ok((server, directory))
}

fn cluster_objects() -> Vec<serde_json::Value> {
    vec![
        service("web", 1),
        slice("web", [1, 2]),
        service("api", 2),
        slice("api", [3]),
        node(NODE, "192.0.2.7"),
        node("node-2", "192.0.2.8"),
    ]
}

fn kubeconfig(directory: &TempDir) -> std::path::PathBuf {
    directory.path().join("kubeconfig")
}

fn has(follower: &Follower, service: &str, backends: usize) -> bool {
    follower.backends(service).is_some_and(|found| found.len() == backends)
}

type ServerVariant = (&'static str, fn(&mut Behaviour));

/// The follower receives all objects, with streaming lists, bookmarks and pages as the server supports them.
#[tokio::test]
async fn objects_are_followed_from_servers_of_every_kind() -> Result<()> {
    let variants: [ServerVariant; 7] = [
        ("streaming lists", |_| {}),
        ("no streaming lists", |behaviour| behaviour.streams_lists = false),
        ("no pages", |behaviour| (behaviour.streams_lists, behaviour.pages) = (false, false)),
        ("small chunks", |behaviour| behaviour.piece = Some(7)),
        ("pages in small chunks", |behaviour| {
            (behaviour.streams_lists, behaviour.piece) = (false, Some(5));
        }),
        ("duplicate events", |behaviour| behaviour.duplicates = true),
        ("out of order", |behaviour| behaviour.reorders = true),
    ];
    for (name, variant) in variants {
        let (server, directory) = fixture()?;
        server.behave(variant);
        let mut follower = Follower::start(&kubeconfig(&directory)).await?;
        follower.synced().await;
        assert!(has(&follower, "web", 2) && has(&follower, "api", 1), "{name}");
        assert_eq!(follower.node_addresses(), 1, "{name}: only our own Node");
        server.put_all([slice("web", [1, 2, 3]), slice("web", [4]), service("new", 3), slice("new", [9])]);
        server.delete("services", "default", "api");
        let holds = |follower: &Follower| {
            has(follower, "web", 1) && has(follower, "new", 1) && follower.backends("api").is_none()
        };
        follower.until(name, holds).await;
        assert_eq!(follower.skipped, [""; 0], "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn a_list_of_many_pages_is_read_completely() -> Result<()> {
    let (server, directory) = fixture()?;
    server.behave(|behaviour| behaviour.streams_lists = false);
    server.put_all((10..1800).map(|n| service(&format!("s{n}"), n)));
    let mut follower = Follower::start(&kubeconfig(&directory)).await?;
    follower.synced().await;
    assert_eq!(follower.frontends(), 1792);
    assert_eq!(server.requests(&["/services?", "limit=500"]), 4);
    Ok(())
}

#[tokio::test]
async fn a_follower_waits_for_a_server_that_is_down() -> Result<()> {
    let (mut server, directory) = fixture()?;
    server.stop()?;
    let mut follower = Follower::start(&kubeconfig(&directory)).await?;
    follower.stays_unchanged_for(Duration::from_millis(300)).await?;
    assert!(!follower.is_synced);
    server.start_again()?;
    follower.synced().await;
    assert!(has(&follower, "web", 2));
    Ok(())
}

#[tokio::test]
async fn a_server_that_dies_and_returns_costs_exactly_the_difference() -> Result<()> {
    let (mut server, directory) = fixture()?;
    let mut follower = Follower::start(&kubeconfig(&directory)).await?;
    follower.synced().await;
    let before = follower.news;
    server.stop()?;
    server.put_all([slice("web", [1, 2, 5]), service("new", 3)]);
    server.delete("services", "default", "api");
    follower.stays_unchanged_for(Duration::from_millis(300)).await?;
    assert!(has(&follower, "web", 2) && has(&follower, "api", 1), "objects stay while the server is down");
    server.start_again()?;
    let holds = |follower: &Follower| {
        has(follower, "web", 3) && follower.backends("api").is_none() && follower.backends("new").is_some()
    };
    follower.until("the difference was heard", holds).await;
    assert_eq!(follower.news - before, 3);
    Ok(())
}

/// The backoff grows while a server is down, and starts over with each outage.
#[tokio::test]
async fn the_backoff_starts_over_with_each_outage() -> Result<()> {
    let (mut server, directory) = fixture()?;
    let timing = Timing { max_backoff: Duration::from_secs(600), ..timing() };
    let mut follower = Follower::start_with(&kubeconfig(&directory), timing).await?;
    follower.synced().await;
    for round in 0..12 {
        follower.stays_unchanged_for(timing.initial_backoff * 8).await?;
        server.stop()?;
        follower.stays_unchanged_for(timing.initial_backoff * 4).await?;
        server.start_again()?;
        let endpoints: &[u32] = if round % 2 == 0 { &[1] } else { &[1, 2] };
        server.put(&slice("web", endpoints.iter().copied()));
        follower.until("the change arrives", |follower| has(follower, "web", endpoints.len())).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_forgot_the_past_costs_exactly_the_difference() -> Result<()> {
    for (name, streams_lists, in_stream) in [
        ("on the next watch", true, false),
        ("in the middle of one", true, true),
        ("in the middle, with pages", false, true),
    ] {
        let (server, directory) = fixture()?;
        server.behave(|behaviour| behaviour.streams_lists = streams_lists);
        let mut follower = Follower::start(&kubeconfig(&directory)).await?;
        follower.synced().await;
        let before = follower.news;
        server.change_and_compact([slice("web", [1, 2, 5])], ("services", "default", "api"), in_stream);
        let holds = |follower: &Follower| has(follower, "web", 3) && follower.backends("api").is_none();
        follower.until(name, holds).await;
        follower.stays_unchanged_for(Duration::from_millis(200)).await?;
        assert_eq!(follower.news - before, 2, "{name}");
    }
    Ok(())
}

/// Resource versions start over, so no object of the server is newer than the known one.
#[tokio::test]
async fn the_state_of_a_server_restored_from_a_backup_replaces_the_known_one() -> Result<()> {
    let (server, directory) = fixture()?;
    server.put_all((0..20).map(|n| slice("web", [1, 2, 100 + n])));
    let mut follower = Follower::start(&kubeconfig(&directory)).await?;
    follower.synced().await;
    assert!(has(&follower, "web", 3));
    server.restore([service("web", 1), slice("web", [1, 2]), node(NODE, "192.0.2.7")]);
    let holds = |follower: &Follower| has(follower, "web", 2) && follower.backends("api").is_none();
    follower.until("the backup's state is taken over", holds).await;
    server.put(&slice("web", [8]));
    follower.until("it is followed from there", |follower| has(follower, "web", 1)).await;
    Ok(())
}

#[tokio::test]
async fn a_watch_that_falls_silent_is_replaced() -> Result<()> {
    let (server, directory) = fixture()?;
    let timing = Timing { idle_timeout: Duration::from_millis(500), ..timing() };
    let mut follower = Follower::start_with(&kubeconfig(&directory), timing).await?;
    follower.synced().await;
    let watches = server.requests(&["/services?", "watch=true"]);
    server.behave(|behaviour| behaviour.is_silent = true);
    server.put(&slice("web", [7]));
    follower.stays_unchanged_for(Duration::from_millis(200)).await?;
    server.behave(|behaviour| behaviour.is_silent = false);
    // The lost events come with the next watch, which resumes at the last resource version.
    follower.until("the new watch was heard", |follower| has(follower, "web", 1)).await;
    assert!(server.requests(&["/services?", "watch=true"]) > watches);
    Ok(())
}

#[tokio::test]
async fn truncated_responses_are_requested_again() -> Result<()> {
    for (name, streams_lists) in [("streams", true), ("pages", false)] {
        let (server, directory) = fixture()?;
        server.behave(|behaviour| {
            (behaviour.streams_lists, behaviour.breaks_after) = (streams_lists, Some(300));
        });
        let mut follower = Follower::start(&kubeconfig(&directory)).await?;
        eventually(name, async || {
            anyhow::ensure!(server.requests(&["/services?"]) > 3, "no retry yet");
            Ok(())
        })
        .await;
        follower.stays_unchanged_for(Duration::from_millis(50)).await.ok();
        assert!(!follower.is_synced, "{name}");
        server.behave(|behaviour| behaviour.breaks_after = None);
        follower.synced().await;
        assert!(has(&follower, "web", 2) && has(&follower, "api", 1), "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn a_token_renewed_on_disk_is_used() -> Result<()> {
    let (server, directory) = fixture()?;
    let mut follower = Follower::start(&kubeconfig(&directory)).await?;
    follower.synced().await;
    server.set_token(directory.path(), "the-second-token")?;
    server.cut_watches();
    server.put(&slice("web", [7]));
    follower.until("the new token was used", |follower| has(follower, "web", 1)).await;
    // The other order: the server requires the new token before it is on disk.
    server.behave(|behaviour| behaviour.token = Some("the-third-token".to_owned()));
    server.cut_watches();
    follower.stays_unchanged_for(Duration::from_millis(200)).await?;
    server.set_token(directory.path(), "the-third-token")?;
    server.put(&slice("web", [7, 8]));
    follower.until("the third token was used", |follower| has(follower, "web", 2)).await;
    Ok(())
}

#[tokio::test]
async fn a_client_certificate_authenticates() -> Result<()> {
    let server = ApiServer::start()?;
    let directory = tempfile::tempdir()?;
    let kubeconfig = server.kubeconfig_with_certificate(directory.path())?;
    server.put_all(cluster_objects());
    let mut follower = Follower::start(&kubeconfig).await?;
    follower.synced().await;
    Ok(())
}

#[tokio::test]
async fn a_server_of_another_authority_is_rejected() -> Result<()> {
    let (server, directory) = fixture()?;
    let other = tempfile::tempdir()?;
    ApiServer::start()?.kubeconfig(other.path())?;
    std::fs::copy(other.path().join("ca.crt"), directory.path().join("ca.crt"))?;
    let mut follower = Follower::start(&kubeconfig(&directory)).await?;
    follower.stays_unchanged_for(Duration::from_millis(300)).await?;
    assert!(!follower.is_synced);
    assert_eq!(server.requests(&[""]), 0, "no request was sent, and no token");
    // The right authority is written to the file, as at a renewal of certificates.
    server.kubeconfig(directory.path())?;
    follower.synced().await;
    Ok(())
}

#[tokio::test]
async fn missing_and_forbidden_resources_do_not_delay_the_others() -> Result<()> {
    for (name, behave) in [
        (
            "no ServiceCIDRs",
            (|behaviour| behaviour.missing.push("servicecidrs".to_owned())) as fn(&mut Behaviour),
        ),
        ("hidden ServiceCIDRs", |behaviour| behaviour.forbidden.push("servicecidrs".to_owned())),
    ] {
        let (server, directory) = fixture()?;
        server.behave(behave);
        let mut follower = Follower::start(&kubeconfig(&directory)).await?;
        follower.until(name, |follower| follower.is_synced).await;
    }
    let (server, directory) = fixture()?;
    server.behave(|behaviour| behaviour.forbidden.push("endpointslices".to_owned()));
    let mut follower = Follower::start(&kubeconfig(&directory)).await?;
    follower.stays_unchanged_for(Duration::ZERO).await.ok();
    eventually("slices are requested repeatedly", async || {
        anyhow::ensure!(server.requests(&["/endpointslices?"]) > 2, "not yet");
        Ok(())
    })
    .await;
    assert!(!follower.is_synced, "without slices every Service would lose its backends");
    server.behave(|behaviour| behaviour.forbidden.clear());
    follower.synced().await;
    Ok(())
}

#[tokio::test]
async fn an_unreadable_object_affects_no_other() -> Result<()> {
    for streams_lists in [true, false] {
        let (server, directory) = fixture()?;
        server.behave(|behaviour| behaviour.streams_lists = streams_lists);
        let mut bad = service("bad", 9);
        bad["spec"]["ports"] = serde_json::json!("none");
        server.put(&bad);
        let mut follower = Follower::start(&kubeconfig(&directory)).await?;
        follower.synced().await;
        assert!(has(&follower, "web", 2) && follower.backends("bad").is_none());
        assert!(follower.skipped.iter().any(|skip| skip.contains("default/bad")), "{:?}", follower.skipped);
        // Objects that were read before stay.
        let mut web = service("web", 1);
        web["spec"]["ports"] = serde_json::json!("none");
        server.put(&web);
        server.expire_watches();
        follower
            .until("the bad Service was skipped", |follower| {
                follower.skipped.iter().any(|skip| skip.contains("default/web"))
            })
            .await;
        assert!(has(&follower, "web", 2));
    }
    Ok(())
}

#[tokio::test]
async fn changed_labels_select_and_deselect_services() -> Result<()> {
    let (server, directory) = fixture()?;
    let mut follower = Follower::start(&kubeconfig(&directory)).await?;
    follower.synced().await;
    let mut foreign = service("web", 1);
    foreign["metadata"]["labels"]["service.kubernetes.io/service-proxy-name"] = "".into();
    server.put(&foreign);
    follower.until("another proxy has it", |follower| follower.backends("web").is_none()).await;
    server.put(&service("web", 1));
    follower.until("we have it again", |follower| has(follower, "web", 2)).await;
    let mut headless = slice("web", [1, 2]);
    headless["metadata"]["labels"]["service.kubernetes.io/headless"] = "".into();
    server.put(&headless);
    follower.until("its slice is hidden", |follower| has(follower, "web", 0)).await;
    Ok(())
}

/// A second of changes, none of which may be lost or late.
#[tokio::test]
async fn a_thousand_changes_in_a_second_are_followed() -> Result<()> {
    let (server, directory) = fixture()?;
    server.put_all((10..60).flat_map(|n| [service(&format!("s{n}"), n), slice(&format!("s{n}"), [n])]));
    let mut follower = Follower::start(&kubeconfig(&directory)).await?;
    follower.synced().await;
    let changes = tokio::task::spawn_blocking(move || {
        for n in 0..1000_u32 {
            let name = format!("s{}", 10 + n % 50);
            server.put(&slice(&name, [1000 + n, 3000 + n]));
            std::thread::sleep(Duration::from_millis(1));
        }
        server
    });
    let last = |follower: &Follower| {
        (950..1000_u32).all(|n| {
            let [_, _, high, low] = (1000 + n).to_be_bytes();
            let name = format!("s{}", 10 + n % 50);
            follower.backends(&name).is_some_and(|found| found[0] == format!("10.128.{high}.{low}:8080"))
        })
    };
    follower.until("the last change of each Service was heard", last).await;
    changes.await?;
    Ok(())
}

#[tokio::test]
async fn unusable_credentials_are_reported_at_once() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let missing = Follower::start(&directory.path().join("none")).await;
    let text = format!("{:#}", missing.err().expect("there is no such file"));
    assert!(text.contains("kubeconfig"), "{text}");
    let nowhere = Access { credentials: Credentials::ServiceAccount { url: None }, url: None };
    let nowhere = Follower::start_as(nowhere, timing()).await;
    let text = format!("{:#}", nowhere.err().expect("no address is known"));
    assert!(text.contains("--api-server"), "{text}");
    Ok(())
}

/// `--api-server` with the credentials of a kubeconfig whose own server address is unreachable.
#[tokio::test]
async fn another_address_uses_the_same_credentials() -> Result<()> {
    let (server, directory) = fixture()?;
    let path = kubeconfig(&directory);
    let text = std::fs::read_to_string(&path)?.replace(&server.url(), "https://127.0.0.1:1");
    std::fs::write(&path, text)?;
    let credentials = Credentials::Kubeconfig(vec![Path::new(&path).to_owned()]);
    let access = Access { credentials, url: Some(server.url()) };
    let mut follower = Follower::start_as(access, timing()).await?;
    follower.synced().await;
    assert!(has(&follower, "web", 2));
    Ok(())
}
