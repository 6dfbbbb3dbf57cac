//! Address and credentials of the API server.
//!
//! All files are read again for every new connection, and the token before every request: credentials of a node are
//! rotated on disk.

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

mod words;

pub use words::auth;

/// Directory of a pod's service account credentials.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Whether this process runs in a pod with a service account.
pub fn has_service_account() -> bool {
    Path::new(SERVICE_ACCOUNT).join("token").exists()
}

/// Address and credentials of the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub credentials: Credentials,
    /// URL of the API server. Overrides the URL in the credentials.
    pub url: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Kubeconfig files, merged as `kubectl` does: of two values for one field the first file's counts.
    Kubeconfig(Vec<PathBuf>),
    /// A kubeconfig file, and the name of the context to use.
    Context(PathBuf, String),
    /// Client certificate and key, and the certificate authority of the server.
    Certificates { certificate: PathBuf, key: PathBuf, authority: PathBuf },
    /// The service account mounted into the pod. `url` comes from the environment.
    ServiceAccount { url: Option<String> },
    /// No credentials.
    Anonymous,
}

#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("the kubeconfig {files} cannot be used: {fault}")]
    Kubeconfig { files: String, fault: String },
    #[error("`{url}` is not the address of an API server, such as https://192.0.2.1:6443")]
    Url { url: String },
    #[error("no API server is named: give --kubeconfig or --api-server, or serve files with --manifests")]
    NoServer,
    #[error("cannot read the token in {path}")]
    Token {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the credentials for the API server cannot be used: {0}")]
    Credentials(String),
}

/// An HTTP client, and the token file for its requests.
pub struct Connection {
    pub client: Client,
    /// For log messages.
    pub url: String,
    token: Option<TokenFile>,
}

impl Access {
    /// Reads the credentials. Nothing is sent yet.
    pub async fn connect(&self) -> Result<Connection, AccessError> {
        let mut config = self.config().await?;
        // Token files are read here: kube-rs caches a token for a minute, and fails on a trailing line break.
        let token = match config.auth_info.token_file.take() {
            Some(path) => Some(TokenFile::read(path.into())?),
            None => None,
        };
        if token.is_some() {
            config.auth_info.token = None;
        }
        // No retries in kube-rs: the watch alone decides about backoff.
        config.default_retry = false;
        let url = config.cluster_url.to_string();
        let client =
            Client::try_from(config).map_err(|error| AccessError::Credentials(words::client(&error)))?;
        Ok(Connection { client, url, token })
    }

    /// Host and port of the API server. Nothing is sent.
    pub async fn address(&self) -> Result<(String, u16), AccessError> {
        let url = self.config().await?.cluster_url;
        let default_port = if url.scheme_str() == Some("http") { 80 } else { 443 };
        let host = url.host().ok_or(AccessError::NoServer)?.to_owned();
        Ok((host, url.port_u16().unwrap_or(default_port)))
    }

    async fn config(&self) -> Result<Config, AccessError> {
        let url = self.url.as_deref().map(parse_url).transpose()?;
        match &self.credentials {
            Credentials::Kubeconfig(files) => kubeconfig(files, KubeConfigOptions::default(), url).await,
            Credentials::Context(file, context) => {
                let options =
                    KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
                kubeconfig(std::slice::from_ref(file), options, url).await
            }
            Credentials::Certificates { certificate, key, authority } => {
                let mut config = Config::new(url.ok_or(AccessError::NoServer)?);
                config.root_cert_file = Some(authority.clone());
                let text = |path: &Path| path.to_str().map(str::to_owned);
                config.auth_info.client_certificate = text(certificate);
                config.auth_info.client_key = text(key);
                Ok(config)
            }
            Credentials::ServiceAccount { url: own } => {
                let own = || own.as_deref().map(parse_url).transpose();
                let url = url.map_or_else(own, |url| Ok(Some(url)))?.ok_or(AccessError::NoServer)?;
                Ok(service_account(url))
            }
            Credentials::Anonymous => Ok(Config::new(url.ok_or(AccessError::NoServer)?)),
        }
    }
}

async fn kubeconfig(
    files: &[PathBuf],
    options: KubeConfigOptions,
    url: Option<Uri>,
) -> Result<Config, AccessError> {
    let refused = |error: KubeconfigError| {
        let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        AccessError::Kubeconfig { files: files.join(", "), fault: words::kubeconfig(&error) }
    };
    let merged = files
        .iter()
        .try_fold(Kubeconfig::default(), |merged, file| merged.merge(Kubeconfig::read_from(file)?))
        .map_err(refused)?;
    let mut config = Config::from_custom_kubeconfig(merged, &options).await.map_err(refused)?;
    // A server may be a host and a port; requests need a whole URL.
    config.cluster_url = url.map_or_else(|| parse_url(&config.cluster_url.to_string()), Ok)?;
    Ok(config)
}

fn service_account(url: Uri) -> Config {
    let mut config = Config::new(url);
    config.root_cert_file = Some(format!("{SERVICE_ACCOUNT}/ca.crt").into());
    config.auth_info.token_file = Some(format!("{SERVICE_ACCOUNT}/token"));
    config
}

/// Parses a URL. kube-proxy's `--master` may be a bare host and port. There it means http, which API servers no longer
/// serve; here it means https.
fn parse_url(text: &str) -> Result<Uri, AccessError> {
    let error = || AccessError::Url { url: text.to_owned() };
    let full = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let url: Uri = full.parse().map_err(|_| error())?;
    let is_web = matches!(url.scheme_str(), Some("http" | "https"));
    if is_web && url.host().is_some() { Ok(url) } else { Err(error()) }
}

