//! The construction of a reply on the slow path.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Instant, SystemTime},
};

use hickory_server::proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{
        LowerName, Name, Record, RecordType,
        rdata::opt::{EdnsCode, EdnsOption},
    },
};
use tracing::info;

use super::{
    block::Block,
    client::Client,
    random::below,
    records::record,
    wire::{encode, encode_padded, limit},
};
use crate::{
    cluster::{
        answer::{Answer, AnswerRecord},
        authority::Authority,
        name::QueryName,
        snapshot::Snapshot,
        topic::Topic,
    },
    observe::metrics::{Plugin, QueryMetrics, Transport, rcode_word},
    plugins::{
        dnstap::{ClientMessage, Taps},
        header::Header,
        loadbalance::Balancer,
        log::{Exchange, Log},
        rewrite::Rewritten,
        view::Asked,
    },
    resolve::reply::{EdnsOptions, QueryFlags, Reply},
    zone_data::set_type,
};

pub struct Response {
    message: Message,
    client: Client,
    started: Instant,
    /// The size of the request.
    pub size: usize,
    /// The request, for taps.
    pub request: Box<[u8]>,
    taps: Option<Arc<Taps>>,
    /// The topic of the query, for the query statistics.
    pub topic: Topic,
    /// The client's UDP payload size of its OPT.
    payload: Option<u16>,
    edns_version: u8,
    /// The largest UDP payload of the block.
    cap: u16,
    minimal: bool,
    shuffle: bool,
    balancer: Option<Arc<Balancer>>,
    log: Option<Arc<Log>>,
    header: Option<Arc<Header>>,
    /// Whether the client requests the identifier of the server.
    wants_nsid: bool,
    /// Whether the query is padded, on an encrypted connection.
    wants_padding: bool,
    flags: QueryFlags,
    /// A lookup of this server itself, which is neither counted nor logged.
    is_internal: bool,
    /// Set if a rule rewrites the question or the response.
    rewritten: Option<Rewritten>,
}

impl Response {
    pub fn to(request: &Message, client: Client, started: Instant) -> Self {
        let mut message = Message::response(request.metadata.id, OpCode::Query);
        message.metadata = Metadata::response_from_request(&request.metadata);
        message.metadata.authentic_data = false;
        message.queries.clone_from(&request.queries);
        let dnssec_ok = request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        message.edns = request.edns.as_ref().map(|_| {
            let mut edns = Edns::new();
            edns.set_max_payload(crate::config::MAX_UDP_PAYLOAD).set_version(0).set_dnssec_ok(dnssec_ok);
            edns
        });
        Self {
            message,
            client,
            started,
            size: 0,
            request: [].into(),
            taps: None,
            topic: Topic::Invalid,
            payload: request.edns.as_ref().map(Edns::max_payload),
            edns_version: request.edns.as_ref().map_or(0, Edns::version),
            cap: crate::config::MAX_UDP_PAYLOAD,
            minimal: false,
            shuffle: false,
            balancer: None,
            log: None,
            header: None,
            wants_nsid: request.edns.as_ref().is_some_and(|edns| edns.option(EdnsCode::NSID).is_some()),
            wants_padding: client.is_encrypted
                && request.edns.as_ref().is_some_and(|edns| edns.option(EdnsCode::Padding).is_some()),
            rewritten: None,
            is_internal: false,
            flags: QueryFlags {
                dnssec_ok,
                checking_disabled: request.metadata.checking_disabled,
                authentic_data: request.metadata.authentic_data,
                no_recursion: false,
                options: EdnsOptions::default(),
            },
        }
    }

    /// A response to a lookup of this server itself, in the course of answering a client. It is limited only by the size
    /// of a message.
    pub fn internal(&self, question: &Query) -> Self {
        let mut message = Message::response(0, OpCode::Query);
        message.add_query(question.clone());
        let client = Client { transport: Transport::Tcp, ..self.client };
        Self { is_internal: true, flags: self.flags.clone(), ..Self::to(&message, client, self.started) }
    }

