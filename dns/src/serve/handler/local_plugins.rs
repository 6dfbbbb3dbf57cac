//! The local plugins of a block, which precede `kubernetes` and `forward`, and its rewrites.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use hickory_server::proto::{
    op::Query,
    rr::{LowerName, RecordType},
};

use crate::{
    cluster::name::QueryName,
    plugins::{
        LocalPlugin, PluginContext, ServerBlock,
        rewrite::{InvalidName, Rewrite, Rewritten, Sender, rewritten},
    },
    resolve::reply::Reply,
    zone_data::Zone,
};

#[derive(Debug)]
pub struct LocalPlugins {
    rewrites: Vec<Rewrite>,
    /// In order of evaluation.
    chain: Vec<Box<dyn LocalPlugin>>,
    /// Those that follow the cluster's data.
    last: Vec<Box<dyn LocalPlugin>>,
}

impl LocalPlugins {
    /// Must be called within a runtime: some plugins watch files.
    pub fn start(block: &ServerBlock, context: &PluginContext<'_>) -> Self {
        let plugins = block.local_plugins(context);
        let (last, chain) = plugins.into_iter().partition(|plugin| plugin.follows_cluster());
        Self { rewrites: block.rewrites.clone(), chain, last }
    }

    /// Whether neither a rewrite nor a plugin can apply to the query.
    pub fn never_answers(&self, name: &QueryName, qtype: RecordType) -> bool {
        self.rewrites.is_empty() && !self.chain.iter().any(|plugin| plugin.may_answer(name, qtype))
    }

    /// The rewritten query. `None`: no rule matches.
    pub fn rewritten(&self, question: &Query, sender: &Sender<'_>) -> Option<Result<Rewritten, InvalidName>> {
        if self.rewrites.is_empty() { None } else { rewritten(&self.rewrites, question, sender) }
    }

    pub fn answer(&self, question: &Query) -> Option<Reply> {
        self.chain.iter().find_map(|plugin| plugin.answer(question))
    }

    /// The zone with this origin.
    pub fn zone(&self, origin: &LowerName) -> Option<Arc<Zone>> {
        self.chain.iter().chain(&self.last).find_map(|plugin| plugin.zone(origin))
    }

    /// Notes a notification. `None`: the zone is of no other server.
    pub fn notified(&self, origin: &LowerName, client: IpAddr) -> Option<bool> {
        self.last.iter().find_map(|plugin| plugin.notified(origin, client))
    }

    /// The serials of all zones.
    pub fn serials(&self) -> BTreeMap<LowerName, u32> {
        self.chain.iter().chain(&self.last).flat_map(|plugin| plugin.serials()).collect()
    }

    /// The answer of a plugin that follows the cluster's data, if these have none.
    pub fn answer_last(&self, question: &Query, wants_dnssec: bool) -> Option<Reply> {
        self.last.iter().find_map(|plugin| {
            if wants_dnssec { plugin.answer_with_dnssec(question) } else { plugin.answer(question) }
        })
    }
}
