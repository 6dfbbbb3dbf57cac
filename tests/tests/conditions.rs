//! The conditions of an agent, as its status, its metrics and its log tell them.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{
    Cluster,
    agent::{Agent, AgentSetting, Source, portreeve},
    api_server::{
        ApiServer,
        objects::{node, service, slice},
    },
    eventually,
    http::get,
    node::Node,
};

/// A cluster of one node whose objects come from an API server, and its agent.
struct Fixture {
    cluster: Cluster,
    server: ApiServer,
    setting: AgentSetting,
    agent: Agent,
}

impl Fixture {
    async fn new(name: &str, before: impl FnOnce(&Node) -> Result<()>) -> Result<Self> {
        let cluster = Cluster::start(name).without_agents().build().await?;
        let server = ApiServer::start_in(cluster.node(0).netns())?;
        server.put_all([service("web", 1), slice("web", [1, 2])]);
        let source = Source::ApiServer(server.kubeconfig(cluster.directory())?);
        let setting = AgentSetting { source, ..cluster.node(0).setting().clone() };
        before(cluster.node(0))?;
        let mut agent = Agent::spawn(&setting, cluster.node(0).netns())?;
        agent.ready().await?;
        Ok(Self { cluster, server, setting, agent })
    }

    fn node(&self) -> &Node {
        self.cluster.node(0)
    }

    fn status(&self) -> Result<Value> {
        let mut command = Command::new(portreeve()?);
        command.args(["status", "-o", "json", "--bpffs"]).arg(self.node().bpffs());
        let output = command.arg("--run-dir").arg(self.setting.run_dir()).output()?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Waits until a type is True, or False for a reason and with these words.
    async fn has(&self, r#type: &str, want: Option<(&str, &str)>) {
        eventually(&format!("{type} is {want:?}"), async || {
            let status = self.status()?;
            let conditions = status["agent"]["conditions"].as_array().context("there are conditions")?;
            let of_type: Vec<_> = conditions.iter().filter(|one| one["type"] == r#type).collect();
            let is_found = of_type.iter().any(|one| match want {
                None => one["status"] == "True",
                Some((reason, words)) => {
                    let message = one["message"].as_str().unwrap_or_default();
                    one["status"] == "False" && one["reason"] == reason && message.contains(words)
                }
            });
            ensure!(is_found && (want.is_some() || of_type.len() == 1), "{conditions:#?}");
            let is_serving = status["state"] == "serving";
            ensure!(!is_serving || conditions.iter().all(|one| one["status"] == "True"), "{status:#}");
            Ok(())
        })
        .await;
    }
}

#[tokio::test]
async fn the_source_and_the_node_are_told_by_status() -> Result<()> {
    let mut fixture = Fixture::new("cond-src", |_| Ok(())).await?;
    let name = fixture.node().name.clone();
    fixture.has("NodeFound", Some(("NoSuchNode", name.as_str()))).await;
    fixture.has("SourceWatched", None).await;
    fixture.server.put(&node(&name, "172.18.0.11"));
    fixture.has("NodeFound", None).await;

    fixture.server.behave(|behaviour| behaviour.forbidden = vec!["services".to_owned()]);
    fixture.server.expire_watches();
    fixture
        .has("SourceWatched", Some(("Forbidden", "Services: the API server does not allow it (403")))
        .await;
    fixture.server.behave(|behaviour| behaviour.forbidden = Vec::new());
    fixture.has("SourceWatched", None).await;

    fixture.server.behave(|behaviour| behaviour.fails_with = Some(500));
    fixture.server.expire_watches();
    fixture
        .has("SourceWatched", Some(("ServerError", "failed (500 InternalError): configured to fail")))
        .await;
    fixture.server.behave(|behaviour| behaviour.fails_with = None);
    fixture.has("SourceWatched", None).await;

    fixture.server.stop()?;
    fixture.has("SourceWatched", Some(("Unreachable", "cannot reach the API server at"))).await;
    let netns = fixture.cluster.node(0).netns();
    netns.run(|| fixture.server.start_again())?;
    fixture.has("SourceWatched", None).await;
    let source = &fixture.status()?["agent"]["source"];
    ensure!(source["is_api_server"] == true, "{source}");
    ensure!(source["kinds"]["Services"]["last_heard"].is_string(), "{source}");
    fixture.agent.terminate().await?;
    Ok(())
}

#[tokio::test]
async fn a_taken_port_is_told_by_status_metric_and_log() -> Result<()> {
    let mut taken = None;
    let fixture = Fixture::new("cond-port", |node| {
        taken = Some(node.netns().run(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 10256))?))?);
        Ok(())
    })
    .await?;
    fixture.has("AddressesBound", Some(("AddressInUse", "cannot serve health on 0.0.0.0:10256"))).await;
    let metrics = get(fixture.node().netns(), SocketAddr::from(([127, 0, 0, 1], 10249)), "/metrics")?.body;
    let series = r#"portreeve_condition{reason="AddressInUse",status="False",type="AddressesBound"} 1"#;
    ensure!(metrics.lines().any(|line| line == series), "{metrics}");
    drop(taken);
    fixture.has("AddressesBound", None).await;
    eventually("the log has the beginning and the end, once", async || {
        let log = fs::read_to_string(&fixture.setting.log)?;
        for line in [
            " WARN fault condition=AddressesBound reason=AddressInUse",
            " INFO fault has ended condition=AddressesBound",
        ] {
            ensure!(log.matches(line).count() == 1, "`{line}` is not there once:\n{log}");
        }
        Ok(())
    })
    .await;
    fixture.agent.terminate().await?;
    Ok(())
}

#[tokio::test]
async fn the_log_level_is_changed_while_the_agent_runs() -> Result<()> {
    let fixture = Fixture::new("cond-log", |_| Ok(())).await?;
    let change = |level: &str| -> Result<(bool, String)> {
        let mut command = Command::new(portreeve()?);
        command.args(["log-level", level, "--bpffs"]).arg(fixture.node().bpffs());
        let output = command.arg("--run-dir").arg(fixture.setting.run_dir()).output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    };
    let (is_done, text) = change("dns=loud")?;
    ensure!(!is_done && text.contains("`loud` is no level"), "{text}");
    let log = || Ok::<_, anyhow::Error>(fs::read_to_string(&fixture.setting.log)?);
    ensure!(!log()?.contains("DEBUG pass"), "debug messages are off");
    ensure!(change("proxy=debug")? == (true, "proxy=debug dns=info programs=info\n".to_owned()));
    fixture.server.put_all([service("later", 2), slice("later", [3])]);
    // A pass without changes may come first.
    eventually("a pass with the new Service is logged", async || {
        let log = log()?;
        for words in ["DEBUG pass", "Service programmed: ", " is new, with "] {
            ensure!(log.contains(words), "`{words}` is not in:\n{log}");
        }
        Ok(())
    })
    .await;
    fixture.agent.terminate().await?;
    Ok(())
}