    /// The query, as views see it. `name`: that of the question, or of a target.
    pub fn asked<'n>(&self, name: &'n QueryName) -> Asked<'n> {
        let question = self.question();
        let Client { transport, address, port, local, .. } = self.client;
        Asked {
            name,
            qtype: question.query_type,
            class: question.query_class,
            transport,
            client: address,
            port,
            server: local,
            server_port: 0,
            id: self.message.metadata.id,
            size: self.size,
            dnssec_ok: self.flags.dnssec_ok,
            payload: self.payload,
        }
    }

    pub fn has_unsupported_edns_version(&self) -> bool {
        self.edns_version > 0
    }

    pub fn set_block(&mut self, block: &Block) {
        self.cap = block.max_udp_payload;
        self.minimal = block.minimal;
        self.shuffle = block.shuffle;
        self.balancer.clone_from(&block.balancer);
        if !block.logs.is_empty() {
            let name = LowerName::from(&self.message.queries[0].name);
            self.log = block.logs.iter().find(|log| log.covers(&name)).cloned();
        }
        if let Some(taps) = block.taps.as_ref().filter(|_| !self.is_internal) {
            taps.query(&self.client_message(&self.request));
            self.taps = Some(Arc::clone(taps));
        }
        self.header.clone_from(&block.header);
        if let Some(desired) = block.header.as_ref().and_then(|header| header.recursion_desired()) {
            self.message.metadata.recursion_desired = desired;
            self.flags.no_recursion = !desired;
        }
        if let (Some(data), Some(edns), true) = (&block.nsid, &mut self.message.edns, self.wants_nsid) {
            edns.options_mut().insert(EdnsOption::Unknown(EdnsCode::NSID.into(), data.clone()));
        }
        // Also for the cluster's names: some clients stop using a server without RA.
        self.message.metadata.recursion_available = block.forwarder.is_some();
    }

    /// Whether several messages may be the reply.
    pub fn is_over_stream(&self) -> bool {
        self.client.transport == Transport::Tcp && !self.client.is_http
    }

    /// Counts a query that is answered with a zone.
    pub fn count_transfer(&self, metrics: &QueryMetrics) {
        let Client { transport, address, .. } = self.client;
        let (qtype, took) = (self.message.queries[0].query_type, self.started.elapsed());
        metrics.count_query(transport, address.is_ipv6(), qtype, self.flags.dnssec_ok, self.size);
        metrics.observe_answer(transport, ResponseCode::NoError, Plugin::Transfer, 0, took);
        metrics.record_client(address, self.topic, ResponseCode::NoError, took);
    }

    /// The rules that change the response, if there are any.
    pub fn rewritten(&self) -> Option<&Rewritten> {
        self.rewritten.as_ref()
    }

    fn client_message<'m>(&self, octets: &'m [u8]) -> ClientMessage<'m> {
        let Client { transport, address, port, .. } = self.client;
        let asked = SystemTime::now().checked_sub(self.started.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH);
        ClientMessage { client: address, port, transport, asked, octets }
    }

    pub fn set_rewritten(&mut self, rewritten: Rewritten) {
        self.flags.options.clone_from(&rewritten.options);
        self.rewritten = Some(rewritten);
    }

    /// The client's address and port, and its transport.
    pub fn client_socket(&self) -> (SocketAddr, Transport) {
        let Client { transport, address, port, .. } = self.client;
        (SocketAddr::new(address, port), transport)
    }

    /// The question to resolve, which may be a rewritten one.
    fn question(&self) -> &Query {
        self.rewritten.as_ref().map_or(&self.message.queries[0], |rewritten| &rewritten.question)
    }

    /// The qtype to resolve.
    pub fn qtype(&self) -> RecordType {
        self.question().query_type
    }

    /// The address that the query came to.
    pub fn local(&self) -> IpAddr {
        self.client.local
    }

    pub fn client(&self) -> IpAddr {
        self.client.address
    }

    /// The limit of the reply, in octets.
    pub fn limit(&self) -> usize {
        limit(self.client.transport, self.payload, self.cap)
    }

    pub fn flags(&self) -> &QueryFlags {
        &self.flags
    }

    pub fn refuse(mut self, rcode: ResponseCode, metrics: &QueryMetrics) -> Vec<u8> {
        self.message.metadata.response_code = rcode;
        self.finish(metrics, Plugin::None)
    }

    /// Adds the records of an answer. `alias`: the name that owns them, at the end of a CNAME chain.
    pub fn add_answer(
        &mut self,
        answer: &Answer<'_>,
        alias: Option<&Name>,
        authority: &Authority,
        snapshot: &Snapshot,
    ) {
        self.message.metadata.authoritative = true;
        if answer.is_missing {
            self.message.metadata.response_code = ResponseCode::NXDomain;
        }
        let question = alias.unwrap_or(&self.message.queries[0].name).clone();
        let record = |from: &AnswerRecord<'_>| record(from, &question);
        self.message.answers.extend(answer.records.iter().map(record));
        self.message.metadata.truncation |= answer.is_cut;
        if answer.has_soa {
            self.message.authorities.push(record(&answer.soa(authority, snapshot)));
        }
        if !self.minimal {
            self.message.additionals.extend(answer.additional.iter().map(record));
        }
    }

    /// Encodes, counts and logs the reply. `plugin`: the metrics label.
    pub fn finish(mut self, metrics: &QueryMetrics, plugin: Plugin) -> Vec<u8> {
        if let Some(rewritten) = &self.rewritten {
            rewritten.restore(&mut self.message);
        }
        if let Some(balancer) = self.balancer.take()
            && self.message.metadata.response_code == ResponseCode::NoError
        {
            let qtype = self.message.queries[0].query_type;
            balancer.order(&mut self.message.answers, qtype, below);
            balancer.order(&mut self.message.additionals, qtype, below);
        }
        if let Some(header) = &self.header {
            header.change_response(&mut self.message.metadata);
        }
        if self.is_internal {
            return encode(self.message, usize::from(u16::MAX));
        }
        let Client { transport, address, port, .. } = self.client;
        let qtype = self.message.queries[0].query_type;
        metrics.count_query(transport, address.is_ipv6(), qtype, self.flags.dnssec_ok, self.size);
        let rcode = &mut self.message.metadata.response_code;
        if rcode.high() > 0 && self.message.edns.is_none() {
            // Without an OPT, only the lower 4 bits would be sent, which are another rcode, such as NOERROR.
            *rcode = ResponseCode::ServFail;
        }
        let rcode = *rcode;
        let limit = self.limit();
        let log = self.log.take().filter(|log| log.includes(&self.message));
        let logged = log.map(|log| (log, without_records(&self.message)));
        let taps = self.taps.take().map(|taps| (taps, self.client_message(&[])));
        let encoded =
            if self.wants_padding { encode_padded(self.message, limit) } else { encode(self.message, limit) };
        if let Some((taps, message)) = taps {
            taps.response(&ClientMessage { octets: &encoded, ..message });
        }
        let took = self.started.elapsed();
        metrics.observe_answer(transport, rcode, plugin, encoded.len(), took);
        metrics.record_client(address, self.topic, rcode, took);
        if let Some((log, reply)) = logged {
            let sizes = (self.size, encoded.len());
            let exchange = Exchange { client: address, port, transport, payload: self.payload, sizes, took };
            log_answer(&log, &reply, &exchange, plugin);
        }
        encoded
    }

    pub fn finish_with(mut self, reply: Reply, metrics: &QueryMetrics) -> Vec<u8> {
        let plugin = self.add(reply);
        self.finish(metrics, plugin)
    }

    /// Adds a reply of a plugin or an upstream, after the CNAME chain if there is one. Returns the metrics label
    /// `plugin`.
    pub fn add(&mut self, reply: Reply) -> Plugin {
        // `minimal` keeps the SOA of a denial and the NS records of a referral.
        let is_answer = reply.rcode == ResponseCode::NoError && !reply.is_nodata(self.question());
        let Reply {
            rcode,
            authoritative,
            authentic_data,
            truncated,
            answers,
            authorities,
            additionals,
            errors,
            plugin,
        } = reply;
        let metadata = &mut self.message.metadata;
        let is_chain = metadata.authoritative;
        metadata.response_code = rcode;
        metadata.authoritative |= authoritative;
        metadata.authentic_data = authentic_data && !is_chain;
        metadata.truncation = truncated;
        let qname = self.message.queries[0].name.clone();
        self.message.answers.extend(answers.into_iter().map(|record| with_case_of(&qname, record)));
        if self.shuffle {
            shuffle(&mut self.message.answers);
        }
        // It keeps the proof that an answer by a wildcard is the closest one, too.
        let is_left_out = self.minimal && is_answer;
        let is_kept = |record: &Record| {
            !is_left_out || matches!(set_type(record), RecordType::NSEC | RecordType::NSEC3)
        };
        self.message.authorities.extend(authorities.into_iter().filter(is_kept));
        if !is_left_out {
            self.message.additionals.extend(additionals);
        }
        if let Some(edns) = &mut self.message.edns {
            errors.into_iter().for_each(|error| edns.options_mut().insert(error));
        }
        plugin
    }
}

