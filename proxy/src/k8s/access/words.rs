//! The faults of credentials in words. A library's own messages show excerpts of files and of the output of commands, which
//! may be secrets.

use std::io;

use kube::{
    client::AuthError,
    config::{KubeconfigError, LoadDataError},
};

use crate::yaml;

pub fn kubeconfig(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::CurrentContextNotSet => "current-context is missing".to_owned(),
        KubeconfigError::KindMismatch => "its documents differ in kind".to_owned(),
        KubeconfigError::ApiVersionMismatch => "its documents differ in apiVersion".to_owned(),
        KubeconfigError::LoadContext(name) => format!("it has no context `{name}`"),
        KubeconfigError::LoadClusterOfContext(name) => format!("it has no cluster `{name}` for the context"),
        KubeconfigError::FindPath => "there is no home directory for the default path".to_owned(),
        KubeconfigError::ReadConfig(error, _) => unreadable(error),
        KubeconfigError::Parse(error) => yaml::message(error),
        KubeconfigError::MissingClusterUrl => "the cluster has no server".to_owned(),
        KubeconfigError::ParseClusterUrl(_) => {
            "the cluster's server is not a URL such as https://192.0.2.1:6443".to_owned()
        }
        KubeconfigError::ParseProxyUrl(_) => {
            "proxy-url is not a URL such as http://192.0.2.1:3128".to_owned()
        }
        KubeconfigError::LoadCertificateAuthority(error) => data("certificate-authority", error),
        KubeconfigError::LoadClientCertificate(error) => data("client-certificate", error),
        KubeconfigError::LoadClientKey(error) => data("client-key", error),
        KubeconfigError::ParseCertificates(_) => "the certificate authority is not valid PEM".to_owned(),
        KubeconfigError::ParseNoProxy(_) => "the environment variable NO_PROXY is malformed".to_owned(),
    }
}

fn data(field: &str, error: &LoadDataError) -> String {
    match error {
        LoadDataError::DecodeBase64(_) => format!("{field}-data is not base64"),
        LoadDataError::ReadFile(error, path) => {
            format!("cannot read {field} {}: {}", path.display(), unreadable(error))
        }
        LoadDataError::NoBase64DataOrFile => format!("{field} is missing"),
    }
}

fn unreadable(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::InvalidData { "not UTF-8 text".to_owned() } else { error.to_string() }
}

/// A fault found when a connection is prepared.
#[expect(clippy::wildcard_enum_match_arm, reason = "the others are errors of requests")]
pub fn client(error: &kube::Error) -> String {
    match error {
        kube::Error::ProxyProtocolUnsupported { proxy_url }
        | kube::Error::ProxyProtocolDisabled { proxy_url, .. } => {
            format!("the proxy {proxy_url} has an unknown protocol")
        }
        kube::Error::InferKubeconfig(error) => kubeconfig(error),
        kube::Error::Auth(error) => auth(error),
        kube::Error::RustlsTls(_) => {
            "the client certificate, its key or the certificate authority is not valid PEM".to_owned()
        }
        _ => "they are of an unknown form".to_owned(),
    }
}

/// A fault of the user's part of a kubeconfig.
#[expect(clippy::wildcard_enum_match_arm, reason = "the others have no data worth a message of their own")]
pub fn auth(error: &AuthError) -> String {
    match error {
        AuthError::AuthExecStart(error) => format!("the command of `exec` cannot be started: {error}"),
        AuthError::AuthExecRun { out, .. } => format!("the command of `exec` failed ({})", out.status),
        AuthError::AuthExecParse(_) | AuthError::ExecPluginFailed => {
            "the command of `exec` printed no ExecCredential".to_owned()
        }
        AuthError::MissingCommand => "`exec` has no command".to_owned(),
        AuthError::InvalidBasicAuth(_) => "username or password has invalid characters".to_owned(),
        AuthError::InvalidBearerToken(_) => "the token has invalid characters".to_owned(),
        AuthError::ReadTokenFile(error, path) => {
            format!("cannot read the token in {}: {error}", path.display())
        }
        AuthError::MalformedTokenExpirationDate(_) => {
            "the command of `exec` printed a malformed expirationTimestamp".to_owned()
        }
        AuthError::AuthExec(text) => text.clone(),
        _ => "the user's authentication method failed".to_owned(),
    }
}
