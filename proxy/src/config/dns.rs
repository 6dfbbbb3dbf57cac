//! How names are answered.

use std::net::SocketAddr;

use dns::{
    config::{Config, Kubernetes, PodsMode},
    zone::ReadOptions,
};

#[derive(Clone, Debug)]
pub struct DnsConfig {
    pub server: Config,
    /// Instead of where the server blocks listen.
    pub listen: Vec<SocketAddr>,
}

impl DnsConfig {
    /// What of the objects has to be kept to answer as configured.
    pub fn read_options(&self) -> ReadOptions {
        let any = |is_it: fn(&Kubernetes) -> bool| {
            self.server.servers.iter().filter_map(|block| block.kubernetes.as_ref()).any(is_it)
        };
        ReadOptions {
            endpoint_pod_names: any(|options| options.endpoint_pod_names),
            pods: any(|options| options.pods == PodsMode::Verified),
        }
    }
}
