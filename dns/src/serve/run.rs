//! The start of a server from a configuration.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroUsize,
    sync::Arc,
};

use arc_swap::ArcSwap;
use tracing::warn;

use crate::{
    cluster::snapshot::Published,
    config::{BindAddress, Listen, ServerProtocol},
    interfaces,
    plugins::{Config, ServerBlock},
    resolve::forward::{OwnAddresses, ServerContext, TlsError},
    serve::{
        handler::{Block, Handler},
        rate_limit::RateLimiter,
        server::{Admission, ListenError, Listener, Security, Server, ServerCertificate},
    },
};

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot list the addresses of this machine")]
    Addresses(#[source] std::io::Error),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot bind to interface {0}: it does not exist or has no address")]
    Interface(String),
    #[error("no server block has a listening address")]
    Nowhere,
    #[error("this node has no address to listen at, and --dns-listen names none")]
    NoNodeAddress,
}

/// Where to listen, apart from the configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListenAt<'a> {
    /// Replaces the addresses of the server blocks, unless empty.
    pub listen: &'a [SocketAddr],
    /// Replaces wildcards; `None` binds them.
    pub node: Option<&'a [IpAddr]>,
}

/// The addresses that need not be bound at a start.
#[derive(Clone, Copy, Debug)]
pub enum MayFail<'a> {
    All,
    /// All but one of them, whichever it is.
    AllButOne,
    /// These.
    Only(&'a [SocketAddr]),
}

/// A running server and the addresses that could not be bound.
#[derive(Debug)]
pub struct Started {
    pub server: Server,
    pub unbound: Vec<(SocketAddr, ListenError)>,
}

/// Starts the servers of `config` at all addresses, as [`start_partially`] does.
pub fn start(
    config: &Config,
    listen: &[SocketAddr],
    published: &Arc<Published>,
    context: &ServerContext,
) -> Result<Server, StartError> {
    let listen = ListenAt { listen, node: None };
    let started = start_partially(config, listen, published, context, MayFail::Only(&[]))?;
    Ok(started.server)
}

/// Starts the servers of `config`. Must be called within a runtime; its threads are the workers.
///
/// All checks that can fail come before the sockets are bound, as far as possible: a running server may share the
/// addresses, and requests queued on a socket that is closed again are lost.
pub fn start_partially(
    config: &Config,
    listen: ListenAt<'_>,
    published: &Arc<Published>,
    context: &ServerContext,
    may_fail: MayFail<'_>,
) -> Result<Started, StartError> {
    let served = blocks_by_endpoint(config, listen)?;
    let before = context.own.load_full();
    // A running server keeps its own list.
    let own = reachable_addresses(served.keys().map(|endpoint| endpoint.address))?;
    let ours = ServerContext { own: Arc::new(ArcSwap::new(set(&own))), ..context.clone() };
    let blocks = start_blocks(&served, &own, &ours)?;
    let Bound { listeners, unbound } = bind(served.keys().copied(), &before, may_fail)?;
    let own = reachable_addresses(listeners.iter().map(|(_, listener)| listener.address))?;
    ours.own.store(set(&own));
    context.own.store(set(&own));
    let mut serving = Vec::new();
    for (requested, listener) in listeners {
        let blocks = served[&requested].iter().map(|block| Arc::clone(&blocks[&block_key(block, requested)]));
        let dropped = context.metrics.queries(&server_name(requested), "dropped");
        let security = security(requested, &served[&requested], context)?;
        serving.push((listener, Handler::new(blocks.collect(), published.clone(), dropped), security));
    }
    let local = interfaces::addresses().map_err(StartError::Addresses)?;
    let own = local.into_iter().collect();
    let (admitted, local_networks) = (context.admitted.clone(), context.local_networks.clone());
    let admission = Admission::new(admitted, local_networks, own, Arc::clone(published));
    let limiter = context.rate_limit.map(RateLimiter::new);
    let server = Server::start(serving, (admission, limiter), &context.metrics.losses(), &context.heartbeat);
    Ok(Started { server, unbound })
}

