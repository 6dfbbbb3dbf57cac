//! The fast path for plain queries about the cluster and for cached answers: from octets to octets, without a decoded
//! message.
//!
//! It handles the queries of nearly all clients (one question, and at most an OPT) and leaves the rest to the slow
//! path. Queries that both paths can answer get the same answer: `handler/tests.rs` compares them. The fast path
//! saves a quarter of a query's CPU time, system calls included, and the slow path compresses only some names of a
//! long answer.

use hickory_server::proto::{
    op::ResponseCode,
    rr::{DNSClass, RecordType},
};

use super::{
    Handler,
    block::Block,
    client::Client,
    lookups::SelfLookup as _,
    random::below,
    wire::{
        AUTHORITATIVE, CHECKING_DISABLED, HEADER, OPCODE, RECURSION_AVAILABLE, RECURSION_DESIRED, RESPONSE,
        TRUNCATED, limit,
    },
};
use crate::{
    cluster::{
        answer::{Answer, Resolution, answer},
        authority::Authority,
        name::QueryName,
        snapshot::Snapshot,
        topic::Topic,
        wire::{IN, Writer},
    },
    config::MAX_UDP_PAYLOAD,
    observe::metrics::{Plugin, Transport},
    plugins::view::Asked,
    resolve::{
        cache::AskedOctets,
        reply::{EdnsOptions, QueryFlags},
    },
};

const OPT: u16 = 41;
/// The length of an OPT without options.
const OPT_LEN: usize = 11;

/// The flags that a reply repeats.
const REPEATED_FLAGS: u16 = RECURSION_DESIRED | CHECKING_DISABLED;
const DNSSEC_OK: u16 = 0x8000;
/// The bits of a header for AD and the rcode.
const AUTHENTIC_DATA: u16 = 0x0020;
const RCODE: u16 = 0x000f;

/// A plain request: one question of class IN, and at most an OPT of version 0.
struct Request<'r> {
    id: [u8; 2],
    flags: u16,
    name: QueryName,
    /// The question section, repeated in the reply.
    question: &'r [u8],
    qtype: RecordType,
    opt: Option<Opt>,
}

#[derive(Clone, Copy)]
struct Opt {
    payload: u16,
    dnssec_ok: bool,
    has_options: bool,
}

impl Handler {
    /// Answers a request on the fast path. Returns `None` for a request that is not plain, or not about the
    /// cluster.
    pub(super) fn fast_path(
        &self,
        request: &[u8],
        client: Client,
        started: std::time::Instant,
    ) -> Option<Vec<u8>> {
        let len = request.len();
        let request = Request::parse(request)?;
        // A padded query has a padded reply.
        if client.is_encrypted && request.opt.is_some_and(|opt| opt.has_options) {
            return None;
        }
        let block = self.block_of(&request.asked(client, len))?;
        if !block.takes_fast_path(&request.name, request.qtype) {
            return None;
        }
        let Some(authority) = &block.authority else {
            return answer_from_cache(&request, block, client, (started, len));
        };
        let snapshot = self.published.load();
        let selection = block.selection(request.limit(block, client.transport));
        let found = answer(&request.name, request.qtype, authority, &snapshot, selection);
        let mut answer = match found {
            Resolution::Answered(answer) => answer,
            Resolution::Fallthrough => return answer_from_cache(&request, block, client, (started, len)),
            Resolution::NotSynced => return None,
        };
        if answer.target.is_some() {
            return None;
        }
        if block.shuffle {
            answer.shuffle(below);
        }
        let reply = request.reply(&answer, (block, authority, &snapshot), client.transport)?;
        let dnssec_ok = request.opt.is_some_and(|opt| opt.dnssec_ok);
        block.metrics.count_query(client.transport, client.address.is_ipv6(), request.qtype, dnssec_ok, len);
        let (rcode, took) = (rcode(&answer), started.elapsed());
        block.metrics.observe_answer(client.transport, rcode, Plugin::Kubernetes, reply.len(), took);
        block.metrics.record_client(client.address, answer.topic, rcode, took);
        Some(reply)
    }
}

/// Answers from the cache of a block. `len` is the length of the request.
fn answer_from_cache(
    request: &Request<'_>,
    block: &Block,
    client: Client,
    (started, len): (std::time::Instant, usize),
) -> Option<Vec<u8>> {
    let forwarder = block.forwarder.as_ref().filter(|_| !block.minimal)?;
    let flags = request.query_flags();
    let (dnssec_ok, wants_ad) = (flags.dnssec_ok, flags.authentic_data || flags.dnssec_ok);
    let mut reply = forwarder.cached_octets(&AskedOctets {
        name: request.name.octets(),
        qtype: request.qtype.into(),
        question: request.question,
        flags,
        client: client.address,
        shuffle: block.shuffle.then_some(below),
    })?;
    let opt_len = if request.opt.is_some() { OPT_LEN } else { 0 };
    if reply.len() + opt_len > request.limit(block, client.transport) {
        return None;
    }
    let cached = u16::from_be_bytes([*reply.get(2)?, *reply.get(3)?]);
    let ad = if wants_ad { cached & AUTHENTIC_DATA } else { 0 };
    let rcode = ResponseCode::from_low((cached & RCODE) as u8);
    let header = RESPONSE | request.flags & REPEATED_FLAGS | RECURSION_AVAILABLE | ad | cached & RCODE;
    reply[..2].copy_from_slice(&request.id);
    reply[2..4].copy_from_slice(&header.to_be_bytes());
    if let Some(opt) = request.opt {
        // Cached messages on this path have no OPT.
        let additionals = u16::from_be_bytes([reply[10], reply[11]]).checked_add(1)?;
        reply[10..HEADER].copy_from_slice(&additionals.to_be_bytes());
        opt.write_to(&mut reply);
    }
    let transport = client.transport;
    block.metrics.count_query(transport, client.address.is_ipv6(), request.qtype, dnssec_ok, len);
    let took = started.elapsed();
    block.metrics.observe_answer(transport, rcode, Plugin::Cache, reply.len(), took);
    block.metrics.record_client(client.address, Topic::of_foreign_name(&request.name), rcode, took);
    Some(reply)
}

