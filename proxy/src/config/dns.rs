//! The DNS configuration.

use std::net::SocketAddr;

use dns::{
    cluster::zone::ReadOptions,
    config::ApiServer,
    serve::{run::StartError, supervisor::Setup},
};

#[derive(Clone, Debug)]
pub struct DnsConfig(pub Setup);

impl DnsConfig {
    /// The listen addresses, without those whose port is chosen by the kernel.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, StartError> {
        let mut addresses = dns::serve::run::addresses(&self.0.config, &self.0.listen)?;
        addresses.retain(|address| address.port() != 0);
        Ok(addresses)
    }

    /// The API server options of the first server block for the cluster's zones.
    pub fn api_server(&self) -> ApiServer {
        self.0.config.kubernetes().next().map(|options| options.api_server.clone()).unwrap_or_default()
    }

    /// The parts of objects that this configuration needs.
    pub fn read_options(&self) -> ReadOptions {
        self.0.config.read_options()
    }

    /// The same, with the node's name, by which local clients are known.
    pub fn read_options_of(&self, node: &str) -> ReadOptions {
        ReadOptions { node: node.into(), ..self.read_options() }
    }
}
