//! The handler: a request in, a reply out. This file is the slow path, with hickory's messages.
//!
//! A query that can be answered from memory is answered synchronously; one that needs an upstream is returned as
//! [`Pending`], so that the caller, which reads the socket, limits the number of pending queries. The handler has
//! no sockets.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use hickory_server::proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{DNSClass, LowerName, Name as HickoryName, RecordType, rdata::opt::EdnsCode},
};

use crate::{
    cluster::{
        answer::{Answer, Resolution, answer},
        authority::Authority,
        name::{Name, QueryName},
        snapshot::{Published, Snapshot},
        topic::Topic,
    },
    observe::metrics::{Plugin, QueryMetrics, Refusal},
    plugins::{
        acl::{self, Action},
        rewrite::{InvalidName, Sender},
        transfer as transfers,
        view::Asked,
        whoami,
    },
    resolve::{forward::Forwarder, reply::Reply},
    serve::shares::Share,
};

mod block;
mod client;
mod fast_path;
mod local_plugins;
mod lookups;
mod random;
mod records;
mod response;
mod transfer;
mod wire;

pub use block::{Block, MAX_PENDING};
pub use client::Client;
use lookups::{Lookups, SelfLookup};
pub use random::below;
use response::Response;
pub use transfer::Transfer;
use transfer::{ClusterZone, Transferred};
pub use wire::{encode, min_ttl};

/// Limit of CNAME steps from one plugin or block to another.
const MAX_CHAIN: usize = 4;

/// The result of a request.
pub enum Handled {
    /// Not a query: the sender does not expect a reply, or must not get one.
    Dropped,
    Reply(Vec<u8>),
    /// An upstream has to be queried.
    Pending(Box<Pending>),
    /// A zone, only over TCP and TLS.
    Transfer(Box<Transfer>),
}

/// A request that waits for an upstream.
pub struct Pending {
    response: Response,
    question: Query,
    block: Arc<Block>,
    work: Work,
    _share: Share,
}

/// What is left to do for a request.
enum Work {
    /// To query the upstreams of the block.
    Forward,
    /// To look up names by this server itself.
    LookUp(Lookups, Handler),
}

/// The blocks that listen at one address, and the snapshot of the cluster.
#[derive(Clone, Debug)]
pub struct Handler {
    blocks: Arc<[Arc<Block>]>,
    published: Arc<Published>,
    /// Counters of the requests that no block matches.
    dropped: QueryMetrics,
}

impl Handler {
    pub fn new(blocks: Vec<Arc<Block>>, published: Arc<Published>, dropped: QueryMetrics) -> Self {
        Self { blocks: blocks.into(), published, dropped }
    }

    /// Handles a request. A panic is answered with SERVFAIL and counted, and does not affect later requests.
    pub fn handle(&self, request: &[u8], client: Client) -> Handled {
        self.catch_panic(request, || self.handle_one(request, client))
    }

    fn catch_panic(&self, request: &[u8], handle: impl FnOnce() -> Handled) -> Handled {
        // Unwind safe: all state of `self` is immutable, atomic, or locked for whole operations.
        match catch_unwind(AssertUnwindSafe(handle)) {
            Ok(handled) => handled,
            Err(_) => {
                self.dropped.count_panic();
                let header = wire::Header::parse(request);
                header.map_or(Handled::Dropped, |header| {
                    Handled::Reply(wire::refusal(request, header, ResponseCode::ServFail))
                })
            }
        }
    }

    fn handle_one(&self, request: &[u8], client: Client) -> Handled {
        let started = Instant::now();
        match self.fast_path(request, client, started) {
            Some(reply) => Handled::Reply(reply),
            None => self.slow_path(request, client, started),
        }
    }