fn rcode(answer: &Answer<'_>) -> ResponseCode {
    if answer.is_missing { ResponseCode::NXDomain } else { ResponseCode::NoError }
}

impl<'r> Request<'r> {
    fn parse(request: &'r [u8]) -> Option<Self> {
        let header: &[u8; HEADER] = request.first_chunk()?;
        let field = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let flags = field(2);
        if flags & (RESPONSE | OPCODE) != 0 || [field(4), field(6), field(8)] != [1, 0, 0] {
            return None;
        }
        let name = QueryName::parse(&request[HEADER..])?;
        let end = HEADER + name.octets().len() + 4;
        let [.., k1, k2, c1, c2] = *request.get(HEADER..end)? else { return None };
        let qtype = u16::from_be_bytes([k1, k2]);
        let is_transfer = matches!(RecordType::from(qtype), RecordType::AXFR | RecordType::IXFR);
        if u16::from_be_bytes([c1, c2]) != IN || is_transfer || qtype == OPT {
            return None;
        }
        let opt = match field(10) {
            0 if request.len() == end => None,
            1 => Some(Opt::parse(&request[end..])?),
            _ => return None,
        };
        let question = &request[HEADER..end];
        Some(Self { id: [header[0], header[1]], flags, name, question, qtype: qtype.into(), opt })
    }

    fn asked(&self, client: Client, size: usize) -> Asked<'_> {
        Asked {
            name: &self.name,
            qtype: self.qtype,
            class: DNSClass::IN,
            transport: client.transport,
            client: client.address,
            port: client.port,
            server: client.local,
            server_port: 0,
            id: u16::from_be_bytes(self.id),
            size,
            dnssec_ok: self.opt.is_some_and(|opt| opt.dnssec_ok),
            payload: self.opt.map(|opt| opt.payload),
        }
    }

    fn query_flags(&self) -> QueryFlags {
        QueryFlags {
            dnssec_ok: self.opt.is_some_and(|opt| opt.dnssec_ok),
            checking_disabled: self.flags & CHECKING_DISABLED != 0,
            authentic_data: self.flags & AUTHENTIC_DATA != 0,
            options: EdnsOptions::default(),
            no_recursion: false,
        }
    }

    fn limit(&self, block: &Block, transport: Transport) -> usize {
        limit(transport, self.opt.map(|opt| opt.payload), block.max_udp_payload)
    }

    fn reply(
        &self,
        answer: &Answer<'_>,
        (block, authority, snapshot): (&Block, &Authority, &Snapshot),
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let limit = self.limit(block, transport);
        let space = limit - if self.opt.is_some() { OPT_LEN } else { 0 };
        let mut writer = Writer::new(self.question, &self.name, space);
        let sections = writer.sections(
            answer,
            answer.has_soa.then(|| answer.soa(authority, snapshot)),
            block.minimal,
        )?;
        let mut reply = writer.into_octets();
        let ra = if block.forwarder.is_some() { RECURSION_AVAILABLE } else { 0 };
        let tc = if sections.is_truncated { TRUNCATED } else { 0 };
        let flags =
            RESPONSE | AUTHORITATIVE | self.flags & REPEATED_FLAGS | ra | tc | u16::from(rcode(answer).low());
        let opts = u16::from(self.opt.is_some());
        let counts = [1, sections.answers, sections.authorities, sections.additionals + opts];
        reply[..2].copy_from_slice(&self.id);
        reply[2..4].copy_from_slice(&flags.to_be_bytes());
        for (field_octets, count) in reply[4..HEADER].chunks_exact_mut(2).zip(counts) {
            field_octets.copy_from_slice(&count.to_be_bytes());
        }
        if let Some(opt) = self.opt {
            opt.write_to(&mut reply);
        }
        Some(reply)
    }
}

impl Opt {
    /// Parses all octets after the question as an OPT. Options are skipped: none but padding changes the answer.
    fn parse(octets: &[u8]) -> Option<Self> {
        let (fixed, options): (&[u8; OPT_LEN], _) = octets.split_first_chunk()?;
        let field = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        // The root as owner, and version 0 with an extended RCODE of 0.
        let is_supported = fixed[0] == 0 && field(1) == OPT && fixed[5..7] == [0, 0];
        let is_whole = usize::from(field(9)) == options.len() && are_options(options);
        let has_options = !options.is_empty();
        let opt = Self { payload: field(3), dnssec_ok: field(7) & DNSSEC_OK != 0, has_options };
        (is_supported && is_whole).then_some(opt)
    }

    fn write_to(self, reply: &mut Vec<u8>) {
        let flags = if self.dnssec_ok { DNSSEC_OK } else { 0 };
        reply.push(0);
        for field in [OPT, MAX_UDP_PAYLOAD, 0, flags, 0] {
            reply.extend_from_slice(&field.to_be_bytes());
        }
    }
}

/// Whether the octets are well-formed options: code, length, and data of that length.
fn are_options(mut octets: &[u8]) -> bool {
    while let Some(([_, _, l1, l2], rest)) = octets.split_first_chunk() {
        let Some(following) = rest.get(usize::from(u16::from_be_bytes([*l1, *l2]))..) else { return false };
        octets = following;
    }
    octets.is_empty()
}