/// The TLS of an endpoint, by the first of its blocks that has a certificate.
fn security(
    endpoint: Endpoint,
    blocks: &[&ServerBlock],
    context: &ServerContext,
) -> Result<Option<Security>, TlsError> {
    let tls = blocks.iter().find_map(|block| block.tls.as_ref());
    let Some(tls) = tls.filter(|_| endpoint.protocol != ServerProtocol::Dns) else { return Ok(None) };
    let failures = context.metrics.certificate_failures();
    let certificate = ServerCertificate::start(tls, endpoint.protocol, failures)?;
    Ok(Some(Security { certificate, is_https: endpoint.protocol == ServerProtocol::Https }))
}

/// The key of a running block: a block with a protocol and port. Its addresses share one instance, hence one cache.
type BlockKey = (*const ServerBlock, ServerProtocol, u16);

fn block_key(block: &ServerBlock, endpoint: Endpoint) -> BlockKey {
    (std::ptr::from_ref(block), endpoint.protocol, endpoint.address.port())
}

fn start_blocks(
    served: &BlocksByEndpoint<'_>,
    own: &[SocketAddr],
    context: &ServerContext,
) -> Result<HashMap<BlockKey, Arc<Block>>, TlsError> {
    let hosts: Vec<IpAddr> = own.iter().map(SocketAddr::ip).collect();
    let mut ready = HashMap::new();
    for (endpoint, blocks) in served {
        for block in blocks {
            if let Entry::Vacant(free) = ready.entry(block_key(block, *endpoint)) {
                free.insert(Arc::new(Block::start(block, &server_name(*endpoint), &hosts, context)?));
            }
        }
    }
    Ok(ready)
}

/// The metrics label `server`.
fn server_name(endpoint: Endpoint) -> String {
    format!("{}://:{}", endpoint.protocol.name(), endpoint.address.port())
}

/// An address with the protocol that is served there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Endpoint {
    address: SocketAddr,
    protocol: ServerProtocol,
}

/// Listeners and failures by the requested address.
struct Bound {
    listeners: Vec<(Endpoint, Listener)>,
    unbound: Vec<(SocketAddr, ListenError)>,
}

/// Binds the listeners. Addresses that are served already (`before`) hardly fail, so they come last.
fn bind(
    endpoints: impl Iterator<Item = Endpoint>,
    before: &OwnAddresses,
    may_fail: MayFail<'_>,
) -> Result<Bound, StartError> {
    let is_served = |Endpoint { address, .. }: &Endpoint| {
        let is_it = |served: &SocketAddr| address.ip().is_unspecified() || served.ip() == address.ip();
        before.iter().any(|served| served.port() == address.port() && is_it(served))
    };
    let (last, first): (Vec<_>, Vec<_>) = endpoints.partition(is_served);
    let workers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let (mut listeners, mut unbound) = (Vec::new(), Vec::new());
    for endpoint in first.into_iter().chain(last) {
        let address = endpoint.address;
        let bound = match endpoint.protocol {
            ServerProtocol::Dns => Listener::bind(address, workers),
            ServerProtocol::Tls | ServerProtocol::Https => Listener::bind_encrypted(address, workers),
        };
        match bound {
            Ok(listener) => listeners.push((endpoint, listener)),
            // Two blocks may name all addresses of a family that this machine does not have.
            Err(error) if address.ip().is_unspecified() && error.is_family_missing() => {
                warn!(error = %error, "a family of addresses is not served");
            }
            Err(error) => match may_fail {
                MayFail::Only(addresses) if !addresses.contains(&address) => return Err(error.into()),
                MayFail::Only(_) | MayFail::All | MayFail::AllButOne => unbound.push((address, error)),
            },
        }
    }
    match may_fail {
        MayFail::AllButOne if listeners.is_empty() => {
            Err(unbound.pop().map_or(StartError::Nowhere, |(_, error)| error.into()))
        }
        MayFail::Only(_) | MayFail::All | MayFail::AllButOne => Ok(Bound { listeners, unbound }),
    }
}

