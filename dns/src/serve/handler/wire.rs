//! The header of a message as octets, and the encoding of messages within a size limit.

use hickory_server::proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{
        Record, RecordType,
        rdata::opt::{EdnsCode, EdnsOption},
    },
    serialize::binary::{BinEncodable as _, BinEncoder},
};

pub use crate::cluster::wire::HEADER;
use crate::{
    observe::metrics::Transport,
    resolve::{decode::end_of_name, encode::encode_whole},
};

const MIN_BUFFER: usize = 512;
/// The block of padded replies, and the octets of an empty option.
const BLOCK: usize = 468;
const OPTION: usize = 4;
/// The size of the smallest record: the root as owner, and the fixed fields.
const MIN_RECORD: usize = 11;
/// The UDP payload of a client without EDNS (RFC 1035, section 4.2.1).
const MIN_UDP_PAYLOAD: u16 = 512;
/// The largest message over TCP.
const MAX_TCP_PAYLOAD: usize = 65_535;

/// Limits of the octets of a label and of a name (RFC 1035, section 2.3.4).
const MAX_LABEL: usize = 63;
const MAX_NAME: usize = 255;
/// The octets of a question behind its name.
const TYPE_AND_CLASS: usize = 4;

/// The flags of a header: QR, opcode, AA, TC, RD, RA and CD.
pub const RESPONSE: u16 = 0x8000;
pub const OPCODE: u16 = 0x7800;
pub const AUTHORITATIVE: u16 = 0x0400;
pub const TRUNCATED: u16 = 0x0200;
pub const RECURSION_DESIRED: u16 = 0x0100;
pub const RECURSION_AVAILABLE: u16 = 0x0080;
pub const CHECKING_DISABLED: u16 = 0x0010;

/// The size limit of a reply. `payload` is the client's UDP payload of its OPT, `cap` the largest that this server
/// sends.
pub fn limit(transport: Transport, payload: Option<u16>, cap: u16) -> usize {
    match transport {
        Transport::Tcp => MAX_TCP_PAYLOAD,
        Transport::Udp => usize::from(payload.unwrap_or_default().min(cap).max(MIN_UDP_PAYLOAD)),
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Header {
    id: [u8; 2],
    flags: u16,
    /// QDCOUNT.
    pub questions: u16,
}

impl Header {
    /// Returns `None` for a packet that is shorter than a header.
    pub fn parse(request: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER] = request.first_chunk()?;
        let [flags, questions] = [2, 4].map(|at| u16::from_be_bytes([header[at], header[at + 1]]));
        Some(Self { id: [header[0], header[1]], flags, questions })
    }

    pub fn is_response(self) -> bool {
        self.flags & RESPONSE != 0
    }

    pub fn opcode(self) -> u8 {
        ((self.flags & OPCODE) >> 11) as u8
    }
}

/// The lowest TTL of the records of a message, without its OPT. Returns `None` without records, and for a message that
/// cannot be read.
pub fn min_ttl(message: &[u8]) -> Option<u32> {
    const OPT: u16 = 41;
    let number = |at: usize| Some(u16::from_be_bytes(*message.get(at..)?.first_chunk()?));
    let mut at = HEADER;
    for _ in 0..number(4)? {
        at = end_of_name(message, at)? + 4;
    }
    let mut lowest = None;
    let records = [6, 8, 10].into_iter().map(|count| number(count).map(u32::from)).sum::<Option<u32>>()?;
    for _ in 0..records {
        at = end_of_name(message, at)?;
        let ttl = u32::from_be_bytes(*message.get(at + 4..)?.first_chunk()?);
        if number(at)? != OPT {
            lowest = Some(lowest.map_or(ttl, |lowest: u32| lowest.min(ttl)));
        }
        at += 10 + usize::from(number(at + 8)?);
    }
    lowest
}

/// A reply to a malformed request: the header, and the question of a query if it can be read. Resolvers ignore a reply to
/// another question, or to none, and wait for their timeout. The format of other requests is not known.
pub fn refusal(request: &[u8], header: Header, rcode: ResponseCode) -> Vec<u8> {
    let flags = RESPONSE | header.flags & (OPCODE | RECURSION_DESIRED) | u16::from(rcode.low());
    let is_query = header.opcode() == u8::from(OpCode::Query) && header.questions == 1;
    let question = if is_query { question(request).unwrap_or_default() } else { &[] };
    let mut reply = vec![0; HEADER];
    reply[..2].copy_from_slice(&header.id);
    reply[2..4].copy_from_slice(&flags.to_be_bytes());
    reply[5] = u8::from(!question.is_empty());
    reply.extend_from_slice(question);
    reply
}

/// The first question of a message, whose name must not be compressed: nothing precedes it.
fn question(message: &[u8]) -> Option<&[u8]> {
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1 + length;
        if length > MAX_LABEL || at > HEADER + MAX_NAME {
            return None;
        }
        if length == 0 {
            return message.get(HEADER..at + TYPE_AND_CLASS);
        }
    }
}

