//! Flags of the DNS server.

use std::{
    collections::BTreeSet,
    env,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use dns::{
    admitted::{Admitted, Clients, KnownClients, UnknownPods, is_private},
    cluster::name,
    config::{ApiServer, DNS_PORT, LastKnownGood},
    interfaces::LocalNetworks,
    observe::{faults::Faults, health::HttpEndpoints, heartbeat::Heartbeat, metrics::MetricNames},
    plugins::{self, Config},
    serve::{
        node_addresses::NodeAddresses,
        rate_limit,
        socket_observer::SocketObserver,
        supervisor::{Corefile, Setup},
    },
};

use ipnetwork::IpNetwork;
use tracing::{info, warn};

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
    /// Listen address for UDP and TCP; overrides the Corefile [default: from the Corefile, else port 53]. The agent listens
    /// at the node's primary addresses in place of wildcards, and follows their changes
    #[arg(long, value_name = "ADDR:PORT")]
    dns_listen: Vec<SocketAddr>,
    /// More networks whose clients are answered, besides pods, this machine and the addresses of Services and endpoints;
    /// packets of others are dropped and counted. Where no cluster CIDR is known, private addresses are taken for pods,
    /// unless this is given. `portreeve dns` alone answers every client by default
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    dns_allow: Vec<IpNetwork>,
    /// Identical replies over UDP per second to one network (a /24 or /56) outside this machine and its pods; others are
    /// dropped, or truncated, after which a genuine client comes over TCP. 0: unlimited [default: 200; of `dns`:
    /// unlimited]
    #[arg(long, value_name = "NUMBER")]
    dns_rate_limit: Option<u32>,
    /// Cached answers whose names the upstreams cannot resolve any more: dropped (off), served while all upstreams fail
    /// (failures), and also if another upstream contradicts a denial of a name just resolved (confirm), or for five
    /// minutes in spite of all denials (hold). `serve_stale` in a Corefile says it otherwise for its block
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
    /// Names of the metrics that CoreDNS has, too: CoreDNS's, own ones (portreeve_dns_*), or both, with each series twice
    /// [default: coredns if the Corefile has `prometheus`, else own]
    #[arg(long, value_name = "coredns|own|both", value_parser = metric_names)]
    dns_metrics_names: Option<MetricNames>,
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
            || self.dns_rate_limit.is_some()
            || self.cluster_domain.is_some()
            || addresses.iter().any(Option::is_some)
    }

    pub fn config(self, role: ServerRole) -> Result<DnsConfig> {
        let Self {
            corefile,
            dns_listen,
            dns_allow,
            dns_last_known_good,
            dns_rate_limit,
            cluster_domain,
            dns_health_bind_address,
            dns_ready_bind_address,
            dns_metrics_bind_address,
            dns_metrics_names,
        } = self;
        announce_public(&dns_listen, &dns_allow, role);
        let has_other_endpoints = corefile.is_none() && role == ServerRole::Agent;
        let corefile = corefile.map(|path| Corefile { path, env: |name| env::var(name).ok() });
        let config = match &corefile {
            Some(corefile) => match plugins::read(&corefile.path, &corefile.env) {
                // The file is read again when the server starts, which names the error and retries.
                Err(_) if role == ServerRole::Agent => Config::default(),
                read => read?,
            },
            None => default_config(cluster_domain.as_deref().unwrap_or(CLUSTER_DOMAIN))?,
        };
        let listen = match role {
            ServerRole::Standalone if corefile.is_none() && dns_listen.is_empty() => local_addresses()?,
            ServerRole::Standalone | ServerRole::Agent => dns_listen,
        };
        let mut endpoints =
            if has_other_endpoints { HttpEndpoints::default() } else { config.http_endpoints() };
        endpoints.are_shared = role == ServerRole::Agent;
        endpoints.metric_names = dns_metrics_names;
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
        let setup = Setup {
            config,
            corefile,
            listen,
            last_known_good: dns_last_known_good.unwrap_or_default(),
            node_addresses: NodeAddresses::default(),
            admitted: Admitted::new(clients(&dns_allow, role)),
            rate_limit: rate_limit(dns_rate_limit, role),
            local_networks: LocalNetworks::default(),
            endpoints,
            heartbeat,
            socket_observer,
            faults: Faults::default(),
            may_start_later: role == ServerRole::Agent,
        };
        let config = DnsConfig { setup, allow: dns_allow };
        if role == ServerRole::Agent && config.api_server() != ApiServer::default() {
            warn!("API server options of `kubernetes` in the Corefile ignored: the flags of the agent count");
        }
        Ok(config)
    }
}

/// `portreeve dns` may be the server of a whole cluster: it does not know which networks are those of its pods.
fn rate_limit(limit: Option<u32>, role: ServerRole) -> Option<NonZeroU32> {
    match (limit, role) {
        (Some(limit), _) => NonZeroU32::new(limit),
        (None, ServerRole::Agent) => Some(rate_limit::DEFAULT),
        (None, ServerRole::Standalone) => None,
    }
}