/// The header, the question and the OPT.
fn without_records(message: &Message) -> Message {
    let mut head = Message::new(message.metadata.id, MessageType::Response, OpCode::Query);
    head.metadata = message.metadata;
    head.queries.clone_from(&message.queries);
    head.edns.clone_from(&message.edns);
    head
}

/// `reply`: without its records.
fn log_answer(log: &Log, reply: &Message, exchange: &Exchange, plugin: Plugin) {
    if let Some(format) = &log.format {
        info!("{}", format.line(reply, exchange));
        return;
    }
    let Exchange { client, sizes: (_, size), took, .. } = *exchange;
    let (question, rcode) = (reply.queries.first(), rcode_word(reply.metadata.response_code));
    let question = question.map(ToString::to_string).unwrap_or_default();
    info!(%client, question, %rcode, plugin = plugin.name(), size, ?took, "answered");
}

/// Shuffles the A and AAAA records, and the MX records; all other records stay in place.
fn shuffle(records: &mut [Record]) {
    for kinds in [&[RecordType::A, RecordType::AAAA][..], &[RecordType::MX]] {
        let is_it = |place: &usize| kinds.contains(&records[*place].record_type());
        let places: Vec<usize> = (0..records.len()).filter(is_it).collect();
        for n in (1..places.len()).rev() {
            records.swap(places[n], places[below(n + 1)]);
        }
    }
}