/// Encodes a message in at most `limit` octets, always with its OPT. To fit, it first omits the additional section;
/// then it omits the authority section and as many answers as needed, and sets TC.
pub fn encode(mut message: Message, limit: usize) -> Vec<u8> {
    // Encoding thousands of records only to find that they do not fit would allow denial of service.
    if message.answers.len() <= limit / MIN_RECORD {
        if let Some(whole) = encode_whole(&message, limit) {
            return whole;
        }
        message.additionals.clear();
        if let Some(without) = encode_whole(&message, limit) {
            return without;
        }
        if drop_name_servers(&mut message)
            && let Some(without) = encode_whole(&message, limit)
        {
            return without;
        }
    }
    message.metadata.truncation = true;
    message.additionals.clear();
    message.authorities.clear();
    let answers = std::mem::take(&mut message.answers);
    let bare = encode_whole(&message, limit).unwrap_or_default();
    let count = count_fitting(&message, &answers, limit.saturating_sub(bare.len()));
    message.answers = answers.into_iter().take(count).collect();
    encode_whole(&message, limit).unwrap_or(bare)
}

/// Removes the NS records of an answer's authority section, and their signatures: upstreams may add them, and TC is
/// not set for what is not required (RFC 2181, section 9). They are the content of a referral, which has no answers.
fn drop_name_servers(message: &mut Message) -> bool {
    let before = message.authorities.len();
    if !message.answers.is_empty() {
        let ns = u16::from(RecordType::NS).to_be_bytes();
        let signs_ns = |record: &Record| {
            record.record_type() == RecordType::RRSIG
                && record.data.to_bytes().is_ok_and(|octets| octets.starts_with(&ns))
        };
        message.authorities.retain(|record| record.record_type() != RecordType::NS && !signs_ns(record));
    }
    message.authorities.len() < before
}

/// Encodes a message as [`encode`] does, padded to a multiple of 468 octets as far as the limit allows (RFC 8467, section
/// 4.1), so that its size tells less of its content.
pub fn encode_padded(mut message: Message, limit: usize) -> Vec<u8> {
    let plain = encode(message.clone(), limit);
    let (length, Some(edns)) = (plain.len() + OPTION, &mut message.edns) else { return plain };
    let Some(room) = limit.checked_sub(length) else { return plain };
    let padding = (length.next_multiple_of(BLOCK) - length).min(room);
    edns.options_mut().insert(EdnsOption::Unknown(EdnsCode::Padding.into(), vec![0; padding]));
    encode(message, limit)
}

