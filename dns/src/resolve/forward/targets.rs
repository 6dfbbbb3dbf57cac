//! The current list of servers of a rule.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
};

use arc_swap::ArcSwap;
use hickory_server::proto::rr::{LowerName, Name};
use tracing::warn;

use super::{
    context::OwnAddresses,
    resolv_conf::{RESOLVED, is_stub, name_servers},
    upstream::Target,
};
use crate::{
    config::{Forward, Upstream, UpstreamProtocol},
    file_watcher::FileWatcher,
};

/// The servers and files that a rule lists.
#[derive(Debug)]
pub(super) struct Targets(Vec<Source>);

#[derive(Debug)]
enum Source {
    Fixed(Target),
    File(File),
    Host(Arc<Host>),
}

/// A file like `/etc/resolv.conf`, and the upstreams of the host's stub resolver.
#[derive(Debug)]
pub(super) struct File {
    listed: NameServers,
    behind_stub: NameServers,
}

#[derive(Debug)]
struct NameServers {
    file: FileWatcher,
    name: String,
    /// The servers of the last successful read: an unreadable file changes nothing.
    servers: Vec<SocketAddr>,
}

/// A name, and its present addresses.
#[derive(Debug)]
pub(super) struct Host {
    name: Name,
    port: u16,
    protocol: UpstreamProtocol,
    /// The name that the certificates must carry.
    server_name: String,
    addresses: ArcSwap<Vec<IpAddr>>,
}

/// The maximum number of upstreams of a rule, as in CoreDNS.
const MAX_TARGETS: usize = 15;

impl Targets {
    pub(super) fn new(config: &Forward) -> Self {
        Self(config.to.iter().map(|upstream| Source::new(upstream, config)).collect())
    }

    /// The names of upstreams, whose addresses have to be kept up to date.
    pub(super) fn hosts(&self) -> Vec<Arc<Host>> {
        let host = |source: &Source| match source {
            Source::Host(host) => Some(Arc::clone(host)),
            Source::Fixed(_) | Source::File(_) => None,
        };
        self.0.iter().filter_map(host).collect()
    }

    /// The current servers without duplicates and without this server's own addresses.
    pub(super) fn current(&mut self, own: &OwnAddresses) -> Vec<Target> {
        let mut targets = Vec::new();
        for target in self.0.iter_mut().flat_map(Source::current) {
            let is_self = target.protocol == UpstreamProtocol::Dns && own.contains(&target.address);
            if !is_self && !targets.contains(&target) {
                targets.push(target);
            }
        }
        targets.truncate(MAX_TARGETS);
        targets
    }
}

impl Source {
    fn new(upstream: &Upstream, config: &Forward) -> Self {
        match upstream {
            Upstream::ResolvConf(path) => Self::File(File::new(path)),
            Upstream::Server { address, protocol, server_name } => Self::Fixed(Target {
                address: *address,
                protocol: *protocol,
                server_name: server_name.clone().or_else(|| config.tls.server_name.clone()),
            }),
            Upstream::Host { name, port, protocol, server_name } => {
                let named = server_name.clone().or_else(|| config.tls.server_name.clone());
                Self::Host(Arc::new(Host::new(name, (*port, *protocol), named)))
            }
        }
    }

    fn current(&mut self) -> Vec<Target> {
        match self {
            Self::Fixed(target) => vec![target.clone()],
            Self::File(file) => file.current().into_iter().map(Target::plain).collect(),
            Self::Host(host) => host.targets(),
        }
    }
}

impl Host {
    /// `server_name`: the name that the certificates must carry, if not the host's.
    fn new(name: &LowerName, (port, protocol): (u16, UpstreamProtocol), server_name: Option<String>) -> Self {
        let name = Name::from(name);
        let host = name.to_ascii().trim_end_matches('.').to_owned();
        Self { server_name: server_name.unwrap_or(host), name, port, protocol, addresses: ArcSwap::default() }
    }

    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    pub(super) fn set_addresses(&self, addresses: Vec<IpAddr>) {
        self.addresses.store(Arc::new(addresses));
    }

    fn targets(&self) -> Vec<Target> {
        let target = |address: &IpAddr| Target {
            address: SocketAddr::new(*address, self.port),
            protocol: self.protocol,
            server_name: (self.protocol != UpstreamProtocol::Dns).then(|| self.server_name.clone()),
        };
        self.addresses.load().iter().map(target).collect()
    }
}

impl File {
    pub(super) fn new(path: &Path) -> Self {
        Self { listed: NameServers::of(path), behind_stub: NameServers::of(Path::new(RESOLVED)) }
    }

    pub(super) fn current(&mut self) -> Vec<SocketAddr> {
        let listed = self.listed.current();
        if !listed.iter().any(is_stub) {
            return listed.to_vec();
        }
        let behind = self.behind_stub.current();
        // Without a list of the stub's upstreams, the stub itself is used.
        let direct = listed.iter().filter(|address| behind.is_empty() || !is_stub(address));
        direct.chain(behind).copied().collect()
    }
}

impl NameServers {
    fn of(path: &Path) -> Self {
        Self { file: FileWatcher::new(path), name: path.display().to_string(), servers: Vec::new() }
    }

    fn current(&mut self) -> &[SocketAddr] {
        match self.file.changed() {
            None => {}
            Some(Ok(text)) => self.servers = name_servers(&text),
            Some(Err(error)) => warn!(file = self.name, %error, "cannot read the list of name servers"),
        }
        &self.servers
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn targets_change_with_their_file_and_exclude_this_server() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let fixed = Upstream::plain("192.0.2.9:5353".parse().unwrap());
        let to = vec![Upstream::ResolvConf(path.clone()), fixed.clone(), fixed];
        let mut targets = Targets::new(&Forward::to(to));
        let own = OwnAddresses::from(["10.96.0.10:53".parse().unwrap()]);
        let mut check = |name: &str, want: &[&str]| {
            let got: Vec<String> = targets.current(&own).iter().map(ToString::to_string).collect();
            assert_eq!(got, want, "{name}");
        };
        check("a missing file", &["192.0.2.9:5353"]);
        fs::write(&path, "nameserver 10.96.0.10\nnameserver 192.0.2.1\n").unwrap();
        check("a file", &["192.0.2.1:53", "192.0.2.9:5353"]);
        fs::remove_file(&path).unwrap();
        check("the file is gone", &["192.0.2.1:53", "192.0.2.9:5353"]);
        fs::write(&path, "nameserver fd00::1\n").unwrap();
        check("another file", &["[fd00::1]:53", "192.0.2.9:5353"]);
    }
}
