//! A server block with its plugins, ready to answer.

use std::{net::IpAddr, sync::Arc};

use hickory_server::proto::{op::Query, rr::RecordType};

use super::{local_plugins::LocalPlugins, random::below, transfer::Transfers};
use crate::{
    cluster::{
        authority::Authority,
        name::{Name, QueryName},
        selection::Selection,
        snapshot::Snapshot,
    },
    observe::metrics::{QueryMetrics, Refusals},
    plugins::{
        PluginContext, ServerBlock,
        acl::Acl,
        autopath::Autopath,
        chaos::Chaos,
        dns64::Dns64,
        dnstap::Taps,
        header::Header,
        k8s_external::External,
        loadbalance::{Balancer, Loadbalance},
        log::Log,
        nsid::Nsid,
        transfer::{self, Transfer},
        view::{Asked, View},
    },
    resolve::{
        forward::{Forwarder, ServerContext, TlsError},
        reply::Reply,
    },
    serve::shares::Shares,
};

/// Limit of pending requests, of all blocks together. Upstreams have limits of their own; this one bounds the memory.
pub const MAX_PENDING: usize = 8192;

/// A running server block.
#[derive(Debug)]
pub struct Block {
    /// The zones that it serves.
    pub zones: Vec<Name>,
    pub(super) local_plugins: Arc<LocalPlugins>,
    /// Those who may have zones.
    pub(super) transfers: Vec<Transfer>,
    pub(super) running: Arc<Transfers>,
    /// Asked after the local plugins that precede the cluster's data.
    external: Option<External>,
    pub(super) authority: Option<Authority>,
    pub(super) forwarder: Option<Forwarder>,
    /// The pending queries, per client.
    pub(super) shares: Arc<Shares>,
    pub(super) refusals: Refusals,
    /// Whether addresses and MX records are shuffled evenly.
    pub(super) shuffle: bool,
    /// The order of records beyond that.
    pub(super) balancer: Option<Arc<Balancer>>,
    /// The queries that it serves; `None`: all.
    view: Option<View>,
    pub(super) dns64: Option<Dns64>,
    pub(super) autopath: Option<Autopath>,
    pub(super) taps: Option<Arc<Taps>>,
    /// The port of the server.
    pub(super) server_port: u16,
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
        let view = block.view.as_ref().map_or("", |view| &view.name);
        context.metrics.enable(server, &label, view, &block.directives());
        let context = ServerContext { detect_loops: block.detect_loops, ..context.clone() };
        let cache = block.cache.as_ref().map(|cache| (cache, context.metrics.cache(server, &label)));
        let forwarder = Forwarder::start((&block.forwards, &block.alternates), cache, &context)?;
        let plugin_context = PluginContext { metrics: &context.metrics, server, zone: &label };
        let local_plugins = Arc::new(LocalPlugins::start(block, &plugin_context));
        if !block.transfers.is_empty() {
            let plugins = Arc::downgrade(&local_plugins);
            let serials = move || plugins.upgrade().map(|plugins| plugins.serials());
            tokio::spawn(transfer::notify(block.transfers.clone(), serials));
        }
        Ok(Self {
            metrics: context.metrics.queries_of_view(server, &label, view),
            zones,
            local_plugins,
            transfers: block.transfers.clone(),
            running: Arc::default(),
            external: block.external.clone(),
            authority: block.kubernetes.as_ref().map(|options| Authority::new(options, own_addresses)),
            forwarder: (!block.forwards.is_empty() || !block.alternates.is_empty()).then_some(forwarder),
            shares: Arc::new(Shares::new(Forwarder::max_in_flight(&block.forwards).min(MAX_PENDING))),
            refusals: context.metrics.refusals(),
            shuffle: block.loadbalance.as_ref().is_some_and(Loadbalance::shuffles),
            balancer: block.loadbalance.as_ref().and_then(Loadbalance::start).map(Arc::new),
            view: block.view.clone(),
            dns64: block.dns64,
            autopath: block.autopath.clone(),
            taps: (!block.taps.is_empty())
                .then(|| Arc::new(Taps::start(&block.taps, &context.metrics.taps_dropped()))),
            server_port: server.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or_default(),
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

    /// Whether a query is for this block, as far as its view says.
    pub(super) fn sees(&self, asked: &Asked<'_>) -> bool {
        self.view.as_ref().is_none_or(|view| view.serves(&Asked { server_port: self.server_port, ..*asked }))
    }

    /// The answer of what precedes the cluster's data, to a reply of at most `octets`.
    pub(super) fn answer_first(&self, question: &Query, snapshot: &Snapshot, octets: usize) -> Option<Reply> {
        self.local_plugins.answer(question).or_else(|| {
            let (external, authority) = self.external.as_ref().zip(self.authority.as_ref())?;
            external.answer(question, authority, snapshot, self.selection(octets))
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
            && !self.external.as_ref().is_some_and(|external| external.may_answer(name))
            && self.logs.is_empty()
            && self.acls.is_empty()
            && self.header.is_none()
            && self.nsid.is_none()
            && self.balancer.is_none()
            && self.dns64.is_none()
            && self.autopath.is_none()
            && self.taps.is_none()
    }
}