fn metric_names(text: &str) -> Result<MetricNames, String> {
    match text {
        "coredns" => Ok(MetricNames::CoreDns),
        "own" => Ok(MetricNames::Own),
        "both" => Ok(MetricNames::Both),
        _ => Err(format!("`{text}` is none of coredns, own and both")),
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

/// Says who is answered at addresses that may be reached from the internet.
fn announce_public(listen: &[SocketAddr], allow: &[IpNetwork], role: ServerRole) {
    let wildcard = listen.iter().any(|address| address.ip().is_unspecified());
    // Without them, a wildcard is not announced; the server fails for the same reason.
    let local = if wildcard { dns::interfaces::addresses().unwrap_or_default() } else { Vec::new() };
    for address in public_addresses(listen, &local) {
        match admitted_from_outside(allow, role) {
            Outside::Everybody => {
                warn!(%address, "public listen address without --dns-allow: every client that reaches it is answered");
            }
            Outside::Allowed => {
                warn!(%address, "public listen address, and --dns-allow admits every client that reaches it");
            }
            Outside::Listed => {
                info!(%address, "public listen address: only pods, this node and the networks of --dns-allow are answered");
            }
        }
    }
}

/// The public ones of the listen addresses; a wildcard stands for the addresses of this machine.
fn public_addresses(listen: &[SocketAddr], local: &[IpAddr]) -> BTreeSet<SocketAddr> {
    let reached = listen.iter().flat_map(|address| {
        let of_family = local.iter().filter(|own| own.is_ipv4() == address.is_ipv4());
        let wildcard = of_family.filter(|_| address.ip().is_unspecified());
        wildcard.map(|own| SocketAddr::new(*own, address.port())).chain([*address])
    });
    reached.filter(|address| !is_private(address.ip())).collect()
}

/// The clients outside the cluster that are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outside {
    Everybody,
    /// Everybody, as `--dns-allow` says.
    Allowed,
    /// Those of `--dns-allow`.
    Listed,
}

fn admitted_from_outside(allow: &[IpNetwork], role: ServerRole) -> Outside {
    match role {
        ServerRole::Standalone if allow.is_empty() => Outside::Everybody,
        ServerRole::Standalone | ServerRole::Agent if allow.iter().any(|network| network.prefix() == 0) => {
            Outside::Allowed
        }
        ServerRole::Standalone | ServerRole::Agent => Outside::Listed,
    }
}

/// The rule at the start. That of an agent follows the networks of the cluster, which are not known yet.
fn clients(allow: &[IpNetwork], role: ServerRole) -> Clients {
    match role {
        ServerRole::Standalone if allow.is_empty() => Clients::All,
        ServerRole::Standalone => {
            Clients::Known(KnownClients { networks: allow.into(), ..KnownClients::default() })
        }
        ServerRole::Agent => {
            let unknown_pods = if allow.is_empty() { UnknownPods::ALL } else { UnknownPods::default() };
            Clients::Known(KnownClients { networks: allow.into(), unknown_pods, ..KnownClients::default() })
        }
    }
}

/// The addresses of this machine without loopback and link-local ones, where other servers may listen (127.0.0.53).
fn local_addresses() -> Result<Vec<SocketAddr>> {
    let local = dns::interfaces::addresses().context("cannot read the addresses of this machine")?;
    let is_own = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    };
    Ok(local.into_iter().filter(is_own).map(|address| SocketAddr::new(address, DNS_PORT)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_standalone_server_answers_everybody_by_default() {
        let network = ["10.0.0.0/8".parse().unwrap()];
        assert_eq!(clients(&[], ServerRole::Standalone), Clients::All);
        for (allow, role) in
            [(&[][..], ServerRole::Agent), (&network, ServerRole::Agent), (&network, ServerRole::Standalone)]
        {
            assert_ne!(clients(allow, role), Clients::All, "{allow:?} {role:?}");
        }
    }

    #[test]
    fn public_listen_addresses_are_found() {
        let local = ["127.0.0.1", "10.0.0.7", "198.51.100.7", "2001:db8::7", "fe80::7"];
        let local = local.map(|address| address.parse().unwrap());
        for (listen, want) in [
            ("198.51.100.1:53", &["198.51.100.1:53"][..]),
            ("[2001:db8::1]:53", &["[2001:db8::1]:53"]),
            ("[::ffff:198.51.100.1]:53", &["[::ffff:198.51.100.1]:53"]),
            ("10.9.8.7:53", &[]),
            ("100.64.0.1:53", &[]),
            ("[fd00::1]:53", &[]),
            ("127.0.0.1:53", &[]),
            ("0.0.0.0:5300", &["198.51.100.7:5300"]),
            ("[::]:5300", &["[2001:db8::7]:5300"]),
        ] {
            let found = public_addresses(&[listen.parse().unwrap()], &local);
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found, want, "{listen}");
        }
    }

    #[test]
    fn the_notice_of_a_public_address_says_who_is_answered() {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        for (allow, agent, standalone) in [
            (&[][..], Outside::Listed, Outside::Everybody),
            (&["10.0.0.0/8"], Outside::Listed, Outside::Listed),
            (&["10.0.0.0/8", "::/0"], Outside::Allowed, Outside::Allowed),
        ] {
            let of_role = |role| admitted_from_outside(&networks(allow), role);
            assert_eq!(of_role(ServerRole::Agent), agent, "{allow:?}");
            assert_eq!(of_role(ServerRole::Standalone), standalone, "{allow:?}");
        }
    }

    #[test]
    fn the_rate_limit_is_the_agents_default() {
        let ten = NonZeroU32::new(10);
        for (flag, role, want) in [
            (None, ServerRole::Agent, Some(rate_limit::DEFAULT)),
            (None, ServerRole::Standalone, None),
            (Some(0), ServerRole::Agent, None),
            (Some(10), ServerRole::Agent, ten),
            (Some(10), ServerRole::Standalone, ten),
        ] {
            assert_eq!(rate_limit(flag, role), want, "{flag:?} {role:?}");
        }
    }
}
