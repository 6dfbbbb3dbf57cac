//! The processes of etcd and the API server.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    env, fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use kube::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{http, netns::ServerNetns};
use crate::lab::{
    agent::tail,
    api_server::Identity,
    eventually::within,
    kernel::{netns::Netns, process::Process},
};

/// The token of a cluster administrator.
const TOKEN: &str = "the-token";
/// The first start of an API server is slow.
pub(super) const TIMEOUT: Duration = Duration::from_secs(120);
/// The networks of ClusterIPs. A story with many Services needs more addresses than the default has.
const SERVICE_NETWORKS: &str = "10.96.0.0/12,fd00:10:96::/112";

/// Objects that exist as soon as a server is ready, and that stories rely on.
const EVERYWHERE: [&str; 3] = [
    "/api/v1/namespaces/default",
    "/api/v1/namespaces/kube-system",
    "/api/v1/namespaces/default/services/kubernetes",
];

/// The binaries in `$KUBE_APISERVER` and `$ETCD`.
pub struct Binaries {
    api_server: PathBuf,
    etcd: PathBuf,
}

impl Binaries {
    /// Returns `None` if they are not set.
    pub fn named() -> Option<Self> {
        Some(Self { api_server: env::var_os("KUBE_APISERVER")?.into(), etcd: env::var_os("ETCD")?.into() })
    }
}

pub struct RealApiServer {
    binaries: Binaries,
    pub(super) running: Option<Running>,
    _etcd: Process,
    pub(super) etcd_port: u16,
    /// The port in the kubeconfigs.
    port: u16,
    /// Additional flags.
    flags: Vec<String>,
    pub(super) netns: ServerNetns,
    /// The objects of the last mirrored directory, by path.
    pub(super) mirrored: RefCell<BTreeMap<String, Value>>,
    pub(super) directory: TempDir,
}

pub(super) struct Running {
    process: Process,
    /// As a cluster administrator.
    pub(super) client: Client,
}

impl RealApiServer {
    /// Starts on the loopback address of this network namespace.
    pub async fn start(binaries: Binaries) -> Result<Self> {
        Self::start_with(binaries, &[]).await
    }

    /// The same, with additional flags.
    pub async fn start_with(binaries: Binaries, flags: &[&str]) -> Result<Self> {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self::start_at(binaries, ServerNetns::scaled()?, flags).await
    }

    /// Starts on the loopback address of another network namespace.
    pub async fn start_in(binaries: Binaries, netns: &Arc<Netns>) -> Result<Self> {
        Self::start_at(binaries, ServerNetns::inside(netns)?, Vec::new()).await
    }

    async fn start_at(binaries: Binaries, netns: ServerNetns, flags: Vec<String>) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let (etcd_port, peer_port) = (netns.free_port()?, netns.free_port()?);
        let port = netns.free_port()?;
        write_credentials(directory.path())?;
        let etcd = etcd_command(&binaries.etcd, directory.path(), etcd_port, peer_port);
        let etcd = netns.spawn("etcd", etcd, &directory.path().join("etcd.log"))?;
        let mirrored = RefCell::default();
        let mut server =
            Self { binaries, running: None, _etcd: etcd, etcd_port, port, flags, netns, mirrored, directory };
        server.write_kubeconfig("kubeconfig", &json!({"token": TOKEN}))?;
        server.start_again().await?;
        Ok(server)
    }

    /// The kubeconfig of a cluster administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    pub fn stop(&mut self) {
        self.running = None;
    }

    pub async fn start_again(&mut self) -> Result<()> {
        self.start_on(self.port).await
    }

    /// Starts again on another port, which clients do not know.
    pub async fn start_on_another_port(&mut self) -> Result<()> {
        let port = self.netns.free_port()?;
        self.start_on(port).await
    }

    async fn start_on(&mut self, port: u16) -> Result<()> {
        let log = self.directory.path().join("api-server.log");
        let process = self.netns.spawn("the API server", self.command(port), &log)?;
        let client = self.netns.client(&self.kubeconfig(), &format!("https://127.0.0.1:{port}")).await?;
        let mut running = Running { process, client };
        let ready = tokio::select! {
            ready = is_ready(&self.netns, &running.client) => ready,
            status = running.process.ended() => Err(anyhow!("the process ended: {}", status?)),
        };
        ready.with_context(|| {
            format!("the API server does not start; its log ends with\n{}", tail(&log, 20))
        })?;
        self.running = Some(running);
        Ok(())
    }

    fn command(&self, port: u16) -> Command {
        let file = |name: &str| self.directory.path().join(name).display().to_string();
        let mut command = Command::new(&self.binaries.api_server);
        for (flag, value) in [
            ("etcd-servers", format!("http://127.0.0.1:{}", self.etcd_port)),
            ("bind-address", Ipv4Addr::LOCALHOST.to_string()),
            // Loopback addresses are not allowed here, and the address is not published.
            ("advertise-address", "192.0.2.1".to_owned()),
            ("secure-port", port.to_string()),
            ("cert-dir", file("certificates")),
            ("tls-cert-file", file("server.crt")),
            ("tls-private-key-file", file("server.key")),
            ("client-ca-file", file("ca.crt")),
            ("token-auth-file", file("tokens.csv")),
            ("authorization-mode", "RBAC".to_owned()),
            ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
            ("service-account-key-file", file("server.crt")),
            ("service-account-signing-key-file", file("server.key")),
            ("service-cluster-ip-range", SERVICE_NETWORKS.to_owned()),
            ("disable-admission-plugins", "ServiceAccount".to_owned()),
            // The server's own endpoint is not part of a story, and differs from one start to the next.
            ("endpoint-reconciler-type", "none".to_owned()),
        ] {
            command.arg(format!("--{flag}={value}"));
        }
        command.args(&self.flags);
        command
    }

    /// Writes a kubeconfig with these credentials.
    pub(super) fn write_kubeconfig(&self, name: &str, user: &Value) -> Result<PathBuf> {
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority": self.directory.path().join("ca.crt"),
            }}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        });
        let path = self.directory.path().join(name);
        fs::write(&path, kubeconfig.to_string()).with_context(|| format!("cannot write {name}"))?;
        Ok(path)
    }
}

async fn is_ready(netns: &ServerNetns, client: &Client) -> Result<()> {
    within(TIMEOUT, "the API server is ready", || {
        let client = client.clone();
        netns.run(async move {
            let ready = http::request(&client, "GET", "/readyz", &Value::Null).await?;
            ensure!(ready.1 == "ok", "{ready:?}");
            // The server creates these objects after it is ready.
            for path in EVERYWHERE {
                http::send(&client, "GET", path, &Value::Null).await?;
            }
            Ok(())
        })
    })
    .await
}

fn etcd_command(binary: &Path, directory: &Path, port: u16, peer_port: u16) -> Command {
    let client = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    let mut command = Command::new(binary);
    command.arg("--data-dir").arg(directory.join("etcd"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}")]);
    // The data is discarded with the story.
    command.arg("--unsafe-no-fsync");
    command
}

fn write_credentials(directory: &Path) -> Result<()> {
    let identity = Identity::new()?;
    for (name, text) in [
        ("ca.crt", identity.authority.clone()),
        ("server.crt", identity.server_certificate.clone()),
        ("server.key", identity.server_key.clone()),
        ("tokens.csv", format!("{TOKEN},tester,1,system:masters\n")),
    ] {
        fs::write(directory.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(())
}