    fn slow_path(&self, request: &[u8], client: Client, started: Instant) -> Handled {
        let Some(header) = wire::Header::parse(request) else { return Handled::Dropped };
        if header.is_response() {
            return Handled::Dropped;
        }
        if header.opcode() == u8::from(OpCode::Notify) && header.questions == 1 {
            return self.notified(request, header, client, started);
        }
        match self.question(request, header) {
            Ok(message) => {
                let mut response = Response::to(&message, client, started);
                response.size = request.len();
                if self.blocks.iter().any(|block| block.taps.is_some()) {
                    response.request = request.into();
                }
                self.answer(&message, response)
            }
            Err(rcode) => {
                self.dropped.record_client(client.address, Topic::Invalid, rcode, started.elapsed());
                Handled::Reply(wire::refusal(request, header, rcode))
            }
        }
    }

    /// Answers a notification of a zone (RFC 1996): that of a primary, and no other.
    fn notified(&self, request: &[u8], header: wire::Header, client: Client, started: Instant) -> Handled {
        let refuse = |rcode| {
            self.dropped.record_client(client.address, Topic::Invalid, rcode, started.elapsed());
            Handled::Reply(wire::refusal(request, header, rcode))
        };
        let Ok(message) = Message::from_vec(request) else { return refuse(ResponseCode::FormErr) };
        let question = &message.queries[0];
        let response = Response::to(&message, client, started);
        let name = QueryName::from(&question.name);
        let origin = LowerName::from(&question.name);
        let Some(block) = self.block_of(&response.asked(&name)) else { return refuse(ResponseCode::NotAuth) };
        match block.local_plugins.notified(&origin, client.address) {
            None => refuse(ResponseCode::NotImp),
            Some(false) => {
                block.refusals.count(Refusal::Notify);
                Handled::Dropped
            }
            Some(true) => {
                let mut reply = Message::response(message.metadata.id, OpCode::Notify);
                reply.metadata.authoritative = true;
                reply.queries.clone_from(&message.queries);
                Handled::Reply(wire::encode(reply, response.limit()))
            }
        }
    }

    /// Decodes a query. Errors: the rcode of the refusal.
    fn question(&self, request: &[u8], header: wire::Header) -> Result<Message, ResponseCode> {
        if header.opcode() != u8::from(OpCode::Query) {
            return Err(ResponseCode::NotImp);
        }
        // Checked before decoding, which would allocate for as many questions as the header claims.
        if header.questions != 1 {
            return Err(ResponseCode::FormErr);
        }
        let message = Message::from_vec(request).map_err(|_| ResponseCode::FormErr)?;
        if message.answers.is_empty() { Ok(message) } else { Err(ResponseCode::FormErr) }
    }

    fn answer(&self, request: &Message, mut response: Response) -> Handled {
        let question = &request.queries[0];
        if response.has_unsupported_edns_version() {
            return Handled::Reply(response.refuse(ResponseCode::BADVERS, &self.dropped));
        }
        let name = QueryName::from(&question.name);
        if is_served(question) {
            response.topic = Topic::of_foreign_name(&name);
        }
        let Some(block) = self.block_of(&response.asked(&name)) else {
            return Handled::Reply(response.refuse(ResponseCode::Refused, &self.dropped));
        };
        if let Some(reply) = block.chaos.as_ref().and_then(|chaos| chaos.answer(question)) {
            response.set_block(block);
            return match restrict(response, question, block) {
                Ok(response) => Handled::Reply(response.finish_with(reply, &block.metrics)),
                Err(handled) => handled,
            };
        }
        if is_transfer(question) && !block.transfers.is_empty() {
            return transfer(request, response, block, &self.published.load());
        }
        let sender = Sender {
            client: (response.client_socket().0.ip(), response.client_socket().0.port()),
            server: (response.local(), block.server_port),
            transport: response.client_socket().1,
            options: &|code| option(request.edns.as_ref()?, code),
        };
        match block.local_plugins.rewritten(question, &sender) {
            None => self.answer_in_block(question, response, block),
            Some(Ok(rewritten)) => {
                let question = rewritten.question.clone();
                response.set_rewritten(rewritten);
                self.answer_in_block(&question, response, block)
            }
            Some(Err(InvalidName)) => {
                response.set_block(block);
                Handled::Reply(response.refuse(ResponseCode::ServFail, &block.metrics))
            }
        }
    }

