//! A query to an upstream, and the check of the reply.

use std::ops::Range;

use hickory_server::proto::{
    ProtoError,
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::rdata::opt::EdnsOption,
};

use super::failure::Failure;
use crate::{config::MAX_UDP_PAYLOAD, resolve::reply::QueryFlags};

/// The offset of the question: the length of the header.
const NAME: usize = 12;
/// The length of qtype and class, after the name.
const TYPE_AND_CLASS: usize = 4;

/// The response code of a name that does not exist.
const NXDOMAIN: u8 = 3;

/// A query as sent, with a random id and a random case. An off-path attacker has to guess the id, the source port
/// and the case of the name (draft-vixie-dnsext-dns0x20).
#[derive(Debug)]
pub(super) struct UpstreamQuery {
    wire: Vec<u8>,
    /// The name in the client's case.
    name: Vec<u8>,
    /// Whether the case was randomised, so that the reply must repeat it.
    is_randomised: bool,
}

/// The options of a query, according to the upstream's capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueryOptions {
    /// Randomise the case of the name (0x20).
    pub randomise_case: bool,
    /// Send an OPT.
    pub edns: bool,
}

impl UpstreamQuery {
    pub(super) fn new(
        question: &Query,
        flags: &QueryFlags,
        options: QueryOptions,
    ) -> Result<Self, ProtoError> {
        let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = !flags.no_recursion;
        message.metadata.checking_disabled = flags.checking_disabled;
        // AD in a query requests AD in the reply (RFC 6840, section 5.7); clients that did not set it do not get
        // it.
        message.metadata.authentic_data = true;
        message.add_query(question.clone());
        if options.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP_PAYLOAD).set_dnssec_ok(flags.dnssec_ok);
            for (code, data) in flags.options.iter() {
                edns.options_mut().insert(EdnsOption::Unknown(code, data.to_vec()));
            }
            message.set_edns(edns);
        }
        let mut wire = message.to_vec()?;
        let name = wire.get(name_range(&wire)).unwrap_or_default().to_vec();
        if options.randomise_case {
            randomise_case(&mut wire[NAME..NAME + name.len()]);
        }
        Ok(Self { wire, name, is_randomised: options.randomise_case })
    }

    /// The query with the id 0, as caches on the way want it (RFC 8484, section 4.1). TLS protects its answer.
    pub(super) fn without_id(mut self) -> Self {
        self.wire[..2].fill(0);
        self
    }

    pub(super) fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// Checks that this is the reply to the query, and restores the client's case in its question.
    pub(super) fn accept(&self, reply: &mut [u8]) -> Result<(), Mismatch> {
        let (Some(header), Some(id)) = (reply.get(..NAME), self.wire.get(..2)) else {
            return Err(Mismatch::Foreign);
        };
        let is_response = header[2] & 0x80 != 0;
        if header.get(..2) != Some(id) || !is_response {
            return Err(Mismatch::Foreign);
        }
        if header[4..6] == [0, 0] {
            // Only an error that carries nothing: anything else needs no guess of the question.
            let is_error = ![0, NXDOMAIN].contains(&(header[3] & 0x0f)) && reply.get(6..8) == Some(&[0, 0]);
            return Err(if is_error { Mismatch::NoQuestion } else { Mismatch::Foreign });
        }
        let end = NAME + self.name.len() + TYPE_AND_CLASS;
        let (sent, got) = (&self.wire[NAME..end], reply.get(NAME..end).unwrap_or_default());
        if header[4..6] != [0, 1] || !got.eq_ignore_ascii_case(sent) {
            return Err(Mismatch::Foreign);
        }
        if self.is_randomised && got != sent {
            return Err(Mismatch::WrongCase);
        }
        // Also restores the names that point to it by compression.
        reply[NAME..NAME + self.name.len()].copy_from_slice(&self.name);
        Ok(())
    }
}

/// The reason why a datagram or message is not the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mismatch {
    /// Another id, another question, or QR not set: forged, or late.
    Foreign,
    /// The same name in another case.
    WrongCase,
    /// An error without a question section: the server did not understand the query.
    NoQuestion,
}

impl From<Mismatch> for Failure {
    fn from(mismatch: Mismatch) -> Self {
        match mismatch {
            Mismatch::Foreign => Self::Foreign,
            Mismatch::WrongCase => Self::WrongCase,
            Mismatch::NoQuestion => Self::NoQuestion,
        }
    }
}

/// The range of the question's name, which must not be compressed.
fn name_range(wire: &[u8]) -> Range<usize> {
    let mut at = NAME;
    while let Some(length) = wire.get(at).filter(|length| **length != 0) {
        at += 1 + usize::from(*length);
    }
    NAME..at + 1
}

