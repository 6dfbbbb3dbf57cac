//! How names are answered.

use dns::{
    config::{ApiServer, Kubernetes, PodsMode},
    live::Setup,
    zone::ReadOptions,
};

#[derive(Clone, Debug)]
pub struct DnsConfig(pub Setup);

impl DnsConfig {
    /// Of the first block that answers for the cluster.
    pub fn api_server(&self) -> ApiServer {
        let mut blocks = self.0.config.servers.iter().filter_map(|block| block.kubernetes.as_ref());
        blocks.next().map(|options| options.api_server.clone()).unwrap_or_default()
    }

    /// What of the objects has to be kept to answer as configured.
    pub fn read_options(&self) -> ReadOptions {
        let any = |is_it: fn(&Kubernetes) -> bool| {
            self.0.config.servers.iter().filter_map(|block| block.kubernetes.as_ref()).any(is_it)
        };
        ReadOptions {
            endpoint_pod_names: any(|options| options.endpoint_pod_names),
            pods: any(|options| options.pods == PodsMode::Verified),
            zones: any(|options| options.zonal),
        }
    }
}
