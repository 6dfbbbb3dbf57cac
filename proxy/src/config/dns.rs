//! How names are answered.

use std::net::SocketAddr;

use dns::{
    cluster::zone::ReadOptions,
    config::ApiServer,
    serve::{run::StartError, supervisor::Setup},
};

#[derive(Clone, Debug)]
pub struct DnsConfig(pub Setup);

impl DnsConfig {
    /// Where it listens: known before it does, but for ports that are chosen then.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, StartError> {
        let mut addresses = dns::serve::run::addresses(&self.0.config, &self.0.listen)?;
        addresses.retain(|address| address.port() != 0);
        Ok(addresses)
    }

    /// Of the first block that answers for the cluster.
    pub fn api_server(&self) -> ApiServer {
        self.0.config.kubernetes().next().map(|options| options.api_server.clone()).unwrap_or_default()
    }

    /// What of the objects has to be kept to answer as configured.
    pub fn read_options(&self) -> ReadOptions {
        self.0.config.read_options()
    }

    /// The same, with what tells who of a node asks.
    pub fn read_options_of(&self, node: &str) -> ReadOptions {
        ReadOptions { node: node.into(), ..self.read_options() }
    }
}
