//! A server block with its plugins, ready to answer.

use std::{net::IpAddr, sync::Arc};

use hickory_server::proto::rr::RecordType;

use super::{local_plugins::LocalPlugins, random::below};
use crate::{
    cluster::{
        authority::Authority,
        name::{Name, QueryName},
        selection::Selection,
    },
    observe::metrics::{QueryMetrics, Refusals},
    plugins::{PluginContext, ServerBlock, acl::Acl, chaos::Chaos, header::Header, log::Log, nsid::Nsid},
    resolve::forward::{Forwarder, ServerContext, TlsError},
    serve::shares::Shares,
};

/// Limit of pending requests, of all blocks together. Upstreams have limits of their own; this one bounds the memory.
pub const MAX_PENDING: usize = 8192;

/// A running server block.
#[derive(Debug)]
pub struct Block {
    /// The zones that it serves.
    pub zones: Vec<Name>,
    pub(super) local_plugins: LocalPlugins,
    pub(super) authority: Option<Authority>,
    pub(super) forwarder: Option<Forwarder>,
    /// The pending queries, per client.
    pub(super) shares: Arc<Shares>,
    pub(super) refusals: Refusals,
    pub(super) shuffle: bool,
    pub(super) minimal: bool,
    pub(super) acls: Vec<Acl>,
    pub(super) chaos: Option<Chaos>,
    /// `None` if it changes nothing.
    pub(super) header: Option<Arc<Header>>,
    /// The identifier of the server.
    pub(super) nsid: Option<Vec<u8>>,
    pub(super) whoami: bool,
    pub(super) logs: Vec<Arc<Log>>,
    pub(super) max_udp_payload: u16,
    pub(super) metrics: QueryMetrics,
}

impl Block {
    /// Must be called within a runtime, as [`Forwarder::start`]. `server` is the metrics label: `dns://:53`.
    pub fn start(
        block: &ServerBlock,
        server: &str,
        own_addresses: &[IpAddr],
        context: &ServerContext,
    ) -> Result<Self, TlsError> {
        let zones: Vec<Name> = block.listens.iter().map(|listen| Name::from(&*listen.zone)).collect();
        let label = zones.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        context.metrics.enable(server, &label, &block.directives());
        let context = ServerContext { detect_loops: block.detect_loops, ..context.clone() };
        let cache = block.cache.as_ref().map(|cache| (cache, context.metrics.cache(server, &label)));
        let forwarder = Forwarder::start(&block.forwards, cache, &context)?;
        let plugin_context = PluginContext { metrics: &context.metrics, server, zone: &label };
        Ok(Self {
            metrics: context.metrics.queries(server, &label),
            zones,
            local_plugins: LocalPlugins::start(block, &plugin_context),
            authority: block.kubernetes.as_ref().map(|options| Authority::new(options, own_addresses)),
            forwarder: (!block.forwards.is_empty()).then_some(forwarder),
            shares: Arc::new(Shares::new(Forwarder::max_in_flight(&block.forwards).min(MAX_PENDING))),
            refusals: context.metrics.refusals(),
            shuffle: block.shuffle,
            minimal: block.minimal,
            acls: block.acls.clone(),
            chaos: block.chaos.clone(),
            header: (!block.header.is_empty()).then(|| Arc::new(block.header.clone())),
            nsid: block.nsid.as_ref().map(Nsid::octets),
            whoami: block.whoami,
            logs: block.logs.iter().cloned().map(Arc::new).collect(),
            max_udp_payload: block.max_udp_payload,
        })
    }

    /// The selection of records for a reply of at most `octets`: from a random position, unless the order of records
    /// is fixed.
    pub(super) fn selection(&self, octets: usize) -> Selection {
        let position = if self.shuffle { below(1 << 32) } else { 0 };
        Selection { octets, position: u32::try_from(position).unwrap_or_default() }
    }

    /// Whether the fast path applies: no local plugin, no query log, and no directive for single queries or replies.
    pub(super) fn takes_fast_path(&self, name: &QueryName, qtype: RecordType) -> bool {
        self.local_plugins.never_answers(name, qtype)
            && self.logs.is_empty()
            && self.acls.is_empty()
            && self.header.is_none()
            && self.nsid.is_none()
    }
}
