//! How names are answered.

use dns::{config::ApiServer, live::Setup, zone::ReadOptions};

#[derive(Clone, Debug)]
pub struct DnsConfig(pub Setup);

impl DnsConfig {
    /// Of the first block that answers for the cluster.
    pub fn api_server(&self) -> ApiServer {
        self.0.config.kubernetes().next().map(|options| options.api_server.clone()).unwrap_or_default()
    }

    /// What of the objects has to be kept to answer as configured.
    pub fn read_options(&self) -> ReadOptions {
        ReadOptions::of(&self.0.config)
    }
}
