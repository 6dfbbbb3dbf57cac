//! One request in, one reply out: the general path, over hickory's messages.
//!
//! What can be answered at once is answered at once; what has to be asked elsewhere is handed back as [`Pending`], so
//! that whoever reads the socket decides how much of it may wait. Nothing here knows sockets.

use std::{
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use futures_util::FutureExt as _;
use hickory_server::proto::{
    op::{Message, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name as HickoryName, RecordType},
};

use crate::{
    cluster::{
        answer::{Answer, Resolution, answer},
        authority::Authority,
        name::{Name, QueryName},
        snapshot::{Published, Snapshot},
        topic::Topic,
    },
    config::{Log, ServerBlock},
    observe::metrics::{QueryMetrics, Transport},
    resolve::{
        forward::{Forwarder, ServerContext, TlsError},
        reply::Reply,
    },
};

mod fast_path;
mod local_plugins;
mod random;
mod response;
mod wire;

use local_plugins::LocalPlugins;
use random::below;
use response::Response;
pub use wire::encode;

/// How metrics call the part that answers from the objects of the cluster.
const KUBERNETES: &str = "kubernetes";
/// How often a chain may lead from what one part of a block knows to what another does.
const MAX_CHAIN: usize = 4;

/// What becomes of a request.
pub enum Handled {
    /// Not a question: whoever sent it does not wait for an answer, or must not get one.
    Dropped,
    Reply(Vec<u8>),
    /// Somebody else has to be asked.
    Pending(Box<Pending>),
}

/// How a request came.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub transport: Transport,
    pub address: IpAddr,
}

/// A request whose answer is not ours alone.
pub struct Pending {
    response: Response,
    question: Query,
    block: Arc<Block>,
}

/// One server block, made ready.
#[derive(Debug)]
pub struct Block {
    /// The names it answers for.
    pub zones: Vec<Name>,
    local_plugins: LocalPlugins,
    authority: Option<Authority>,
    forwarder: Option<Forwarder>,
    shuffle: bool,
    minimal: bool,
    logs: Vec<Arc<Log>>,
    max_udp_payload: u16,
    metrics: QueryMetrics,
}

impl Block {
    /// Must be called within a runtime, as [`Forwarder::start`]. `server` is what metrics call it: `dns://:53`.
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
        Ok(Self {
            metrics: context.metrics.queries(server, &label),
            zones,
            local_plugins: LocalPlugins::start(block, &context.metrics, server, &label),
            authority: block.kubernetes.as_ref().map(|options| Authority::new(options, own_addresses)),
            forwarder: (!block.forwards.is_empty()).then_some(forwarder),
            shuffle: block.shuffle,
            minimal: block.minimal,
            logs: block.logs.iter().cloned().map(Arc::new).collect(),
            max_udp_payload: block.max_udp_payload,
        })
    }
}

impl Block {
    /// Whether nothing but the cluster is asked first, and nobody listens.
    fn takes_fast_path(&self, name: &QueryName, qtype: RecordType) -> bool {
        self.local_plugins.never_answers(name, qtype) && self.logs.is_empty()
    }
}

/// What answers at one address: the blocks that listen there, and what is known of the cluster.
#[derive(Debug)]
pub struct Handler {
    blocks: Vec<Arc<Block>>,
    published: Arc<Published>,
    /// Of requests that no block takes.
    dropped: QueryMetrics,
}

impl Handler {
    pub fn new(blocks: Vec<Arc<Block>>, published: Arc<Published>, dropped: QueryMetrics) -> Self {
        Self { blocks, published, dropped }
    }

    /// A query that breaks something is answered SERVFAIL and counted; the next one finds everything as it was.
    pub fn handle(&self, request: &[u8], client: Client) -> Handled {
        self.catch_panic(request, || self.handle_one(request, client))
    }

