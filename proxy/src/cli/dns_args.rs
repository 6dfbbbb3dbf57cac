//! The flags that say how names are answered.

use std::{
    env,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use crate::config::DnsConfig;
use anyhow::{Context as _, Result};
use dns::{
    config::{Config, DNS_PORT},
    corefile,
    name::domain,
    server,
};

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "DNS")]
pub struct DnsArgs {
    /// CoreDNS's configuration file, as it is; without one, names are answered as in a stock cluster
    #[arg(long, value_name = "FILE")]
    corefile: Option<PathBuf>,
    /// Where names are answered, over UDP and TCP, whatever the Corefile says [default: what the Corefile says, else
    /// port 53 of this machine's addresses]
    #[arg(long, value_name = "ADDR:PORT")]
    dns_listen: Vec<SocketAddr>,
    /// The domain that Services are named in; a Corefile names its own
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", conflicts_with = "corefile")]
    cluster_domain: String,
}

impl DnsArgs {
    /// Somebody who says how names are answered wants them to be answered.
    pub fn are_given(&self) -> bool {
        self.corefile.is_some() || !self.dns_listen.is_empty()
    }

    pub fn config(self) -> Result<DnsConfig> {
        let Self { corefile, dns_listen, cluster_domain } = self;
        if let Some(path) = corefile {
            let server = corefile::read(&path, &|name| env::var(name).ok())?;
            return Ok(DnsConfig { server, listen: dns_listen });
        }
        let domain = domain(&cluster_domain).with_context(|| {
            format!("--cluster-domain: `{cluster_domain}` is not a domain name, such as cluster.local")
        })?;
        let listen = if dns_listen.is_empty() { node_addresses()? } else { dns_listen };
        Ok(DnsConfig { server: Config::shipped(&domain), listen })
    }
}

/// Not all addresses at once: others have a right to port 53 of 127.0.0.53 and the like.
fn node_addresses() -> Result<Vec<SocketAddr>> {
    let local = server::local_addresses(None).context("cannot tell the addresses of this machine")?;
    let is_own = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    };
    Ok(local.into_iter().filter(is_own).map(|address| SocketAddr::new(address, DNS_PORT)).collect())
}
