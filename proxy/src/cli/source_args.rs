//! The flags that say where objects come from.

use std::path::PathBuf;

use clap::Args;
use dns::config::ApiServer;

use crate::config::{Environment, Objects};

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
    pub fn or(self, corefile: ApiServer) -> Self {
        let Self { manifests, kubeconfig, api_server } = self;
        let ApiServer { endpoint, kubeconfig: file } = corefile;
        Self { manifests, kubeconfig: kubeconfig.or(file), api_server: api_server.or(endpoint) }
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
