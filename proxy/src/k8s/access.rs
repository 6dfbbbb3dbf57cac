//! How the API server is reached, and as whom.
//!
//! Everything is read anew whenever a connection is made, and the token before every request: what a node is given to
//! prove itself with is renewed on disk.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use http::{HeaderValue, Uri, header::AUTHORIZATION};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

/// Where a pod finds what its service account is given.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Whether this is a pod, with a service account of its own.
pub fn has_service_account() -> bool {
    Path::new(SERVICE_ACCOUNT).join("token").exists()
}

/// How to reach the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub credentials: Credentials,
    /// The address of the API server, whatever the credentials say.
    pub url: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Files as `kubectl` reads them: of two that set the same thing the first one counts.
    Kubeconfig(Vec<PathBuf>),
    /// A file as `kubectl` reads them, and which of its contexts counts.
    Context(PathBuf, String),
    /// What proves us to the API server, and it to us.
    Certificates { certificate: PathBuf, key: PathBuf, authority: PathBuf },
    /// What a pod finds in its own file system, and the address in its environment.
    ServiceAccount { url: Option<String> },
    /// Nobody in particular.
    Anonymous,
}

#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("the kubeconfig cannot be used")]
    Kubeconfig(#[from] KubeconfigError),
    #[error("`{url}` is not the address of an API server, such as https://192.0.2.1:6443")]
    Url { url: String },
    #[error("no API server is named: give --kubeconfig or --api-server, or serve files with --manifests")]
    Nowhere,
    #[error("cannot read the token in {path}")]
    Token {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the credentials cannot be used")]
    Client(#[source] Box<kube::Error>),
}

/// A client, and the token that goes with its requests.
pub struct Connection {
    pub client: Client,
    /// For messages.
    pub url: String,
    token: Option<TokenFile>,
}

impl Access {
    /// Reads the credentials. Nothing is sent yet.
    pub async fn connect(&self) -> Result<Connection, AccessError> {
        let mut config = self.config().await?;
        // A token in a file is our business: kube-rs keeps one for a minute, and trips over a line break after it.
        let token = match config.auth_info.token_file.take() {
            Some(path) => Some(TokenFile::read(path.into())?),
            None => None,
        };
        if token.is_some() {
            config.auth_info.token = None;
        }
        // Who waits how long before what is tried again is decided in one place, the watch.
        config.default_retry = false;
        let url = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(|error| AccessError::Client(Box::new(error)))?;
        Ok(Connection { client, url, token })
    }

    /// The host and port that are to be reached. Nothing is sent.
    pub async fn address(&self) -> Result<(String, u16), AccessError> {
        let url = self.config().await?.cluster_url;
        let default_port = if url.scheme_str() == Some("http") { 80 } else { 443 };
        let host = url.host().ok_or(AccessError::Nowhere)?.to_owned();
        Ok((host, url.port_u16().unwrap_or(default_port)))
    }

    async fn config(&self) -> Result<Config, AccessError> {
        let url = self.url.as_deref().map(parse_url).transpose()?;
        match &self.credentials {
            Credentials::Kubeconfig(files) => {
                let merged = files.iter().try_fold(Kubeconfig::default(), |merged, file| {
                    merged.merge(Kubeconfig::read_from(file)?)
                })?;
                kubeconfig(merged, KubeConfigOptions::default(), url).await
            }
            Credentials::Context(file, context) => {
                let options =
                    KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
                kubeconfig(Kubeconfig::read_from(file)?, options, url).await
            }
            Credentials::Certificates { certificate, key, authority } => {
                let mut config = Config::new(url.ok_or(AccessError::Nowhere)?);
                config.root_cert_file = Some(authority.clone());
                let text = |path: &Path| path.to_str().map(str::to_owned);
                config.auth_info.client_certificate = text(certificate);
                config.auth_info.client_key = text(key);
                Ok(config)
            }
            Credentials::ServiceAccount { url: own } => {
                let own = || own.as_deref().map(parse_url).transpose();
                let url = url.map_or_else(own, |url| Ok(Some(url)))?.ok_or(AccessError::Nowhere)?;
                Ok(service_account(url))
            }
            Credentials::Anonymous => Ok(Config::new(url.ok_or(AccessError::Nowhere)?)),
        }
    }
}

async fn kubeconfig(
    files: Kubeconfig,
    options: KubeConfigOptions,
    url: Option<Uri>,
) -> Result<Config, AccessError> {
    let mut config = Config::from_custom_kubeconfig(files, &options).await?;
    config.cluster_url = url.unwrap_or(config.cluster_url);
    Ok(config)
}

fn service_account(url: Uri) -> Config {
    let mut config = Config::new(url);
    config.root_cert_file = Some(format!("{SERVICE_ACCOUNT}/ca.crt").into());
    config.auth_info.token_file = Some(format!("{SERVICE_ACCOUNT}/token"));
    config
}

/// kube-proxy's `--master` may be a bare host and port, which means http there; nobody serves that any more.
fn parse_url(text: &str) -> Result<Uri, AccessError> {
    let error = || AccessError::Url { url: text.to_owned() };
    let full = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let url: Uri = full.parse().map_err(|_| error())?;
    let is_web = matches!(url.scheme_str(), Some("http" | "https"));
    if is_web && url.host().is_some() { Ok(url) } else { Err(error()) }
}

impl Connection {
    /// Adds what proves who asks, where the client does not do it by itself.
    pub fn authorize(&self, request: &mut http::Request<Vec<u8>>) {
        if let Some(header) = self.token.as_ref().and_then(TokenFile::header) {
            request.headers_mut().insert(AUTHORIZATION, header);
        }
    }
}

struct TokenFile {
    path: PathBuf,
    /// The last one that could be read: whoever renews a token may take the old one away first.
    last: Mutex<String>,
}

impl TokenFile {
    fn read(path: PathBuf) -> Result<Self, AccessError> {
        match fs::read_to_string(&path) {
            Ok(token) => Ok(Self { path, last: Mutex::new(token) }),
            Err(source) => Err(AccessError::Token { path, source }),
        }
    }

    fn header(&self) -> Option<HeaderValue> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(token) = fs::read_to_string(&self.path)
            && !token.trim().is_empty()
        {
            *last = token;
        }
        let mut header = HeaderValue::try_from(format!("Bearer {}", last.trim())).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_api_servers() {
        for (text, want) in [
            ("https://192.0.2.1:6443", Some("https://192.0.2.1:6443/")),
            ("http://127.0.0.1:8080", Some("http://127.0.0.1:8080/")),
            ("192.0.2.1:6443", Some("https://192.0.2.1:6443/")),
            ("https://[2001:db8::1]:6443", Some("https://[2001:db8::1]:6443/")),
            ("ftp://192.0.2.1", None),
            ("https://", None),
            ("", None),
        ] {
            let url = parse_url(text).map(|url| url.to_string());
            assert_eq!(url.ok().as_deref(), want, "{text:?}");
        }
    }

    #[test]
    fn a_token_is_read_anew_for_every_request() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "first\n").unwrap();
        let token = TokenFile::read(file.path().to_owned()).unwrap();
        assert_eq!(token.header().unwrap(), "Bearer first");
        fs::write(&file, "second").unwrap();
        assert_eq!(token.header().unwrap(), "Bearer second");
        fs::remove_file(&file).unwrap();
        assert_eq!(token.header().unwrap(), "Bearer second", "the last one, while there is none");
    }
}
