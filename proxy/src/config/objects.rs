//! The source of objects, and its settings in the environment.

use std::{env, path::PathBuf};

use crate::k8s::{
    self,
    access::{Access, Credentials},
};

/// The source of objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objects {
    /// A directory of manifests, or one file.
    Manifests(PathBuf),
    ApiServer(Access),
}

/// Settings of the API server in the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `$KUBECONFIG`: files in order of precedence.
    pub kubeconfig: Vec<PathBuf>,
    /// `$KUBERNETES_SERVICE_HOST` and `_PORT`, set in every pod.
    pub api_server: Option<String>,
    /// The token of a service account is mounted.
    pub has_service_account: bool,
}

impl Environment {
    pub fn read() -> Self {
        let kubeconfig = env::var_os("KUBECONFIG").unwrap_or_default();
        let host = env::var("KUBERNETES_SERVICE_HOST").ok().filter(|host| !host.is_empty());
        let port = env::var("KUBERNETES_SERVICE_PORT").ok().filter(|port| !port.is_empty());
        Self {
            kubeconfig: env::split_paths(&kubeconfig).filter(|path| !path.as_os_str().is_empty()).collect(),
            api_server: host.map(|host| service_url(&host, port.as_deref().unwrap_or("443"))),
            has_service_account: k8s::access::has_service_account(),
        }
    }

    /// The access to the API server by precedence: flags before the environment, kubeconfigs before a pod's
    /// service account.
    pub fn access(&self, kubeconfig: Option<PathBuf>, url: Option<String>) -> Access {
        let files = kubeconfig.map_or_else(|| self.kubeconfig.clone(), |file| vec![file]);
        let credentials = if !files.is_empty() {
            Credentials::Kubeconfig(files)
        } else if self.has_service_account || url.is_none() {
            Credentials::ServiceAccount { url: self.api_server.clone() }
        } else {
            Credentials::Anonymous
        };
        Access { credentials, url }
    }
}

fn service_url(host: &str, port: &str) -> String {
    let is_v6 = host.parse::<std::net::Ipv6Addr>().is_ok();
    if is_v6 { format!("https://[{host}]:{port}") } else { format!("https://{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_way_to_the_api_server_counts() {
        let nothing = Environment::default();
        let pod = Environment {
            api_server: Some("https://10.96.0.1:443".to_owned()),
            has_service_account: true,
            ..Environment::default()
        };
        let shell = Environment { kubeconfig: vec!["home".into()], ..pod.clone() };
        let account = |url: &str| Credentials::ServiceAccount { url: Some(url.to_owned()) };
        let files = |file: &str| Credentials::Kubeconfig(vec![file.into()]);
        for (name, environment, kubeconfig, url, want) in [
            ("a pod", &pod, None, None, account("https://10.96.0.1:443")),
            ("a pod, elsewhere", &pod, None, Some("https://a"), account("https://10.96.0.1:443")),
            ("$KUBECONFIG", &shell, None, None, files("home")),
            ("a flag", &shell, Some("flag"), Some("https://a"), files("flag")),
            ("an address alone", &nothing, None, Some("https://a"), Credentials::Anonymous),
            ("nothing", &nothing, None, None, Credentials::ServiceAccount { url: None }),
        ] {
            let access = environment.access(kubeconfig.map(PathBuf::from), url.map(str::to_owned));
            assert_eq!(access, Access { credentials: want, url: url.map(str::to_owned) }, "{name}");
        }
    }

    #[test]
    fn addresses_of_the_kubernetes_service() {
        assert_eq!(service_url("10.96.0.1", "443"), "https://10.96.0.1:443");
        assert_eq!(service_url("fd00::1", "6443"), "https://[fd00::1]:6443");
    }
}
