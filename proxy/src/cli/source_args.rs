//! Flags for the source of objects.

use std::path::PathBuf;

use clap::Args;
use dns::config::{ApiServer, Certificates};

use crate::{
    config::{Environment, Objects},
    k8s::access::{Access, Credentials},
};

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Objects")]
pub struct SourceArgs {
    /// A directory of YAML files, watched, instead of an API server
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "api_server"])]
    pub manifests: Option<PathBuf>,
    /// Credentials for the API server [default: $KUBECONFIG, else those of the pod]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The URL of the API server; overrides the one of the credentials. Needed if that is a ClusterIP, which no proxy serves
    /// yet when the agent starts
    #[arg(long, value_name = "URL", alias = "master")]
    pub api_server: Option<String>,
}

impl SourceArgs {
    /// The source. The Corefile's API server options count if no flag is given.
    pub fn objects_or(self, corefile: ApiServer) -> Objects {
        let ApiServer { endpoint, kubeconfig: file, context, tls } = corefile;
        let has_flag = self.kubeconfig.is_some();
        let stated = match (file.clone(), context, tls) {
            (Some(file), Some(context), _) => Some(Credentials::Context(file, context)),
            (None, _, Some(Certificates { certificate, key, authority })) => {
                Some(Credentials::Certificates { certificate, key, authority })
            }
            (Some(_), None, _) | (None, _, None) => None,
        };
        let Self { manifests, kubeconfig, api_server } = self;
        let merged = Self { manifests, kubeconfig: kubeconfig.or(file), api_server: api_server.or(endpoint) };
        match (merged.objects(None), stated) {
            (Objects::ApiServer(access), Some(credentials)) if !has_flag => {
                Objects::ApiServer(Access { credentials, ..access })
            }
            (objects, _) => objects,
        }
    }

    /// The source. `configured` is the kubeconfig in kube-proxy's configuration file, which overrides the flag.
    pub fn objects(self, configured: Option<PathBuf>) -> Objects {
        let Self { manifests, kubeconfig, api_server } = self;
        match manifests {
            Some(path) => Objects::Manifests(path),
            None => Objects::ApiServer(Environment::read().access(configured.or(kubeconfig), api_server)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_override_the_corefile() {
        let tls = Certificates { certificate: "c".into(), key: "k".into(), authority: "a".into() };
        let endpoint = Some("https://corefile".to_owned());
        let with_tls = ApiServer { endpoint: endpoint.clone(), tls: Some(tls), ..ApiServer::default() };
        let with_context = ApiServer {
            endpoint,
            kubeconfig: Some("file".into()),
            context: Some("other".to_owned()),
            tls: None,
        };
        let certificates =
            Credentials::Certificates { certificate: "c".into(), key: "k".into(), authority: "a".into() };
        let flag = Credentials::Kubeconfig(vec!["flag".into()]);
        let context = Credentials::Context("file".into(), "other".to_owned());
        for (name, kubeconfig, api_server, corefile, want, url) in [
            ("certificates", None, None, &with_tls, certificates, "https://corefile"),
            ("a context", None, Some("https://flag"), &with_context, context, "https://flag"),
            ("a flag", Some("flag"), None, &with_context, flag, "https://corefile"),
        ] {
            let source = SourceArgs {
                manifests: None,
                kubeconfig: kubeconfig.map(PathBuf::from),
                api_server: api_server.map(str::to_owned),
            };
            let want = Objects::ApiServer(Access { credentials: want, url: Some(url.to_owned()) });
            assert_eq!(source.objects_or(corefile.clone()), want, "{name}");
        }
    }
}
