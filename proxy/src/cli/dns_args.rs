//! The flags that say how names are answered.

use std::{
    collections::BTreeSet,
    env,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use dns::{
    cluster::name,
    config::{ApiServer, DNS_PORT},
    observe::{health::HttpEndpoints, heartbeat::Heartbeat},
    plugins::{self, Config},
    serve::{
        server,
        socket_observer::SocketObserver,
        supervisor::{Corefile, Setup},
    },
};

use tracing::warn;

use crate::config::DnsConfig;

/// What nearly every cluster is called.
const CLUSTER_DOMAIN: &str = "cluster.local";

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
    /// The domain that Services are named in; a Corefile names its own [default: cluster.local]
    #[arg(long, value_name = "DOMAIN", conflicts_with = "corefile")]
    cluster_domain: Option<String>,
    /// Where /health is told, whatever the Corefile says
    #[arg(long, value_name = "ADDR:PORT")]
    dns_health_bind_address: Option<SocketAddr>,
    /// Where /ready is told, whatever the Corefile says
    #[arg(long, value_name = "ADDR:PORT")]
    dns_ready_bind_address: Option<SocketAddr>,
    /// Where /metrics is told, whatever the Corefile says
    #[arg(long, value_name = "ADDR:PORT")]
    dns_metrics_bind_address: Option<SocketAddr>,
}

/// Who answers names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answering {
    /// A server that does nothing else.
    Alone,
    /// The agent, which tells its own health; of the usual ports on a node, some are another's.
    InTheAgent,
}

impl DnsArgs {
    /// Somebody who says how names are answered wants them to be answered.
    pub fn are_given(&self) -> bool {
        let addresses =
            [self.dns_health_bind_address, self.dns_ready_bind_address, self.dns_metrics_bind_address];
        self.corefile.is_some()
            || !self.dns_listen.is_empty()
            || self.cluster_domain.is_some()
            || addresses.iter().any(Option::is_some)
    }

    pub fn config(self, answering: Answering) -> Result<DnsConfig> {
        let Self {
            corefile,
            dns_listen,
            cluster_domain,
            dns_health_bind_address,
            dns_ready_bind_address,
            dns_metrics_bind_address,
        } = self;
        let is_told_elsewhere = corefile.is_none() && answering == Answering::InTheAgent;
        let (config, corefile, listen) = match corefile {
            Some(path) => {
                let corefile = Corefile { path, env: |name| env::var(name).ok() };
                (plugins::read(&corefile.path, &corefile.env)?, Some(corefile), dns_listen)
            }
            None => {
                let listen = if dns_listen.is_empty() { node_addresses()? } else { dns_listen };
                (shipped(cluster_domain.as_deref().unwrap_or(CLUSTER_DOMAIN))?, None, listen)
            }
        };
        let mut endpoints =
            if is_told_elsewhere { HttpEndpoints::default() } else { config.http_endpoints() };
        endpoints.are_shared = answering == Answering::InTheAgent;
        for (flag, addresses) in [
            (dns_health_bind_address, &mut endpoints.health),
            (dns_ready_bind_address, &mut endpoints.ready),
            (dns_metrics_bind_address, &mut endpoints.metrics),
        ] {
            if let Some(address) = flag {
                *addresses = BTreeSet::from([address]);
            }
        }
        let (heartbeat, socket_observer) = (Heartbeat::default(), SocketObserver::default());
        let config = DnsConfig(Setup { config, corefile, listen, endpoints, heartbeat, socket_observer });
        if answering == Answering::InTheAgent && config.api_server() != ApiServer::default() {
            warn!(
                "the agent reads objects where its own flags say, not where `kubernetes` in the Corefile does"
            );
        }
        Ok(config)
    }
}

fn shipped(cluster_domain: &str) -> Result<Config> {
    let domain = name::domain(cluster_domain).with_context(|| {
        format!("--cluster-domain: `{cluster_domain}` is not a domain name, such as cluster.local")
    })?;
    Ok(Config::shipped(&domain))
}

/// Not all addresses at once: others have a right to port 53 of 127.0.0.53 and the like.
fn node_addresses() -> Result<Vec<SocketAddr>> {
    let local = server::local_addresses().context("cannot tell the addresses of this machine")?;
    let is_own = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    };
    Ok(local.into_iter().filter(is_own).map(|address| SocketAddr::new(address, DNS_PORT)).collect())
}