/// Gives a record that the queried name owns the case of the query, as 0x20 clients require.
fn with_case_of(qname: &Name, mut record: Record) -> Record {
    if record.name == *qname {
        record.name = qname.clone();
    }
    record
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::Ipv4Addr};

    use hickory_server::proto::rr::{
        RData,
        rdata::{A, CNAME, SOA},
    };

    use super::*;
    use crate::observe::metrics::Metrics;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn response(has_edns: bool) -> Response {
        let mut request = Message::query();
        request.add_query(Query::query(name("www.example."), RecordType::A));
        if has_edns {
            request.set_edns(Edns::new());
        }
        let client = Client {
            transport: Transport::Udp,
            address: Ipv4Addr::LOCALHOST.into(),
            port: 4242,
            local: Ipv4Addr::LOCALHOST.into(),
            is_encrypted: false,
            is_http: false,
        };
        Response::to(&request, client, Instant::now())
    }

    fn finished(response: Response, reply: Reply) -> Message {
        let metrics = Metrics::default().queries("dns://:53", ".");
        Message::from_vec(&response.finish_with(reply, &metrics)).unwrap()
    }

    fn address(last: u8) -> Record {
        Record::from_rdata(name("x.example."), 5, RData::A(A(Ipv4Addr::new(10, 0, 0, last))))
    }

    #[test]
    fn minimal_replies_keep_the_soa_of_a_denial() {
        use ResponseCode::{NXDomain, NoError};
        let soa = SOA::new(name("ns.example."), name("root.example."), 1, 2, 3, 4, 5);
        let soa = Record::from_rdata(name("example."), 5, RData::SOA(soa));
        let cname = Record::from_rdata(name("www.example."), 5, RData::CNAME(CNAME(name("x.example."))));
        for (case, rcode, answers, want) in [
            ("an answer", NoError, vec![address(1)], 0),
            ("NXDOMAIN", NXDomain, vec![], 1),
            ("NODATA", NoError, vec![], 1),
            ("an alias with NODATA", NoError, vec![cname], 1),
        ] {
            let reply = Reply {
                answers,
                authorities: vec![soa.clone()],
                ..Reply::from_plugin(rcode, Plugin::Forward)
            };
            let minimal = Response { minimal: true, ..response(false) };
            assert_eq!(finished(minimal, reply).authorities.len(), want, "{case}");
        }
    }

    #[test]
    fn addresses_are_shuffled_after_their_cname() {
        let cname = Record::from_rdata(name("www.example."), 5, RData::CNAME(CNAME(name("x.example."))));
        let answers: Vec<_> = std::iter::once(cname).chain((1..=5).map(address)).collect();
        let reply = Reply { answers, ..Reply::from_plugin(ResponseCode::NoError, Plugin::Cache) };
        for (shuffle, orders) in [(false, 1..=1), (true, 2..=5)] {
            let mut seconds = BTreeSet::new();
            for _ in 0..100 {
                let answers = finished(Response { shuffle, ..response(false) }, reply.clone()).answers;
                assert_eq!((answers.len(), answers[0].record_type()), (6, RecordType::CNAME));
                seconds.insert(answers[1].to_string());
            }
            assert!(orders.contains(&seconds.len()), "shuffled: {shuffle}, {seconds:?}");
        }
    }

    #[test]
    fn a_client_without_edns_gets_servfail_for_an_extended_rcode() {
        for (has_edns, want) in [(true, ResponseCode::BADCOOKIE), (false, ResponseCode::ServFail)] {
            let reply = Reply::from_plugin(ResponseCode::BADCOOKIE, Plugin::Forward);
            assert_eq!(finished(response(has_edns), reply).metadata.response_code, want, "{has_edns}");
        }
    }
}
