//! An API server that fails in every way, while traffic continues undisturbed.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tests::{
    Cluster,
    agent::{Agent, AgentSetting, Source},
    api_server::{ApiServer, objects_in},
    eventually,
    node::Node,
};

/// A cluster whose objects come from an API server, which mirrors its directory of manifests.
struct Fixture {
    agent: Agent,
    setting: AgentSetting,
    server: ApiServer,
    cluster: Cluster,
}

impl Fixture {
    /// With `is_up`, the server starts before the agent.
    async fn new(name: &str, cluster: Cluster, is_up: bool) -> Result<Self> {
        let node = cluster.node(0);
        let mut server = ApiServer::start_in(node.netns())?;
        server.mirror(cluster.manifests().directory())?;
        let source = Source::ApiServer(server.kubeconfig(cluster.directory())?);
        let setting = AgentSetting { source, ..node.setting().clone() };
        if !is_up {
            server.stop()?;
        }
        let mut agent = Agent::spawn(&setting, node.netns())?;
        if is_up {
            agent.ready().await.with_context(|| name.to_owned())?;
        }
        Ok(Self { agent, setting, server, cluster })
    }

    fn node(&self) -> &Node {
        self.cluster.node(0)
    }

    fn mirror(&self) -> Result<()> {
        self.server.mirror(self.cluster.manifests().directory())
    }

    fn start_server_again(&mut self) -> Result<()> {
        let netns = self.cluster.node(0).netns();
        netns.run(|| self.server.start_again())
    }

    fn log(&self) -> Result<String> {
        fs::read_to_string(&self.setting.log).context("the agent has a log")
    }
}

#[tokio::test]
async fn an_agent_without_a_server_waits_and_logs_it_once() -> Result<()> {
    let cluster = Cluster::start("api-down").without_agents().await;
    cluster.service("web").tcp(80).backends(["a", "b"]).await;
    let mut fixture = Fixture::new("down", cluster, false).await?;
    eventually("the agent complains", async || {
        ensure!(fixture.log()?.contains("cannot reach the API server"), "not yet");
        Ok(())
    })
    .await;
    fixture.start_server_again()?;
    fixture.agent.ready().await?;
    let log = fixture.log()?;
    ensure!(log.matches("cannot reach the API server").count() == 1, "it complains again and again:\n{log}");
    ensure!(log.contains("the API server answers again"), "the recovery is not logged:\n{log}");
    fixture.node().wait_equals_fresh_start("after the start").await
}

#[tokio::test]
async fn no_connect_fails_while_the_server_dies_returns_and_forgets() -> Result<()> {
    let cluster = Cluster::start("api-churn").without_agents().await;
    let web = cluster.service("web").tcp(80).backends(["a", "b", "c"]).await;
    let vips = web.vips();
    drop(web);
    let mut fixture = Fixture::new("churn", cluster, true).await?;
    let runner = fixture.cluster.pod("runner").dials(vips).at_once(2).every(Duration::from_micros(500));
    let traffic = runner.in_background().await;
    for round in 0..6 {
        let manifests = fixture.cluster.manifests().directory();
        let slice = manifests.join("web.slice-ipv4.yaml");
        let mut object: serde_json::Value = serde_json::from_str(&fs::read_to_string(&slice)?)?;
        // `a` is always an endpoint, the others in turn.
        if let Some(endpoints) = object["endpoints"].as_array_mut() {
            endpoints.rotate_left(1);
            endpoints.iter_mut().enumerate().for_each(|(n, endpoint)| {
                endpoint["conditions"]["ready"] = (n == 0 || (round + n) % 2 == 0).into();
            });
        }
        fixture.cluster.manifests().write("web.slice-ipv4.yaml", &object)?;
        match round % 3 {
            0 => {
                fixture.server.stop()?;
                fixture.mirror()?;
                fixture.start_server_again()?;
            }
            1 => {
                fixture.mirror()?;
                fixture.server.expire_watches();
            }
            _ => fixture.server.restore(objects_in(fixture.cluster.manifests().directory())?),
        }
        fixture.node().wait_equals_fresh_start(&format!("after round {round}")).await?;
        let progress = traffic.progress().await?;
        ensure!(progress.failures.is_empty(), "after round {round}: {progress:?}");
    }
    let report = traffic.stop().await?;
    ensure!(report.failures.is_empty() && report.attempts > 0, "{report:?}");
    let status = fixture.agent.terminate().await?;
    ensure!(status.success(), "the agent ended with {status}");
    Ok(())
}
