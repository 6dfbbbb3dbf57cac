//! The service account of the agent, with the rights of `deploy/`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::server::RealApiServer;

const ACCOUNT: &str = "/api/v1/namespaces/kube-system/serviceaccounts/portreeve";
const KINDS: [&str; 3] = ["service-account", "cluster-role", "cluster-role-binding"];

impl RealApiServer {
    /// Creates the account from `deploy/`. Returns the path of a kubeconfig with its token in a file.
    pub async fn deploy_account(&self) -> Result<PathBuf> {
        for kind in KINDS {
            self.put(&deployed(kind)?).await?;
        }
        self.renew_token().await?;
        self.write_kubeconfig("agent.kubeconfig", &json!({"tokenFile": self.token_file()}))
    }

    /// Writes a new token to the file named in the kubeconfig, as a token renewal does.
    pub async fn renew_token(&self) -> Result<()> {
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600},
        });
        let answer = self.send("POST", &format!("{ACCOUNT}/token"), &request).await?;
        let token = answer.pointer("/status/token").and_then(Value::as_str).context("there is no token")?;
        let (path, staged) = (self.token_file(), self.directory.path().join("agent.token.new"));
        fs::write(&staged, token).and_then(|()| fs::rename(&staged, &path)).context("cannot write the token")
    }

    /// Deletes and creates the account. The server then rejects tokens of the old one. (An API server caches the
    /// authentication of tokens for ten seconds, unless it is restarted.)
    pub async fn replace_account(&self) -> Result<()> {
        let account = deployed(KINDS[0])?;
        self.delete(&account).await?;
        self.put(&account).await
    }

    fn token_file(&self) -> PathBuf {
        self.directory.path().join("agent.token")
    }
}

fn deployed(kind: &str) -> Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../deploy/kustomize/base/{kind}.yaml"));
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("cannot parse {}", path.display()))
}