    /// Answers a question, which may be a rewritten one, for the clients of the block. Other classes and transfers are
    /// refused.
    fn answer_in_block(&self, question: &Query, mut response: Response, block: &Arc<Block>) -> Handled {
        if !is_served(question) {
            return Handled::Reply(response.refuse(ResponseCode::Refused, &self.dropped));
        }
        let name = QueryName::from(&question.name);
        response.topic = Topic::of_foreign_name(&name);
        response.set_block(block);
        match restrict(response, question, block) {
            Ok(response) => match Lookups::new(question, &response, block, &self.published) {
                None => self.answer_question(question, &name, response, block),
                Some(lookups) => {
                    let work = Work::LookUp(lookups, self.clone());
                    pending(response, question.clone(), block, work)
                }
            },
            Err(handled) => handled,
        }
    }

    fn answer_question(
        &self,
        question: &Query,
        name: &QueryName,
        mut response: Response,
        block: &Arc<Block>,
    ) -> Handled {
        let snapshot = self.published.load();
        if let Some(reply) = block.answer_first(question, &snapshot, response.limit()) {
            response.topic = Topic::Local;
            return self.answer_locally(response, reply, block, &snapshot);
        }
        response.topic = Topic::of_foreign_name(name);
        let Some(authority) = &block.authority else {
            return self.answer_behind_cluster(question, response, block, &snapshot);
        };
        let selection = block.selection(response.limit());
        match answer(name, question.query_type, authority, &snapshot, selection) {
            Resolution::Fallthrough => self.answer_behind_cluster(question, response, block, &snapshot),
            Resolution::NotSynced => {
                response.topic = Topic::Domain;
                Handled::Reply(response.refuse(ResponseCode::ServFail, &block.metrics))
            }
            Resolution::Answered(answer) => {
                self.answer_from_cluster(response, (answer, authority), block, &snapshot)
            }
        }
    }

    /// Answers a question that the cluster's data do not answer.
    fn answer_behind_cluster(
        &self,
        question: &Query,
        mut response: Response,
        block: &Arc<Block>,
        snapshot: &Snapshot,
    ) -> Handled {
        match block.local_plugins.answer_last(question, response.flags().dnssec_ok) {
            Some(reply) => {
                response.topic = Topic::Local;
                self.answer_locally(response, reply, block, snapshot)
            }
            None => self.forward(response, question.clone(), block),
        }
    }

    /// Answers from a local plugin.
    fn answer_locally(
        &self,
        mut response: Response,
        reply: Reply,
        block: &Arc<Block>,
        snapshot: &Snapshot,
    ) -> Handled {
        let alias = reply.alias(response.qtype());
        let plugin = response.add(reply);
        match alias {
            Some(target) => self.follow_chain(response, target, (block, plugin), snapshot),
            None => Handled::Reply(response.finish(&block.metrics, plugin)),
        }
    }

