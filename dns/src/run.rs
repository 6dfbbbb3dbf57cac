//! From a configuration to a server that answers.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroUsize,
    sync::Arc,
};

use crate::{
    config::{BindAddress, Config, ServerBlock, Transport},
    forward::{Surroundings, TlsError},
    handler::{Block, Handler},
    server::{ListenError, Listener, Server, local_addresses},
    snapshot::Published,
};

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot tell the addresses of this machine")]
    Addresses(#[source] std::io::Error),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot bind to the addresses of interface {0}: it has none, or is not there")]
    Interface(String),
    #[error("a block for {0} wants to serve over TLS, which is not supported: list it without `tls://`")]
    TlsServer(String),
    #[error("no block of the configuration listens anywhere")]
    Nowhere,
}

/// Starts what `config` says. `listen`, where it is not empty, replaces the addresses that the blocks name. Must be called
/// within a runtime; its threads are the workers.
pub fn start(
    config: &Config,
    listen: &[SocketAddr],
    published: &Arc<Published>,
    surroundings: &Surroundings,
) -> Result<Server, StartError> {
    let workers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let mut listeners = Vec::new();
    for (address, blocks) in served(config, listen)? {
        // Two blocks may name an address that this machine does not have, as IPv6 where it is switched off.
        match Listener::bind(address, workers) {
            Ok(listener) => listeners.push((listener, blocks)),
            Err(error) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
                tracing::warn!(error = %error, "not served over IPv6");
            }
            Err(error) => return Err(error.into()),
        }
    }
    let own = own_addresses(listeners.iter().map(|(listener, _)| listener.address))?;
    surroundings.own.store(Arc::new(own.iter().copied().collect()));
    let hosts: Vec<IpAddr> = own.iter().map(SocketAddr::ip).collect();
    let mut serving = Vec::new();
    // A block is made ready once for a port: what it remembers serves every address.
    let mut ready: HashMap<(*const ServerBlock, u16), Arc<Block>> = HashMap::new();
    for (listener, blocks) in listeners {
        let port = listener.address.port();
        let server = format!("dns://:{port}");
        let start = |block: &ServerBlock| {
            Ok(match ready.entry((std::ptr::from_ref(block), port)) {
                Entry::Occupied(started) => started.get().clone(),
                Entry::Vacant(free) => {
                    free.insert(Arc::new(Block::start(block, &server, &hosts, surroundings)?)).clone()
                }
            })
        };
        let blocks = blocks.into_iter().map(start).collect::<Result<_, TlsError>>()?;
        let dropped = surroundings.metrics.queries(&server, "dropped");
        serving.push((listener, Handler::new(blocks, published.clone(), dropped)));
    }
    Ok(Server::start(serving, &surroundings.metrics.losses(), &surroundings.pulse))
}

/// Where `start` would listen, each address of this machine for itself.
pub fn addresses(config: &Config, listen: &[SocketAddr]) -> Result<Vec<SocketAddr>, StartError> {
    own_addresses(served(config, listen)?.into_keys())
}

/// Which blocks answer at which address.
fn served<'c>(
    config: &'c Config,
    listen: &[SocketAddr],
) -> Result<BTreeMap<SocketAddr, Vec<&'c ServerBlock>>, StartError> {
    let mut served: BTreeMap<SocketAddr, Vec<&ServerBlock>> = BTreeMap::new();
    for block in &config.servers {
        let mut addresses = if listen.is_empty() { block_addresses(block)? } else { listen.to_vec() };
        addresses.sort_unstable();
        addresses.dedup();
        addresses.into_iter().for_each(|address| served.entry(address).or_default().push(block));
    }
    if served.is_empty() { Err(StartError::Nowhere) } else { Ok(served) }
}

fn block_addresses(block: &ServerBlock) -> Result<Vec<SocketAddr>, StartError> {
    let mut hosts: Vec<IpAddr> = Vec::new();
    for bind in &block.bind {
        match bind {
            BindAddress::Address(address) => hosts.push(*address),
            BindAddress::Interface(name) => {
                let local = local_addresses(Some(name)).map_err(StartError::Addresses)?;
                if local.is_empty() {
                    return Err(StartError::Interface(name.clone()));
                }
                hosts.extend(local);
            }
        }
    }
    if hosts.is_empty() {
        hosts = vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    }
    let mut addresses = Vec::new();
    for listen in &block.listens {
        match listen.transport {
            Transport::Dns => addresses.extend(hosts.iter().map(|host| SocketAddr::new(*host, listen.port))),
            Transport::Tls => return Err(StartError::TlsServer(listen.zone.to_string())),
        }
    }
    Ok(addresses)
}

/// Where clients reach what listens: a wildcard stands for every address of this machine.
fn own_addresses(listening: impl Iterator<Item = SocketAddr>) -> Result<Vec<SocketAddr>, StartError> {
    let local = local_addresses(None).map_err(StartError::Addresses)?;
    let mut own = Vec::new();
    for address in listening {
        if !address.ip().is_unspecified() {
            own.push(address);
            continue;
        }
        let family = local.iter().filter(|local| local.is_ipv4() == address.is_ipv4());
        own.extend(family.map(|local| SocketAddr::new(*local, address.port())));
    }
    own.sort_unstable();
    own.dedup();
    Ok(own)
}
