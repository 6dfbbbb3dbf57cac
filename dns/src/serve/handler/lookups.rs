//! Answers that need questions of this server itself: `autopath`, `dns64` and `rewrite cname`.
//!
//! Such a question passes the plugins of its block, without rewrites and without further questions of this kind, so that
//! the work for one query is bounded. It is neither counted nor logged.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use hickory_server::proto::{
    op::Query,
    rr::{Name, RecordType},
};

use super::{block::Block, response::Response};
use crate::{
    cluster::{name::QueryName, snapshot::Published},
    observe::metrics::Plugin,
    plugins::{
        autopath::{Autopath, Pod},
        dns64::Dns64,
        view::Asked,
    },
    resolve::reply::Reply,
};

/// What is to be looked up for a query.
pub struct Lookups {
    dns64: Option<Dns64>,
    /// The names of the search list, if the question is the first of it.
    names: Option<Vec<Name>>,
}

/// The server, as far as it answers questions of its own.
pub trait SelfLookup: Sync {
    /// The answer of a block, in the course of answering `response`.
    fn lookup<'a>(
        &'a self,
        question: &'a Query,
        response: &'a Response,
        block: &'a Arc<Block>,
    ) -> BoxFuture<'a, Reply>;

    /// The block with the longest matching zone whose view, if it has one, includes the query.
    fn block_of(&self, asked: &Asked<'_>) -> Option<&Arc<Block>>;
}

impl Lookups {
    /// `None`: nothing beyond the question.
    pub(super) fn new(
        question: &Query,
        response: &Response,
        block: &Block,
        published: &Published,
    ) -> Option<Self> {
        let dns64 = block.dns64.filter(|dns64| dns64.concerns(question, response.client()));
        let names = block.autopath.as_ref().and_then(|autopath| {
            autopath.names(question, || {
                let zone = block.authority.as_ref()?.zone_of(&QueryName::from(&question.name))?;
                let snapshot = published.load();
                let namespace = snapshot.namespace_of_pod(response.client())?.to_owned();
                Some(Pod { namespace, zone: zone.name.to_hickory() })
            })
        });
        let has_cnames = response.rewritten().is_some_and(|rewritten| rewritten.has_cnames());
        (dns64.is_some() || names.is_some() || has_cnames).then_some(Self { dns64, names })
    }

    pub(super) async fn reply(
        &self,
        server: &impl SelfLookup,
        question: &Query,
        response: &Response,
        block: &Arc<Block>,
    ) -> Reply {
        let reply = self.listed(server, question, response, block).await;
        let reply = match self.dns64.filter(|dns64| dns64.replaces(&reply)) {
            None => reply,
            Some(dns64) => {
                let of_a = Query::query(question.name.clone(), RecordType::A);
                dns64.synthesized(&reply, self.listed(server, &of_a, response, block).await)
            }
        };
        retargeted(reply, server, question, response).await
    }

    /// The answer for the first name of the search list that exists. If none does, it is that for the question.
    async fn listed(
        &self,
        server: &impl SelfLookup,
        question: &Query,
        response: &Response,
        block: &Arc<Block>,
    ) -> Reply {
        let first = server.lookup(question, response, block).await;
        let Some(names) = self.names.as_ref().filter(|_| Autopath::goes_on(&first)) else { return first };
        // The first name of the list is that of the question.
        for name in names.iter().skip(1) {
            let next = Query::query(name.clone(), question.query_type);
            let reply = server.lookup(&next, response, block).await;
            if !Autopath::goes_on(&reply) {
                return Autopath::as_alias(question, reply);
            }
        }
        first
    }
}

/// Replaces the target of a CNAME by a rule, with the records of the new target. A target that cannot be resolved changes
/// nothing.
async fn retargeted(
    mut reply: Reply,
    server: &impl SelfLookup,
    question: &Query,
    response: &Response,
) -> Reply {
    let mut answers = reply.answers.clone();
    let Some(target) = response.rewritten().and_then(|rewritten| rewritten.retarget(&mut answers)) else {
        return reply;
    };
    let behind = Query::query(target, question.query_type);
    let name = QueryName::from(&behind.name);
    let Some(block) = server.block_of(&response.asked(&name)) else { return reply };
    let found = server.lookup(&behind, response, block).await;
    if found.is_conclusive() {
        reply.answers = answers;
        reply.answers.extend(found.answers);
        (reply.truncated, reply.plugin) = (found.truncated, Plugin::Rewrite);
    }
    reply
}
