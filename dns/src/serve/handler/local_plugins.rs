//! The local plugins of a block, before `kubernetes` and `forward`, in CoreDNS's order of plugins.

use hickory_server::proto::{
    op::{Query, ResponseCode},
    rr::{RData, Record, RecordType, rdata::HINFO},
};

use crate::{
    cluster::name::QueryName,
    config::{Rewrite, ServerBlock, Template},
    observe::metrics::{Metrics, TemplateMetrics},
    plugins::{
        hosts::Hosts,
        local,
        rewrite::{Rewritten, rewritten},
        template::{self, Made},
    },
    resolve::reply::{Origin, Reply},
};

#[derive(Debug)]
pub struct LocalPlugins {
    local: bool,
    minimal_any: bool,
    rewrites: Vec<Rewrite>,
    templates: Vec<Template>,
    hosts: Option<Hosts>,
    metrics: TemplateMetrics,
}

/// The TTL of the answer to ANY; the number of the RFC (RFC 8482, section 4.2).
const ANY_TTL: u32 = 8482;

impl LocalPlugins {
    /// Must be called within a runtime, as [`Hosts::start`].
    pub fn start(block: &ServerBlock, metrics: &Metrics, server: &str, zone: &str) -> Self {
        Self {
            local: block.local,
            minimal_any: block.minimal_any,
            rewrites: block.rewrites.clone(),
            templates: block.templates.clone(),
            hosts: block.hosts.as_ref().map(|hosts| Hosts::start(hosts, metrics.hosts())),
            metrics: metrics.templates(server, zone),
        }
    }

    /// Whether no local plugin applies to the query. `false` if unknown.
    pub fn never_answers(&self, name: &QueryName, qtype: RecordType) -> bool {
        let is_empty = self.rewrites.is_empty() && self.templates.is_empty() && self.hosts.is_none();
        let may_be_local = self.local && local::may_answer(name);
        is_empty && !may_be_local && !(self.minimal_any && qtype == RecordType::ANY)
    }

    pub fn rewritten(&self, question: &Query) -> Option<Rewritten> {
        if self.rewrites.is_empty() { None } else { rewritten(&self.rewrites, question) }
    }

    pub fn answer(&self, question: &Query) -> Option<Reply> {
        if self.minimal_any && question.query_type() == RecordType::ANY {
            return Some(obsolete(question));
        }
        let local = if self.local { local::answer(question) } else { None };
        local
            .or_else(|| self.filled_in(question))
            .or_else(|| self.hosts.as_ref().and_then(|hosts| hosts.answer(question)))
    }

    fn filled_in(&self, question: &Query) -> Option<Reply> {
        let Made { reply, unmade } = template::answer(&self.templates, question)?;
        self.metrics.matched(question, unmade);
        Some(reply)
    }
}

fn obsolete(question: &Query) -> Reply {
    let data = HINFO::new("ANY obsoleted".to_owned(), "See RFC 8482".to_owned());
    let answers = vec![Record::from_rdata(question.name().clone(), ANY_TTL, RData::HINFO(data))];
    Reply { answers, ..Reply::from_plugin(ResponseCode::NoError, Origin::Any) }
}