/// Randomises the case of the letters. The length octets of labels are below 64, hence never letters.
fn randomise_case(name: &mut [u8]) {
    for letter in name.iter_mut().filter(|byte| byte.is_ascii_alphabetic()) {
        if rand::random() {
            *letter ^= 0x20;
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_server::proto::rr::{Name, RecordType};
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;
    use crate::{
        config,
        observe::metrics::Metrics,
        resolve::{
            cache::{Cache, CacheLookup},
            decode::decode,
            forward::fake::a,
            reply::Reply,
        },
    };

    const MIXED: QueryOptions = QueryOptions { randomise_case: true, edns: true };

    fn query(name: &str) -> UpstreamQuery {
        query_with(name, MIXED)
    }

    fn query_with(name: &str, options: QueryOptions) -> UpstreamQuery {
        let question = Query::query(Name::from_ascii(name).unwrap(), RecordType::A);
        UpstreamQuery::new(&question, &QueryFlags::default(), options).unwrap()
    }

    fn echoed(query: &UpstreamQuery) -> Vec<u8> {
        let mut reply = query.wire().to_vec();
        reply[2] |= 0x80;
        reply
    }

    #[test]
    fn the_case_is_randomised_and_restored() {
        // Long enough that some letter changes.
        let query = query("a-rather-long-name-so-that-chance-cannot-spare-it.example.org.");
        let mut reply = echoed(&query);
        assert_ne!(reply[NAME..NAME + query.name.len()], query.name, "no letter was changed");
        query.accept(&mut reply).unwrap();
        assert_eq!(reply[NAME..NAME + query.name.len()], query.name);
    }

    #[test]
    fn the_case_is_not_checked_unless_randomised() {
        let query = query_with("Www.Example.ORG.", QueryOptions { randomise_case: false, ..MIXED });
        let mut reply = echoed(&query);
        reply[NAME..].make_ascii_lowercase();
        query.accept(&mut reply).unwrap();
        assert_eq!(reply[NAME..NAME + query.name.len()], query.name, "still restored");
    }

    #[test]
    fn only_the_reply_is_accepted() {
        let query = query("www.example.org.");
        let change = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut reply = echoed(&query);
            change(&mut reply);
            query.accept(&mut reply).err()
        };
        type Case<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>), Option<Mismatch>);
        let cases: &[Case<'_>] = &[
            ("untouched", &|_| (), None),
            ("another id", &|reply| reply[0] ^= 1, Some(Mismatch::Foreign)),
            ("a question", &|reply| reply[2] &= 0x7f, Some(Mismatch::Foreign)),
            ("another letter", &|reply| reply[NAME + 1] = b'x', Some(Mismatch::Foreign)),
            ("the other case", &|reply| reply[NAME + 1] ^= 0x20, Some(Mismatch::WrongCase)),
            ("another type", &|reply| reply[NAME + 18] = 28, Some(Mismatch::Foreign)),
            ("two questions", &|reply| reply[5] = 2, Some(Mismatch::Foreign)),
            ("no question", &|reply| reply[5] = 0, Some(Mismatch::Foreign)),
            (
                "no question, FORMERR",
                &|reply| reply[3..6].copy_from_slice(&[1, 0, 0]),
                Some(Mismatch::NoQuestion),
            ),
            (
                "no question, NXDOMAIN",
                &|reply| reply[3..6].copy_from_slice(&[3, 0, 0]),
                Some(Mismatch::Foreign),
            ),
            (
                "no question, FORMERR with an answer",
                &|reply| reply[3..8].copy_from_slice(&[1, 0, 0, 0, 1]),
                Some(Mismatch::Foreign),
            ),
            ("cut in the question", &|reply| reply.truncate(20), Some(Mismatch::Foreign)),
            ("cut in the header", &|reply| reply.truncate(5), Some(Mismatch::Foreign)),
            ("nothing", &Vec::clear, Some(Mismatch::Foreign)),
        ];
        for (name, changed, want) in cases {
            assert_eq!(change(changed), *want, "{name}");
        }
    }

    proptest! {
        /// Any bytes from an upstream are accepted or rejected, and an accepted reply can be cached and served.
        #[test]
        fn hostile_answers_do_no_harm(
            changes in vec((any::<Index>(), any::<u8>()), 0..12),
            cut in proptest::option::of(any::<Index>()),
            tail in vec(any::<u8>(), 0..64),
        ) {
            let question = Query::query(name("www.example.org."), RecordType::A);
            let query = UpstreamQuery::new(&question, &QueryFlags::default(), MIXED).unwrap();
            let mut reply = answer_to(&query);
            // Only after the question, as hardly any other change would be accepted.
            let (from, length) = (NAME + query.name.len() + TYPE_AND_CLASS, reply.len());
            changes.iter().for_each(|(at, octet)| reply[from + at.index(length - from)] = *octet);
            if let Some(at) = cut {
                reply.truncate(at.index(length + 1));
            }
            reply.extend(tail);
            if query.accept(&mut reply).is_err() {
                return Ok(());
            }
            let Ok(message) = decode(&reply) else { return Ok(()) };
            let upstream = Reply::from_upstream(message, &question);
            let cache = Cache::new(&config::Cache::default(), config::LastKnownGood::Off, Metrics::default().cache("", ""));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let _inside = runtime.enter();
            let given = cache.store(&question, &QueryFlags::default(), upstream);
            if let CacheLookup::Fresh(kept) = cache.lookup(&question, &QueryFlags::default(), None) {
                prop_assert_eq!(kept.rcode, given.rcode);
                prop_assert_eq!(kept.answers, given.answers);
            }
        }
    }

    fn answer_to(query: &UpstreamQuery) -> Vec<u8> {
        let mut message = Message::from_vec(query.wire()).unwrap();
        message.metadata.message_type = MessageType::Response;
        let owner = message.queries[0].name().clone();
        message.add_answer(a(owner, 60, [192, 0, 2, 1]));
        message.add_answer(a(name("ns.example.org."), 60, [192, 0, 2, 2]));
        message.to_vec().unwrap()
    }

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }
}