fn set(addresses: &[SocketAddr]) -> Arc<OwnAddresses> {
    Arc::new(addresses.iter().copied().collect())
}

/// The addresses at which `start` would listen for UDP and TCP, with wildcards expanded to the addresses of this machine.
pub fn addresses(config: &Config, listen: ListenAt<'_>) -> Result<Vec<SocketAddr>, StartError> {
    let served = blocks_by_endpoint(config, listen)?.into_keys();
    reachable_addresses(served.filter(|one| one.protocol == ServerProtocol::Dns).map(|one| one.address))
}

/// The blocks of each endpoint.
type BlocksByEndpoint<'c> = BTreeMap<Endpoint, Vec<&'c ServerBlock>>;

/// `listen`, unless empty, replaces the endpoints for UDP and TCP.
fn blocks_by_endpoint<'c>(
    config: &'c Config,
    ListenAt { listen, node }: ListenAt<'_>,
) -> Result<BlocksByEndpoint<'c>, StartError> {
    let mut served = BlocksByEndpoint::new();
    for block in &config.servers {
        let mut endpoints = block_endpoints(block)?;
        if !listen.is_empty() {
            let is_plain = |one: &Endpoint| one.protocol == ServerProtocol::Dns;
            let has_plain = endpoints.extract_if(.., |one| is_plain(one)).count() > 0;
            let plain = |address: &SocketAddr| Endpoint { address: *address, protocol: ServerProtocol::Dns };
            endpoints.extend(listen.iter().filter(|_| has_plain).map(plain));
        }
        let specific = |one: Endpoint| {
            specific(one.address, node).into_iter().map(move |address| Endpoint { address, ..one })
        };
        let mut endpoints: Vec<_> = endpoints.into_iter().flat_map(specific).collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        endpoints.into_iter().for_each(|endpoint| served.entry(endpoint).or_default().push(block));
    }
    match node {
        _ if !served.is_empty() => Ok(served),
        Some(_) if !config.servers.is_empty() => Err(StartError::NoNodeAddress),
        Some(_) | None => Err(StartError::Nowhere),
    }
}

/// A wildcard stands for the addresses of the node, if these are given.
fn specific(address: SocketAddr, node: Option<&[IpAddr]>) -> Vec<SocketAddr> {
    let Some(node) = node.filter(|_| address.ip().is_unspecified()) else { return vec![address] };
    let family = node.iter().filter(|own| own.is_ipv4() == address.is_ipv4());
    family.map(|own| SocketAddr::new(*own, address.port())).collect()
}

fn block_endpoints(block: &ServerBlock) -> Result<Vec<Endpoint>, StartError> {
    let mut hosts: Vec<SocketAddr> = Vec::new();
    for bind in &block.bind {
        match bind {
            BindAddress::Address(address) => hosts.push((*address, 0).into()),
            BindAddress::Interface(name) => {
                let local = interfaces::addresses_of(name).map_err(StartError::Addresses)?;
                if local.is_empty() {
                    return Err(StartError::Interface(name.clone()));
                }
                hosts.extend(local);
            }
        }
    }
    if hosts.is_empty() {
        hosts = vec![(Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::UNSPECIFIED, 0).into()];
    }
    let at_host = |mut address: SocketAddr, listen: &Listen| {
        address.set_port(listen.port);
        Endpoint { address, protocol: listen.protocol }
    };
    let listens = block.listens.iter();
    Ok(listens.flat_map(|listen| hosts.iter().map(move |host| at_host(*host, listen))).collect())
}

/// The addresses at which clients reach the listeners: a wildcard expands to every address of this machine.
fn reachable_addresses(listening: impl Iterator<Item = SocketAddr>) -> Result<Vec<SocketAddr>, StartError> {
    let local = interfaces::addresses().map_err(StartError::Addresses)?;
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