/// The status of a response, also of an error of the API server. `None`: there is no response.
pub fn status_code<T>(response: &Result<T, kube::Error>) -> Option<u16> {
    match response {
        Ok(_) => Some(200),
        Err(kube::Error::Api(status)) => Some(status.code),
        Err(_) => None,
    }
}

impl Connection {
    /// Adds the bearer token, if there is a token file. Client certificates are the HTTP client's business.
    pub fn authorize(&self, request: &mut http::Request<Vec<u8>>) {
        if let Some(header) = self.token.as_ref().and_then(TokenFile::header) {
            request.headers_mut().insert(AUTHORIZATION, header);
        }
    }
}

struct TokenFile {
    path: PathBuf,
    /// The last token that could be read: during rotation the file may be missing or empty.
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
    use crate::error::chain;

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

    async fn fault(text: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, text).unwrap();
        let credentials = Credentials::Kubeconfig(vec![file.path().to_owned()]);
        let result = Access { credentials, url: None }.connect().await;
        let error = chain(&result.err().unwrap_or_else(|| panic!("accepted: {text}")));
        error.replace(&file.path().display().to_string(), "FILE")
    }

    fn file_with(cluster: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\nclusters: [{{name: a, cluster: {{{cluster}}}}}]\n\
             contexts: [{{name: x, context: {{cluster: a, user: u}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
        )
    }

    #[tokio::test]
    async fn faults_of_a_kubeconfig_are_named_in_words() {
        let file = "the kubeconfig FILE cannot be used: ";
        let credentials = "the credentials for the API server cannot be used: ";
        let server = "server: \"https://127.0.0.1:1\"";
        let with = |more: &str| file_with(&format!("{server}, {more}"), "");
        let user = |user: &str| file_with(server, user);
        for (text, want) in [
            (String::new(), format!("{file}current-context is missing")),
            ("current-context: x\n".to_owned(), format!("{file}it has no context `x`")),
            (file_with("", ""), format!("{file}the cluster has no server")),
            (
                file_with("server: \"http://[::1\"", ""),
                format!("{file}the cluster's server is not a URL such as https://192.0.2.1:6443"),
            ),
            (
                file_with("server: \"ftp://127.0.0.1\"", ""),
                "`ftp://127.0.0.1/` is not the address of an API server, such as https://192.0.2.1:6443"
                    .to_owned(),
            ),
            (
                with("certificate-authority-data: \"!\""),
                format!("{file}certificate-authority-data is not base64"),
            ),
            (
                with("certificate-authority: /none"),
                format!(
                    "{file}cannot read certificate-authority /none: No such file or directory (os error 2)"
                ),
            ),
            (
                with("proxy-url: \"foo://x\""),
                format!("{credentials}the proxy foo://x/ has an unknown protocol"),
            ),
            (
                user("client-certificate: /none, client-key: /none"),
                format!(
                    "{credentials}cannot read client-certificate /none: No such file or directory (os error 2)"
                ),
            ),
            (
                user("client-certificate-data: aGVsbG8=, client-key-data: aGVsbG8="),
                format!(
                    "{credentials}the client certificate, its key or the certificate authority is not valid PEM"
                ),
            ),
            (
                user("tokenFile: /none"),
                "cannot read the token in /none: No such file or directory (os error 2)".into(),
            ),
            (
                user(
                    "exec: {apiVersion: client.authentication.k8s.io/v1, command: /none, interactiveMode: Never}",
                ),
                format!(
                    "{credentials}the command of `exec` cannot be started: No such file or directory (os error 2)"
                ),
            ),
        ] {
            assert_eq!(fault(&text).await, want, "{text}");
        }
    }

    /// A parser's excerpt of the file, or the output of a command, would bring tokens into the log.
    #[tokio::test]
    async fn faults_of_a_kubeconfig_show_no_secrets() {
        let exec = |script: &str| {
            file_with(
                "server: \"https://127.0.0.1:1\"",
                &format!(
                    "exec: {{apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, command: sh, \
                     args: [-c, {script}]}}"
                ),
            )
        };
        for (text, want) in [
            (format!("{}  token: hunter2\nusers: [\n", file_with("", "token: hunter2")), "line "),
            (file_with("insecure-skip-tls-verify: maybe", "token: hunter2"), "line "),
            (exec("'echo hunter2; exit 3'"), "the command of `exec` failed (exit status: 3)"),
            (exec("'echo \"token: [hunter2\"'"), "the command of `exec` printed no ExecCredential"),
        ] {
            let error = fault(&text).await;
            assert!(error.contains(want) && !error.contains("hunter2") && !error.contains('\n'), "{error}");
        }
    }

    #[tokio::test]
    async fn the_server_of_a_kubeconfig_may_be_a_host_and_a_port() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, file_with("server: \"127.0.0.1:6443\"", "")).unwrap();
        let credentials = Credentials::Kubeconfig(vec![file.path().to_owned()]);
        let connection = Access { credentials, url: None }.connect().await.unwrap();
        assert_eq!(connection.url, "https://127.0.0.1:6443/");
    }

    #[test]
    fn the_token_is_read_again_for_every_request() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "first\n").unwrap();
        let token = TokenFile::read(file.path().to_owned()).unwrap();
        assert_eq!(token.header().unwrap(), "Bearer first");
        fs::write(&file, "second").unwrap();
        assert_eq!(token.header().unwrap(), "Bearer second");
        fs::remove_file(&file).unwrap();
        assert_eq!(token.header().unwrap(), "Bearer second", "the last token, while the file is missing");
    }
}
