//! Flags of the DNS server.

use std::{
    collections::BTreeSet,
    env,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use dns::{
    cluster::name,
    config::{ApiServer, DNS_PORT, LastKnownGood},
    observe::{health::HttpEndpoints, heartbeat::Heartbeat, unbound::Unbound},
    plugins::{self, Config},
    serve::{
        socket_observer::SocketObserver,
        supervisor::{Corefile, Setup},
    },
};

use ipnetwork::IpNetwork;
use tracing::warn;

use crate::config::DnsConfig;

/// The default of Kubernetes.
const CLUSTER_DOMAIN: &str = "cluster.local";

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "DNS")]
pub struct DnsArgs {
    /// CoreDNS's configuration file, unchanged, or the directory to which the ConfigMap of CoreDNS or of kube-dns is
    /// mounted; without one, the server behaves as in a default cluster
    #[arg(long, value_name = "FILE")]
    corefile: Option<PathBuf>,
    /// Listen address for UDP and TCP; overrides the Corefile [default: from the Corefile, else port 53 of this machine's
    /// addresses]
    #[arg(long, value_name = "ADDR:PORT")]
    dns_listen: Vec<SocketAddr>,
    /// Networks of the clients that are answered, besides this machine and the addresses of Services and endpoints;
    /// packets of others are dropped and counted [default: every client]
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    dns_allow: Vec<IpNetwork>,
    /// Cached answers whose names the upstreams cannot resolve any more: dropped (off), served while all upstreams fail
    /// (failures), and also if another upstream contradicts a denial of a name just resolved (confirm), or for five
    /// minutes whoever denies it (hold). `serve_stale` in a Corefile says it otherwise for its block
    #[arg(long, value_name = "off|failures|confirm|hold", value_parser = last_known_good)]
    dns_last_known_good: Option<LastKnownGood>,
    /// The cluster domain; a Corefile sets its own [default: cluster.local]
    #[arg(long, value_name = "DOMAIN", conflicts_with = "corefile")]
    cluster_domain: Option<String>,
    /// Address of /health; overrides the Corefile
    #[arg(long, value_name = "ADDR:PORT")]
    dns_health_bind_address: Option<SocketAddr>,
    /// Address of /ready; overrides the Corefile
    #[arg(long, value_name = "ADDR:PORT")]
    dns_ready_bind_address: Option<SocketAddr>,
    /// Address of the DNS server's /metrics; overrides the Corefile
    #[arg(long, value_name = "ADDR:PORT")]
    dns_metrics_bind_address: Option<SocketAddr>,
}

/// The process that runs the DNS server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerRole {
    /// `portreeve dns`.
    Standalone,
    /// The agent, which has a health endpoint of its own. CoreDNS's default ports may be taken on the node.
    Agent,
}

impl DnsArgs {
    /// Whether a DNS flag was given, which implies `--dns`.
    pub fn are_given(&self) -> bool {
        let addresses =
            [self.dns_health_bind_address, self.dns_ready_bind_address, self.dns_metrics_bind_address];
        self.corefile.is_some()
            || !self.dns_listen.is_empty()
            || !self.dns_allow.is_empty()
            || self.dns_last_known_good.is_some()
            || self.cluster_domain.is_some()
            || addresses.iter().any(Option::is_some)
    }

    pub fn config(self, role: ServerRole) -> Result<DnsConfig> {
        let Self {
            corefile,
            dns_listen,
            dns_allow,
            dns_last_known_good,
            cluster_domain,
            dns_health_bind_address,
            dns_ready_bind_address,
            dns_metrics_bind_address,
        } = self;
        for address in
            dns_listen.iter().filter(|_| dns_allow.is_empty()).filter(|listen| is_public(listen.ip()))
        {
            warn!(%address, "public listen address without --dns-allow: every client that reaches it is answered");
        }
        let allow = (!dns_allow.is_empty()).then(|| dns_allow.into());
        let has_other_endpoints = corefile.is_none() && role == ServerRole::Agent;
        let (config, corefile, listen) = match corefile {
            Some(path) => {
                let corefile = Corefile { path, env: |name| env::var(name).ok() };
                (plugins::read(&corefile.path, &corefile.env)?, Some(corefile), dns_listen)
            }
            None => {
                let listen = if dns_listen.is_empty() { node_addresses()? } else { dns_listen };
                (default_config(cluster_domain.as_deref().unwrap_or(CLUSTER_DOMAIN))?, None, listen)
            }
        };
        let mut endpoints =
            if has_other_endpoints { HttpEndpoints::default() } else { config.http_endpoints() };
        endpoints.are_shared = role == ServerRole::Agent;
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
        let config = DnsConfig(Setup {
            config,
            corefile,
            listen,
            allow,
            last_known_good: dns_last_known_good.unwrap_or_default(),
            endpoints,
            heartbeat,
            socket_observer,
            unbound: Unbound::default(),
            starts_unbound: role == ServerRole::Agent,
        });
        if role == ServerRole::Agent && config.api_server() != ApiServer::default() {
            warn!("API server options of `kubernetes` in the Corefile ignored: the flags of the agent count");
        }
        Ok(config)
    }
}

fn last_known_good(text: &str) -> Result<LastKnownGood, String> {
    LastKnownGood::parse(text).ok_or_else(|| format!("`{text}` is none of off, failures, confirm and hold"))
}

fn default_config(cluster_domain: &str) -> Result<Config> {
    let domain = name::domain(cluster_domain).with_context(|| {
        format!("--cluster-domain: `{cluster_domain}` is not a domain name, such as cluster.local")
    })?;
    Ok(Config::shipped(&domain))
}

/// The addresses of this machine without loopback and link-local ones, where other servers may listen (127.0.0.53).
fn node_addresses() -> Result<Vec<SocketAddr>> {
    let local = dns::interfaces::addresses().context("cannot read the addresses of this machine")?;
    let is_own = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    };
    Ok(local.into_iter().filter(is_own).map(|address| SocketAddr::new(address, DNS_PORT)).collect())
}

/// Whether an address may be reachable from the internet.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            // RFC 6598: 100.64.0.0/10.
            let is_shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
            let is_local = v4.is_loopback() || v4.is_private() || v4.is_link_local() || v4.is_unspecified();
            !is_local && !is_shared
        }
        IpAddr::V6(v6) => {
            let is_local = v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified();
            !is_local && !v6.is_unique_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_are_told_from_private_ones() {
        for (address, public) in [
            ("127.0.0.1", false),
            ("10.0.0.1", false),
            ("100.64.0.1", false),
            ("169.254.20.10", false),
            ("0.0.0.0", false),
            ("fd00::1", false),
            ("fe80::1", false),
            ("::ffff:10.0.0.1", false),
            ("100.128.0.1", true),
            ("198.51.100.1", true),
            ("2001:db8::1", true),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
        }
    }
}