    fn answer_from_cluster(
        &self,
        mut response: Response,
        (mut answer, authority): (Answer<'_>, &Authority),
        block: &Arc<Block>,
        snapshot: &Snapshot,
    ) -> Handled {
        if block.shuffle {
            answer.shuffle(below);
        }
        response.topic = answer.topic;
        response.add_answer(&answer, None, authority, snapshot);
        match answer.target {
            Some(target) => {
                self.follow_chain(response, target.to_hickory(), (block, Plugin::Kubernetes), snapshot)
            }
            None => Handled::Reply(response.finish(&block.metrics, Plugin::Kubernetes)),
        }
    }

    /// Follows a CNAME chain through local plugins, the cluster and other blocks, up to an upstream. `plugin` is
    /// the label of the first answer.
    fn follow_chain(
        &self,
        mut response: Response,
        mut target: HickoryName,
        (block, plugin): (&Arc<Block>, Plugin),
        snapshot: &Snapshot,
    ) -> Handled {
        for _ in 0..MAX_CHAIN {
            let question = Query::query(target, response.qtype());
            let name = QueryName::from(&question.name);
            let Some(next) = self.block_of(&response.asked(&name)) else { break };
            let local = next.answer_first(&question, snapshot, response.limit());
            let own = next.authority.as_ref().filter(|_| local.is_none());
            let selection = block.selection(response.limit());
            let found = own.map(|own| (own, answer(&name, question.query_type, own, snapshot, selection)));
            let is_open = matches!(found, None | Some((_, Resolution::Fallthrough)));
            let wants_dnssec = response.flags().dnssec_ok;
            let last = || next.local_plugins.answer_last(&question, wants_dnssec);
            let local = local.or_else(|| if is_open { last() } else { None });
            let alias = match (local, found) {
                (Some(reply), _) => {
                    let alias = reply.alias(question.query_type);
                    response.add(reply);
                    alias
                }
                (None, Some((own, Resolution::Answered(mut answer)))) => {
                    if block.shuffle {
                        answer.shuffle(below);
                    }
                    response.add_answer(&answer, Some(&question.name), own, snapshot);
                    answer.target.map(Name::to_hickory)
                }
                (None, Some((_, Resolution::NotSynced))) => {
                    return Handled::Reply(response.refuse(ResponseCode::ServFail, &block.metrics));
                }
                (None, Some((_, Resolution::Fallthrough)) | None) if next.forwarder.is_some() => {
                    return self.forward(response, question, next);
                }
                // No upstream: the chain ends here, as in any authoritative server.
                (None, Some((_, Resolution::Fallthrough)) | None) => None,
            };
            match alias {
                Some(next) => target = next,
                None => break,
            }
        }
        Handled::Reply(response.finish(&block.metrics, plugin))
    }

    /// Answers from the cache of a block, or returns a pending query to its upstreams.
    fn forward(&self, response: Response, question: Query, block: &Arc<Block>) -> Handled {
        let Some(forwarder) = &block.forwarder else {
            if block.whoami {
                let (address, transport) = response.client_socket();
                let reply = whoami::reply(&question, address, transport);
                return Handled::Reply(response.finish_with(reply, &block.metrics));
            }
            return Handled::Reply(response.refuse(ResponseCode::Refused, &block.metrics));
        };
        match forwarder.cached(&question, response.flags(), response.client()) {
            Some(reply) => Handled::Reply(response.finish_with(reply, &block.metrics)),
            None => pending(response, question, block, Work::Forward),
        }
    }
}

impl SelfLookup for Handler {
    fn lookup<'a>(
        &'a self,
        question: &'a Query,
        response: &'a Response,
        block: &'a Arc<Block>,
    ) -> BoxFuture<'a, Reply> {
        let mut inner = response.internal(question);
        inner.set_block(block);
        let handled = self.answer_question(question, &QueryName::from(&question.name), inner, block);
        Box::pin(async move {
            let octets = match handled {
                Handled::Dropped => return Reply::servfail(),
                Handled::Reply(reply) => reply,
                Handled::Pending(pending) => pending.finish().await,
                // Only clients ask for zones.
                Handled::Transfer(_) => return Reply::servfail(),
            };
            match Message::from_vec(&octets) {
                Ok(message) => Reply::from_upstream(message, question),
                Err(_) => Reply::servfail(),
            }
        })
    }

    fn block_of(&self, asked: &Asked<'_>) -> Option<&Arc<Block>> {
        let length = |block: &Block| {
            let zones = block.zones.iter().filter(|zone| asked.name.is_in(zone));
            zones.map(|zone| zone.octets().len()).max().filter(|_| block.sees(asked))
        };
        let serving = self.blocks.iter().filter_map(|block| Some((length(block)?, block)));
        // Of two blocks with the same zone, the first is used.
        serving.rev().max_by_key(|(length, _)| *length).map(|(_, block)| block)
    }
}

impl Pending {
    /// The reply when the limit of pending queries is reached.
    pub fn refuse(self) -> Vec<u8> {
        let reply = self.block.forwarder.as_ref().map_or_else(Reply::refused, Forwarder::refuse);
        self.response.finish_with(reply, &self.block.metrics)
    }

    /// Does what is left. A panic is answered and counted as in [`Handler::handle`].
    pub async fn finish(self) -> Vec<u8> {
        let reply = AssertUnwindSafe(self.reply()).catch_unwind().await.unwrap_or_else(|_| {
            self.block.metrics.count_panic();
            Reply::servfail()
        });
        self.response.finish_with(reply, &self.block.metrics)
    }

