//! The agent with a real API server, with only a kubeconfig and the permissions of `deploy/`. Needs the binaries named by
//! `$KUBE_APISERVER` and `$ETCD`; without them each story prints that it was skipped.

#![expect(clippy::print_stderr, reason = "skipped stories are reported")]

use std::{
    collections::BTreeSet,
    env, fs,
    net::{IpAddr, Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ServiceSpec;
use serde_json::Value;
use tests::{
    Cluster,
    agent::{Agent, AgentSetting, Source, portreeve},
    api_server::real::{Binaries, RealApiServer},
    cluster::Builder,
    eventually,
    node::Node,
    objects::NAMESPACE,
    pod_network::PodNetwork,
    process::Process,
    resolver::Resolver,
};

const HEALTH_PORT: u16 = 32100;
/// Connections open while one proxy replaces the other.
const CONNECTIONS: usize = 1_000;

/// A cluster whose objects come from a real API server, which mirrors its directory of manifests.
struct Fixture {
    server: RealApiServer,
    /// Kubeconfig of a service account with the permissions of `deploy/`.
    kubeconfig: PathBuf,
    cluster: Cluster,
}

impl Fixture {
    /// Returns `None` without the binaries.
    async fn new(story: &str) -> Result<Option<Self>> {
        Self::with(story, Cluster::start(story)).await
    }

    async fn with(story: &str, cluster: Builder) -> Result<Option<Self>> {
        let Some(binaries) = Binaries::named() else {
            eprintln!("{story}: skipped, as $KUBE_APISERVER and $ETCD name no binaries");
            return Ok(None);
        };
        let cluster = cluster.without_agents().await;
        let server = RealApiServer::start_in(binaries, cluster.node(0).netns()).await?;
        server.write_server_objects(cluster.manifests()).await?;
        let kubeconfig = server.deploy_account().await?;
        Ok(Some(Self { server, kubeconfig, cluster }))
    }

    fn node(&self) -> &Node {
        self.cluster.node(0)
    }

    async fn mirror(&self) -> Result<()> {
        self.server.mirror(self.cluster.manifests().directory()).await
    }

    async fn start_agent(&self, more: &[&str]) -> Result<Agent> {
        let mut setting = AgentSetting {
            source: Source::ApiServer(self.kubeconfig.clone()),
            ..self.node().setting().clone()
        };
        setting.more.extend(more.iter().map(|flag| (*flag).to_owned()));
        let mut agent = Agent::spawn(&setting, self.node().netns())?;
        agent.ready().await?;
        Ok(agent)
    }

    /// Starts kube-proxy on the node. It leaves its rules at its end.
    fn start_kube_proxy(&self, binary: &Path) -> Result<Process> {
        let mut command = Command::new(binary);
        command.arg("--proxy-mode=nftables").arg("--kubeconfig").arg(self.server.kubeconfig());
        command.arg(format!("--hostname-override={}", self.node().name));
        // Keeps sysctls of the whole machine unchanged.
        command.args(["--conntrack-max-per-core=0", "--conntrack-min=0"]);
        let log = fs::File::create(self.cluster.directory().join("kube-proxy.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Process::start("kube-proxy", command, self.node().netns(), None)
    }

    /// Output of a verb on the node, with the agent's permissions.
    fn verb(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(portreeve()?);
        command.args(words).env("NO_COLOR", "1");
        let output = self.node().netns().run(|| command.output().context("it does not start"))?;
        Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    fn log(&self) -> Result<String> {
        fs::read_to_string(&self.node().setting().log).context("the agent has a log")
    }

    /// Reason and object name of events about this kind of object.
    async fn events(&self, kind: &str) -> Result<Vec<(String, String)>> {
        let answer = self.server.get("/apis/events.k8s.io/v1/namespaces/default/events").await?;
        let items = answer["items"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let about = items.iter().filter(|event| event["regarding"]["kind"] == kind);
        Ok(about.map(|event| (text(&event["reason"]), text(&event["regarding"]["name"]))).collect())
    }

    async fn has_event(&self, kind: &str, reason: &str, name: &str) {
        eventually(&format!("there is an event {reason} of {name}"), async || {
            let events = self.events(kind).await?;
            ensure!(events.contains(&(reason.to_owned(), name.to_owned())), "{events:?}");
            Ok(())
        })
        .await;
    }
}

fn checks_health(spec: &mut ServiceSpec) {
    spec.type_ = Some("LoadBalancer".to_owned());
    spec.external_traffic_policy = Some("Local".to_owned());
    spec.health_check_node_port = Some(i32::from(HEALTH_PORT));
}

#[tokio::test]
async fn the_permissions_of_deploy_suffice() -> Result<()> {
    let Some(fixture) = Fixture::new("real-rights").await? else { return Ok(()) };
    let web = fixture.cluster.service("web").tcp(80).backends(["a", "b"]).await;
    let public = fixture
        .cluster
        .service("public")
        .tcp(80)
        .node_port(30080)
        .change(checks_health)
        .backends(["c"])
        .await;
    let headless = fixture.cluster.service("db").tcp(5432).headless().backends(["db-0"]).await;
    fixture.mirror().await?;
    // The port is occupied, which causes an event.
    let taken = fixture
        .node()
        .netns()
        .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, HEALTH_PORT)).context("cannot listen"))?;
    let agent = fixture.start_agent(&["--dns"]).await?;

    let client = fixture.cluster.pod("client").start().await;
    let dials = |vips| fixture.cluster.pod("client").dials(vips);
    dials(web.vips()).times(40).comes_to_reach_each_of(["a", "b"]).await;
    dials(public.vips()).times(10).always_reaches_one_of(["c"]).await;
    let server = fixture.node().addresses.v4.into();
    let resolver = Resolver::new(&client, NAMESPACE, server, fixture.cluster.directory())?;
    finds(&resolver, "web", web.vips().map(|vip| vip.ip()).into()).await;
    finds(&resolver, "db-0.db", fixture.cluster.pod("db-0").start().await.addresses.both().into()).await;

    fixture.has_event("Node", "Starting", &fixture.node().name).await;
    fixture.has_event("Service", "FailedToStartServiceHealthcheck", "public").await;
    fixture.node().wait_equals_fresh_start("at the start").await?;
    let log = fixture.log()?;
    for trouble in
        ["403 Forbidden", "401 Unauthorized", "optional kind not available", "cannot watch the API server"]
    {
        ensure!(!log.contains(trouble), "the agent speaks of `{trouble}`:\n{log}");
    }
    drop((taken, headless));
    let status = agent.terminate().await?;
    ensure!(status.success(), "the agent ended with {status}");
    Ok(())
}

async fn finds(resolver: &Resolver<'_>, name: &str, want: BTreeSet<IpAddr>) {
    eventually(&format!("{name} is found"), async || {
        let found = resolver.addresses(name).await?;
        ensure!(found == want, "found {found:?}, not {want:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn no_connect_fails_while_a_real_server_dies_returns_and_forgets() -> Result<()> {
    let Some(mut fixture) = Fixture::new("real-churn").await? else { return Ok(()) };
    let web = fixture.cluster.service("web").tcp(80).backends(["a", "b", "c"]).await;
    let vips = web.vips();
    drop(web);
    fixture.mirror().await?;
    let agent = fixture.start_agent(&[]).await?;
    let runner = fixture.cluster.pod("runner").dials(vips).at_once(2).every(Duration::from_micros(500));
    let traffic = runner.in_background().await;
    for round in 0..6 {
        let slice = "web.slice-ipv4.yaml";
        let text = fs::read_to_string(fixture.cluster.manifests().directory().join(slice))?;
        fixture.cluster.manifests().write(slice, &rotated(serde_json::from_str(&text)?, round))?;
        match round % 3 {
            0 => die_and_return(&mut fixture).await,
            1 => forget(&mut fixture).await,
            _ => revoke_the_token(&mut fixture).await,
        }
        .with_context(|| format!("in round {round}"))?;
        fixture.node().wait_equals_fresh_start(&format!("after round {round}")).await?;
        let progress = traffic.progress().await?;
        ensure!(progress.failures.is_empty(), "after round {round}: {progress:?}");
    }
    let report = traffic.stop().await?;
    ensure!(report.failures.is_empty() && report.attempts > 0, "{report:?}");
    let status = agent.terminate().await?;
    ensure!(status.success(), "the agent ended with {status}");
    Ok(())
}

/// The first endpoint always stays, the others take turns.
fn rotated(mut slice: Value, round: usize) -> Value {
    if let Some(endpoints) = slice["endpoints"].as_array_mut() {
        endpoints.rotate_left(1);
        endpoints.iter_mut().enumerate().for_each(|(n, endpoint)| {
            endpoint["conditions"]["ready"] = (n == 0 || (round + n).is_multiple_of(2)).into();
        });
    }
    slice
}

async fn die_and_return(fixture: &mut Fixture) -> Result<()> {
    fixture.server.stop();
    fixture.server.start_again().await?;
    fixture.mirror().await
}

/// The missed changes are compacted when the agent resumes its watch.
async fn forget(fixture: &mut Fixture) -> Result<()> {
    fixture.server.stop();
    fixture.server.start_on_another_port().await?;
    fixture.mirror().await?;
    fixture.server.compact().await?;
    fixture.server.stop();
    fixture.server.start_again().await
}

/// The token on disk is no longer valid, and is replaced later.
async fn revoke_the_token(fixture: &mut Fixture) -> Result<()> {
    fixture.server.replace_account().await?;
    fixture.server.stop();
    fixture.server.start_again().await?;
    fixture.mirror().await?;
    eventually("the agent complains", async || {
        ensure!(fixture.log()?.contains("401 Unauthorized"), "not yet");
        Ok(())
    })
    .await;
    fixture.server.renew_token().await
}

/// The first lists depend on etcd: before 3.4.25 it cannot report progress, and the API server fails each streaming list.
/// Run it with an old and a new one.
#[tokio::test]
async fn the_agent_is_ready_within_ten_seconds_with_any_etcd() -> Result<()> {
    let Some(fixture) = Fixture::new("real-ready").await? else { return Ok(()) };
    let web = fixture.cluster.service("web").tcp(80).backends(["a"]).await;
    fixture.mirror().await?;
    let started = Instant::now();
    let _agent = fixture.start_agent(&[]).await?;
    let elapsed = started.elapsed();
    ensure!(elapsed < Duration::from_secs(10), "the agent was ready after {elapsed:?}");
    fixture.cluster.pod("client").dials(web.vip()).times(3).always_reaches_one_of(["a"]).await;
    Ok(())
}

#[tokio::test]
async fn the_name_server_alone_needs_no_other_permissions() -> Result<()> {
    let Some(fixture) = Fixture::new("real-names").await? else { return Ok(()) };
    let web = fixture.cluster.service("web").tcp(80).backends(["a"]).await;
    fixture.mirror().await?;
    let client = fixture.cluster.pod("client").start().await;
    let node = fixture.node();
    let mut command = Command::new(portreeve()?);
    command.arg("dns").arg("--kubeconfig").arg(&fixture.kubeconfig);
    command.arg(format!("--dns-listen={}:53", node.addresses.v4)).stdin(Stdio::null());
    let log = fs::File::create(fixture.cluster.directory().join("names.log"))?;
    command.stdout(log.try_clone()?).stderr(log);
    let names = Process::start("the name server", command, node.netns(), None)?;
    let server = node.addresses.v4.into();
    let resolver = Resolver::new(&client, NAMESPACE, server, fixture.cluster.directory())?;
    finds(&resolver, "web", web.vips().map(|vip| vip.ip()).into()).await;
    let more = fixture.cluster.service("more").tcp(80).backends(["a"]).await;
    fixture.mirror().await?;
    finds(&resolver, "more.default", more.vips().map(|vip| vip.ip()).into()).await;
    drop(names);
    Ok(())
}

/// Also needs the binary named by `$KUBE_PROXY`.
#[tokio::test]
async fn connections_through_a_real_kube_proxy_outlive_it() -> Result<()> {
    let story = "real-takeover";
    let Some(binary) = env::var_os("KUBE_PROXY").map(PathBuf::from) else {
        eprintln!("{story}: skipped, as $KUBE_PROXY names no binary");
        return Ok(());
    };
    let cluster = Cluster::start(story).nodes(2).pod_network(PodNetwork::Routed);
    let Some(fixture) = Fixture::with(story, cluster).await? else { return Ok(()) };
    let web = fixture.cluster.service("web").tcp(80).backends(["a", "b"]).await;
    fixture.mirror().await?;
    let kube_proxy = fixture.start_kube_proxy(&binary)?;
    let dials = || fixture.cluster.pod("client").dials(web.vip()).times(40);
    dials().comes_to_reach_each_of(["a", "b"]).await;
    let client = fixture.cluster.pod("client").start().await;
    let (held, opened) = client.hold(vec![web.vip()], CONNECTIONS).await?;
    ensure!(opened.answered() == CONNECTIONS as u64, "{:?}", opened.failures);
    let check = fixture.verb(&["check"])?;
    ensure!(check.contains("table ip kube-proxy of nftables mode"), "{check}");

    let agent = fixture.start_agent(&[]).await?;
    drop(kube_proxy);
    let output = fixture.verb(&["cleanup", "--kube-proxy-only"])?;
    ensure!(output.contains("removed table ip kube-proxy"), "{output}");
    let echoes = client.echo(held).await?;
    ensure!(echoes.answered() == CONNECTIONS as u64 && echoes.failed() == 0, "{:?}", echoes.failures);
    dials().comes_to_reach_each_of(["a", "b"]).await;
    let check = fixture.verb(&["check"])?;
    ensure!(!check.contains("of nftables mode"), "{check}");
    let status = agent.terminate().await?;
    ensure!(status.success(), "the agent ended with {status}");
    Ok(())
}