/// The number of records that fit in `space` octets after the question, with name compression.
fn count_fitting(message: &Message, records: &[Record], space: usize) -> usize {
    let mut buffer = Vec::with_capacity(MIN_BUFFER);
    let mut encoder = BinEncoder::new(&mut buffer);
    let header = encoder.emit_vec(&[0; HEADER]);
    if header.and_then(|()| encoder.emit_all(message.queries.iter())).is_err() {
        return 0;
    }
    let end = encoder.offset() + space;
    let fits = |record: &&Record| record.emit(&mut encoder).is_ok() && encoder.offset() <= end;
    records.iter().take_while(fits).count()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_server::proto::{
        op::Query,
        rr::{
            Name, RData,
            rdata::{A, NS, NULL},
        },
    };

    use super::*;

    #[test]
    fn name_servers_of_an_answer_do_not_truncate_it() {
        let name = |text: &str| Name::from_ascii(text).unwrap();
        let record = |owner: &str, data| Record::from_rdata(name(owner), 5, data);
        let server =
            |n| record("example.", RData::NS(NS(name(&format!("ns{n}.a-rather-long-name.example.")))));
        let unknown = |code: RecordType, octets: &[u8]| {
            let data = RData::Unknown { code, rdata: NULL::with(octets.to_vec()) };
            record("example.", data)
        };
        let signature = |covered: u8| unknown(RecordType::RRSIG, &[&[0, covered][..], &[1; 100]].concat());
        let denial = || unknown(RecordType::NSEC, &[1; 30]);
        let address = record("www.example.", RData::A(A(Ipv4Addr::LOCALHOST)));
        let referral: Vec<Record> = (0..40).map(server).collect();
        let signed = [vec![denial(), signature(47)], referral.clone(), vec![signature(2)]].concat();
        for (case, answers, authorities, want) in [
            ("an answer", vec![address.clone()], referral.clone(), (1, 0, false)),
            ("a signed one by a wildcard", vec![address], signed, (1, 2, false)),
            ("a referral", vec![], referral, (0, 0, true)),
        ] {
            let mut message = Message::response(7, OpCode::Query);
            message.add_query(Query::query(name("www.example."), RecordType::A));
            (message.answers, message.authorities) = (answers, authorities);
            let reply = Message::from_vec(&encode(message, 512)).unwrap();
            let got = (reply.answers.len(), reply.authorities.len(), reply.metadata.truncation);
            assert_eq!(got, want, "{case}");
        }
    }

    #[test]
    fn a_refusal_repeats_the_question_if_it_can_be_read() {
        let header = [0, 7, 0x01, 0x10, 0, 1, 0, 0, 0, 0, 0, 1];
        let long = [&[63; 64][..], &[63; 64], &[63; 64], &[63; 64]].concat();
        for (case, rest, want) in [
            ("a name", &b"\x03www\0\0\x01\0\x01 and more"[..], &b"\x03www\0\0\x01\0\x01"[..]),
            ("the root", b"\0\0\x02\0\x01", b"\0\0\x02\0\x01"),
            ("nothing", b"", b""),
            ("a part of a name", b"\x03ww", b""),
            ("no class", b"\0\0\x01\0", b""),
            ("a pointer", b"\xc0\x0c\0\x01\0\x01", b""),
            ("a name that is too long", &[&long[..], &[0, 0, 1, 0, 1]].concat(), b""),
        ] {
            let request = [&header[..], rest].concat();
            let reply = refusal(&request, Header::parse(&request).unwrap(), ResponseCode::FormErr);
            let count = u8::from(!want.is_empty());
            assert_eq!(reply, [&[0, 7, 0x81, 1, 0, count, 0, 0, 0, 0, 0, 0], want].concat(), "{case}");
        }
        let question = [0, 0, 1, 0, 1];
        for (case, opcode, count) in [("two questions", 0, 2), ("an update", 0x28, 1)] {
            let head = [0, 7, opcode, 0, 0, count, 0, 0, 0, 0, 0, 0];
            let request = [&head[..], &question, &question].concat();
            let reply = refusal(&request, Header::parse(&request).unwrap(), ResponseCode::NotImp);
            assert_eq!(reply.len(), HEADER, "{case}");
        }
    }
}
