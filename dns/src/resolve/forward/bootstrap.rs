//! Upstreams that are given by name: their addresses, resolved by other servers and kept up to date.
//!
//! CoreDNS resolves such a name once, at its start. Here the start does not depend on it, and the addresses follow the
//! name; the last known ones stay while it cannot be resolved.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use futures_util::future::join;
use hickory_server::proto::{
    op::Query,
    rr::{Name, RData, RecordType},
};
use tokio::time::sleep;
use tracing::{debug, warn};

use super::{
    connection::Limits,
    context::ServerContext,
    stream::Dial,
    targets::{File, Host},
    upstream::{Budget, Target, Upstream},
};
use crate::{config::Forward, resolve::reply::QueryFlags};

/// The file with the servers that resolve names, unless the rule names some.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The limits of the time until a name is resolved again; in between, its TTL.
const MIN_INTERVAL: Duration = Duration::from_secs(10);
const MAX_INTERVAL: Duration = Duration::from_secs(300);
/// The delay after a failure; each further one is twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Packets per server and type: one query, its retry without 0x20 or EDNS, and one over TCP.
const PACKETS: u32 = 3;
/// The limit of addresses of one name, as of all upstreams.
const MAX_ADDRESSES: usize = 15;

/// The servers that resolve the names of a rule.
pub(super) struct Resolvers {
    config: Forward,
    context: ServerContext,
    file: File,
}

/// Resolves a name again and again, until `update`, which is told of each result, returns `false`.
pub(super) async fn keep_resolved(host: Arc<Host>, mut resolvers: Resolvers, update: impl Fn() -> bool) {
    let mut retry = FIRST_RETRY;
    loop {
        let found = resolvers.resolve(host.name()).await;
        let pause = match found {
            Some((addresses, ttl)) => {
                host.set_addresses(addresses);
                retry = FIRST_RETRY;
                ttl.clamp(MIN_INTERVAL, MAX_INTERVAL)
            }
            None => {
                if retry == FIRST_RETRY {
                    warn!(upstream = %host.name(), "cannot resolve the name of an upstream, will retry");
                }
                let pause = retry;
                retry = (retry * 2).min(LAST_RETRY);
                pause
            }
        };
        if !update() {
            return;
        }
        sleep(pause).await;
    }
}

impl Resolvers {
    pub(super) fn new(config: &Forward, context: &ServerContext) -> Self {
        Self { config: config.clone(), context: context.clone(), file: File::new(Path::new(RESOLV_CONF)) }
    }

    /// The addresses of a name that the first server with an answer knows, and their TTL.
    async fn resolve(&mut self, name: &Name) -> Option<(Vec<IpAddr>, Duration)> {
        for resolver in self.upstreams() {
            let (v4, v6) =
                join(lookup(&resolver, name, RecordType::A), lookup(&resolver, name, RecordType::AAAA)).await;
            let found = v4.into_iter().chain(v6).filter(|(address, _)| self.is_reachable(*address));
            let found: Vec<_> = found.take(MAX_ADDRESSES).collect();
            if let Some(ttl) = found.iter().map(|(_, ttl)| *ttl).min() {
                let addresses = found.into_iter().map(|(address, _)| address).collect();
                return Some((addresses, Duration::from_secs(ttl.into())));
            }
        }
        None
    }

    /// The resolvers without this server, which would wait for itself.
    fn upstreams(&mut self) -> Vec<Upstream> {
        let servers = if self.config.resolvers.is_empty() {
            self.file.current()
        } else {
            self.config.resolvers.clone()
        };
        let own = self.context.own.load();
        let Forward { expire, max_age, max_idle, source, read_timeout, .. } = self.config;
        let limits = Limits { expire, max_age, max_idle, source };
        let upstream = |server: SocketAddr| {
            let metrics = self.context.metrics.upstream(&server.to_string());
            Upstream::new(Target::plain(server), Dial::TcpFallback, limits.clone(), read_timeout, metrics)
        };
        servers.into_iter().filter(|server| !own.contains(server)).map(upstream).collect()
    }

    /// Whether queries can be sent to an address from the one of the rule.
    fn is_reachable(&self, address: IpAddr) -> bool {
        self.config.source.is_none_or(|source| source.is_ipv4() == address.is_ipv4())
    }
}

async fn lookup(resolver: &Upstream, name: &Name, qtype: RecordType) -> Vec<(IpAddr, u32)> {
    let question = Query::query(name.clone(), qtype);
    let reply = match resolver.query(&question, &QueryFlags::default(), &Budget::of(PACKETS)).await {
        Ok(reply) => reply,
        Err(error) => {
            debug!(resolver = %resolver.target, %question, %error, "no answer about an upstream");
            return Vec::new();
        }
    };
    #[expect(clippy::wildcard_enum_match_arm, reason = "all other data are no addresses")]
    let address = |data: &RData| match data {
        RData::A(v4) => Some(IpAddr::V4(v4.0)),
        RData::AAAA(v6) => Some(IpAddr::V6(v6.0)),
        _ => None,
    };
    reply.answers.iter().filter_map(|record| Some((address(&record.data)?, record.ttl))).collect()
}
