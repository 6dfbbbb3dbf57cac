//! The DNS configuration.

use std::net::{IpAddr, SocketAddr};

use dns::{
    cluster::zone::ReadOptions,
    config::ApiServer,
    serve::{run::ListenAt, supervisor::Setup},
};
use ipnetwork::IpNetwork;

#[derive(Clone, Debug)]
pub struct DnsConfig {
    pub setup: Setup,
    /// The networks that `--dns-allow` names.
    pub allow: Vec<IpNetwork>,
}

impl DnsConfig {
    /// The listen addresses on a node with these addresses, without those whose port is chosen by the kernel. Empty if
    /// the server cannot start.
    pub fn addresses(&self, node: &[IpAddr]) -> Vec<SocketAddr> {
        let listen = ListenAt { listen: &self.setup.listen, node: Some(node) };
        let mut addresses = dns::serve::run::addresses(&self.setup.config, listen).unwrap_or_default();
        addresses.retain(|address| address.port() != 0);
        addresses
    }

    /// The API server options of the first server block for the cluster's zones.
    pub fn api_server(&self) -> ApiServer {
        self.setup.config.kubernetes().next().map(|options| options.api_server.clone()).unwrap_or_default()
    }

    /// The parts of objects that this configuration needs.
    pub fn read_options(&self) -> ReadOptions {
        self.setup.config.read_options()
    }

    /// The same, with the node's name, by which local clients are known.
    pub fn read_options_of(&self, node: &str) -> ReadOptions {
        ReadOptions { node: node.into(), ..self.read_options() }
    }
}
