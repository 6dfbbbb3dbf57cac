//! The flags that say where objects come from.

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
    /// A directory of YAML files to serve, watched, in place of an API server
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "api_server"])]
    pub manifests: Option<PathBuf>,
    /// Credentials for the API server [default: $KUBECONFIG, else those of the pod]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The address of the API server, with whatever credentials there are; a node needs it where the address in them is
    /// a ClusterIP that nobody serves yet
    #[arg(long, value_name = "URL", alias = "master")]
    pub api_server: Option<String>,
}

impl SourceArgs {
    /// What a Corefile says about the API server counts where no flag says anything.
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

    /// `configured` is the kubeconfig that a configuration file of kube-proxy names; there it counts more than the flag.
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
    fn a_corefile_counts_where_no_flag_does() {
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