    fn catch_panic(&self, request: &[u8], handle: impl FnOnce() -> Handled) -> Handled {
        // Everything behind `self` is immutable, atomic, or locked for whole operations.
        match catch_unwind(AssertUnwindSafe(handle)) {
            Ok(handled) => handled,
            Err(_) => {
                self.dropped.panicked();
                let header = wire::Header::parse(request);
                header.map_or(Handled::Dropped, |header| {
                    Handled::Reply(wire::refusal(header, ResponseCode::ServFail))
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
        match self.question(request, header) {
            Ok(message) => {
                let mut response = Response::to(&message, client, started);
                response.size = request.len();
                self.answer(&message, response)
            }
            Err(rcode) => {
                self.dropped.note(client.address, Topic::Invalid, rcode, started.elapsed());
                Handled::Reply(wire::refusal(header, rcode))
            }
        }
    }

    /// A request that can be answered at all.
    fn question(&self, request: &[u8], header: wire::Header) -> Result<Message, ResponseCode> {
        if header.opcode() != u8::from(OpCode::Query) {
            return Err(ResponseCode::NotImp);
        }
        // Before the message is read: room would be made for as many as the header says, and that is anybody's to say.
        if header.questions != 1 {
            return Err(ResponseCode::FormErr);
        }
        let message = Message::from_vec(request).map_err(|_| ResponseCode::FormErr)?;
        if message.answers.is_empty() { Ok(message) } else { Err(ResponseCode::FormErr) }
    }

    fn answer(&self, request: &Message, mut response: Response) -> Handled {
        let question = &request.queries[0];
        if response.speaks_unknown_edns() {
            return response.refuse(ResponseCode::BADVERS, &self.dropped);
        }
        let is_transfer = matches!(question.query_type, RecordType::AXFR | RecordType::IXFR);
        if question.query_class != DNSClass::IN || is_transfer {
            return response.refuse(ResponseCode::Refused, &self.dropped);
        }
        let name = QueryName::from(&question.name);
        response.topic = Topic::of_foreign_name(&name);
        let Some(block) = self.block_of(&name) else {
            return response.refuse(ResponseCode::Refused, &self.dropped);
        };
        response.set_block(block);
        let Some(rewritten) = block.local_plugins.rewritten(question) else {
            return self.answer_as(question, &name, response, block);
        };
        let question = rewritten.question.clone();
        response.set_rewritten(rewritten);
        self.answer_as(&question, &QueryName::from(&question.name), response, block)
    }

    /// The question may be another than the client's by now.
    fn answer_as(
        &self,
        question: &Query,
        name: &QueryName,
        mut response: Response,
        block: &Arc<Block>,
    ) -> Handled {
        let snapshot = self.published.load();
        if let Some(reply) = block.local_plugins.answer(question) {
            response.topic = Topic::Local;
            return self.from_local_plugin(response, reply, block, &snapshot);
        }
        response.topic = Topic::of_foreign_name(name);
        let Some(authority) = &block.authority else {
            return self.forward(response, question.clone(), block);
        };
        match answer(name, question.query_type, authority, &snapshot) {
            Resolution::Fallthrough => self.forward(response, question.clone(), block),
            Resolution::NotSynced => {
                response.topic = Topic::Domain;
                response.refuse(ResponseCode::ServFail, &block.metrics)
            }
            Resolution::Answered(answer) => {
                self.from_cluster(response, (answer, authority), block, &snapshot)
            }
        }
    }

    /// What is known beside the cluster's data.
    fn from_local_plugin(
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

    fn from_cluster(
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
            Some(target) => self.follow_chain(response, target.to_hickory(), (block, KUBERNETES), snapshot),
            None => Handled::Reply(response.finish(&block.metrics, KUBERNETES)),
        }
    }

    /// Follows a chain to whatever answers for the name it leads to, from block to block. `plugin` answered so far.
    fn follow_chain(
        &self,
        mut response: Response,
        mut target: HickoryName,
        (block, plugin): (&Arc<Block>, &'static str),
        snapshot: &Snapshot,
    ) -> Handled {
        for _ in 0..MAX_CHAIN {
            let question = Query::query(target, response.qtype());
            let name = QueryName::from(&question.name);
            let Some(next) = self.block_of(&name) else { break };
            let local = next.local_plugins.answer(&question);
            let own = next.authority.as_ref().filter(|_| local.is_none());
            let found = own.map(|own| (own, answer(&name, question.query_type, own, snapshot)));
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
                    return response.refuse(ResponseCode::ServFail, &block.metrics);
                }
                (None, Some((_, Resolution::Fallthrough)) | None) if next.forwarder.is_some() => {
                    return self.forward(response, question, next);
                }
                // Nobody to ask: as any server does that only knows its own zone.
                (None, Some((_, Resolution::Fallthrough)) | None) => None,
            };
            match alias {
                Some(next) => target = next,
                None => break,
            }
        }
        Handled::Reply(response.finish(&block.metrics, plugin))
    }

    /// Asks the upstreams of a block, unless what they would say is known.
    fn forward(&self, response: Response, question: Query, block: &Arc<Block>) -> Handled {
        let Some(forwarder) = &block.forwarder else {
            return response.refuse(ResponseCode::Refused, &block.metrics);
        };
        match forwarder.cached(&question, response.flags()) {
            Some(reply) => Handled::Reply(response.finish_with(reply, &block.metrics)),
            None => Handled::Pending(Box::new(Pending { response, question, block: block.clone() })),
        }
    }

    /// The block with the longest zone that a name is in.
    fn block_of(&self, name: &QueryName) -> Option<&Arc<Block>> {
        let length = |block: &Block| {
            let zones = block.zones.iter().filter(|zone| name.is_in(zone));
            zones.map(|zone| zone.octets().len()).max()
        };
        let serving = self.blocks.iter().filter_map(|block| Some((length(block)?, block)));
        // Of two with the same zone, the first counts.
        serving.rev().max_by_key(|(length, _)| *length).map(|(_, block)| block)
    }
}

impl Pending {
    /// When there is no room to wait.
    pub fn refuse(self) -> Vec<u8> {
        let reply = self.block.forwarder.as_ref().map_or_else(Reply::refused, Forwarder::refuse);
        self.response.finish_with(reply, &self.block.metrics)
    }

    /// As with [`Handler::handle`], what breaks is answered and counted.
    pub async fn finish(self) -> Vec<u8> {
        let flags = self.response.flags();
        let reply = match &self.block.forwarder {
            Some(forwarder) => {
                let resolved = AssertUnwindSafe(forwarder.resolve(&self.question, flags)).catch_unwind();
                resolved.await.unwrap_or_else(|_| {
                    self.block.metrics.panicked();
                    Reply::servfail()
                })
            }
            None => Reply::refused(),
        };
        self.response.finish_with(reply, &self.block.metrics)
    }
}

#[cfg(test)]
mod tests;