    async fn reply(&self) -> Reply {
        let (flags, client) = (self.response.flags(), self.response.client());
        match (&self.work, &self.block.forwarder) {
            (Work::Forward, Some(forwarder)) => {
                let reply = forwarder.resolve(&self.question, flags).await;
                forwarder.record_client(&self.question, flags, client);
                reply
            }
            (Work::Forward, None) => Reply::refused(),
            (Work::LookUp(lookups, handler), _) => {
                lookups.reply(handler, &self.question, &self.response, &self.block).await
            }
        }
    }
}

/// A request that waits, if its client may have another one.
fn pending(response: Response, question: Query, block: &Arc<Block>, work: Work) -> Handled {
    match block.shares.acquire(response.client()) {
        Some(share) => Handled::Pending(Box::new(Pending {
            response,
            question,
            block: block.clone(),
            work,
            _share: share,
        })),
        None => {
            block.refusals.count(Refusal::Client);
            Handled::Reply(response.refuse(ResponseCode::Refused, &block.metrics))
        }
    }
}

/// The data of an option.
fn option(edns: &Edns, code: u16) -> Option<Vec<u8>> {
    edns.option(EdnsCode::from(code)).and_then(|option| Vec::try_from(option).ok())
}

/// Whether the class and the type are answered: only by directives of their own, if at all, are other classes and
/// transfers.
fn is_served(question: &Query) -> bool {
    question.query_class == DNSClass::IN && !is_transfer(question)
}

fn is_transfer(question: &Query) -> bool {
    matches!(question.query_type, RecordType::AXFR | RecordType::IXFR)
}

/// Begins the transfer of a zone to a client that may have it, or refuses it.
fn transfer(request: &Message, mut response: Response, block: &Block, snapshot: &Arc<Snapshot>) -> Handled {
    let question = &request.queries[0];
    response.topic = Topic::Local;
    response.set_block(block);
    let response = match restrict(response, question, block) {
        Ok(response) => response,
        Err(handled) => return handled,
    };
    let refuse = |response: Response, rcode| Handled::Reply(response.refuse(rcode, &block.metrics));
    let origin = LowerName::from(&question.name);
    let is_admitted = transfers::admits(&block.transfers, &origin, response.client());
    if !is_admitted || !response.is_over_stream() || question.query_class != DNSClass::IN {
        return refuse(response, ResponseCode::Refused);
    }
    // As for queries, the cluster's zones precede those of files.
    let cluster = block.authority.as_ref();
    let cluster = cluster.and_then(|authority| ClusterZone::new(authority, snapshot, &Name::from(&*origin)));
    let zone = match (cluster, block.local_plugins.zone(&origin)) {
        (Some(_), _) if !snapshot.is_synced => return refuse(response, ResponseCode::ServFail),
        (Some(cluster), _) => Transferred::Cluster(cluster),
        (None, Some(zone)) => Transferred::Zone(zone),
        (None, None) => return refuse(response, ResponseCode::NotAuth),
    };
    let Some(running) = block.running.begin(response.client()) else {
        block.refusals.count(Refusal::Transfer);
        return refuse(response, ResponseCode::Refused);
    };
    response.count_transfer(&block.metrics);
    Handled::Transfer(Box::new(Transfer::new(request, zone, running)))
}

/// Applies the rules for clients. Errors: the query is dropped, or answered without the block.
fn restrict(response: Response, question: &Query, block: &Block) -> Result<Response, Handled> {
    if block.acls.is_empty() {
        return Ok(response);
    }
    let name = LowerName::from(&question.name);
    match acl::action(&block.acls, &name, question.query_type, response.client()) {
        Action::Allow => Ok(response),
        action @ (Action::Block | Action::Filter | Action::Drop) => Err(match action.reply() {
            Some(reply) => Handled::Reply(response.finish_with(reply, &block.metrics)),
            None => Handled::Dropped,
        }),
    }
}

#[cfg(test)]
mod tests;
