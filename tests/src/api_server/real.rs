//! A real API server and its etcd, where the environment names their binaries. It starts from nothing in a directory of
//! its own, on the loopback address.

use std::{
    env, fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Identity;
use crate::eventually::within;

const TOKEN: &str = "the-token";
/// An API server takes its time with the first start.
const PATIENCE: Duration = Duration::from_secs(60);

/// The binaries that `$KUBE_APISERVER` and `$ETCD` name.
pub struct Binaries {
    api_server: PathBuf,
    etcd: PathBuf,
}

impl Binaries {
    /// `None` where they are not named.
    pub fn named() -> Option<Self> {
        Some(Self { api_server: env::var_os("KUBE_APISERVER")?.into(), etcd: env::var_os("ETCD")?.into() })
    }
}

pub struct RealApiServer {
    binaries: Binaries,
    running: Option<Ended>,
    _etcd: Ended,
    etcd_port: u16,
    port: u16,
    directory: TempDir,
}

/// A process that ends with its owner.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl RealApiServer {
    pub async fn start(binaries: Binaries) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let (etcd_port, peer_port, port) = (free_port()?, free_port()?, free_port()?);
        write_credentials(directory.path(), port)?;
        let client = format!("http://127.0.0.1:{etcd_port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let mut etcd = Command::new(&binaries.etcd);
        etcd.arg("--data-dir").arg(directory.path().join("etcd"));
        etcd.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        etcd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        etcd.args(["--initial-cluster", &format!("default={peer}")]);
        let etcd = spawn(etcd, &directory.path().join("etcd.log"))?;
        let mut server = Self { binaries, running: None, _etcd: etcd, etcd_port, port, directory };
        server.start_again().await?;
        Ok(server)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    pub fn stop(&mut self) {
        self.running = None;
    }

    pub async fn start_again(&mut self) -> Result<()> {
        let file = |name: &str| self.directory.path().join(name).display().to_string();
        let mut command = Command::new(&self.binaries.api_server);
        for (flag, value) in [
            ("etcd-servers", format!("http://127.0.0.1:{}", self.etcd_port)),
            ("bind-address", Ipv4Addr::LOCALHOST.to_string()),
            ("secure-port", self.port.to_string()),
            ("cert-dir", file("certificates")),
            ("tls-cert-file", file("server.crt")),
            ("tls-private-key-file", file("server.key")),
            ("client-ca-file", file("ca.crt")),
            ("token-auth-file", file("tokens.csv")),
            ("authorization-mode", "AlwaysAllow".to_owned()),
            ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
            ("service-account-key-file", file("server.key")),
            ("service-account-signing-key-file", file("server.key")),
            ("service-cluster-ip-range", "10.96.0.0/12".to_owned()),
            ("disable-admission-plugins", "ServiceAccount".to_owned()),
        ] {
            command.arg(format!("--{flag}={value}"));
        }
        self.running = Some(spawn(command, &self.directory.path().join("api-server.log"))?);
        within(PATIENCE, "the API server is ready", async || {
            let ready = self.request("GET", "/readyz", &Value::Null).await?;
            ensure!(ready.1 == "ok", "{ready:?}");
            self.request("GET", "/api/v1/namespaces/default", &Value::Null).await.and_then(succeeded)
        })
        .await
    }

    /// Creates an object, or replaces it.
    pub async fn put(&self, object: &Value) -> Result<()> {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            // What only a server may say.
            metadata.retain(|field, _| ["name", "namespace", "labels"].contains(&field.as_str()));
        }
        let (all, own) = paths(&object);
        let replaced = self.request("PUT", &own, &object).await?;
        if replaced.0 != 404 {
            return succeeded(replaced);
        }
        self.request("POST", &all, &object).await.and_then(succeeded)
    }

    pub async fn delete(&self, object: &Value) -> Result<()> {
        let (_, own) = paths(object);
        self.request("DELETE", &own, &Value::Null).await.and_then(succeeded)
    }

    async fn request(&self, method: &str, path: &str, body: &Value) -> Result<(u16, String)> {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig())?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.default_retry = false;
        let client = Client::try_from(config)?;
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = axum::http::Request::builder().method(method).uri(path);
        let request = request.header("content-type", "application/json").body(body)?;
        match client.request_text(request).await {
            Ok(text) => Ok((200, text)),
            Err(kube::Error::Api(status)) => Ok((status.code, status.message.clone())),
            Err(error) => Err(error.into()),
        }
    }
}

fn succeeded((code, text): (u16, String)) -> Result<()> {
    ensure!((200..300).contains(&code), "{code}: {text}");
    Ok(())
}

/// Where objects of this kind are, and where this one is.
fn paths(object: &Value) -> (String, String) {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let prefix = match text("/apiVersion") {
        "v1" => "/api/v1".to_owned(),
        other => format!("/apis/{other}"),
    };
    let kind = format!("{}s", text("/kind").to_lowercase());
    let all = match text("/metadata/namespace") {
        "" => format!("{prefix}/{kind}"),
        namespace => format!("{prefix}/namespaces/{namespace}/{kind}"),
    };
    let own = format!("{all}/{}", text("/metadata/name"));
    (all, own)
}

fn write_credentials(directory: &Path, port: u16) -> Result<()> {
    let identity = Identity::new()?;
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "c", "cluster": {
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority": directory.join("ca.crt"),
        }}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    });
    for (name, text) in [
        ("ca.crt", identity.authority.clone()),
        ("server.crt", identity.server_certificate.clone()),
        ("server.key", identity.server_key.clone()),
        ("tokens.csv", format!("{TOKEN},tester,1,system:masters\n")),
        ("kubeconfig", kubeconfig.to_string()),
    ] {
        fs::write(directory.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(())
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
    Ok(listener.local_addr()?.port())
}

fn spawn(mut command: Command, log: &Path) -> Result<Ended> {
    let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
    let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
    child.map(Ended).with_context(|| format!("cannot start {}", command.get_program().display()))
}
