//! Encoding of messages with many records. The library compresses only the first few hundred names of a message, so that a
//! large answer of an upstream would not fit any more.

use std::collections::HashMap;

use hickory_server::proto::{
    ProtoError,
    op::{Edns, Message, Metadata},
    rr::{
        Name, RData, Record,
        rdata::{CNAME, MX, NS, PTR, SOA},
    },
    serialize::binary::{BinEncodable, BinEncoder, NameEncoding},
};

/// The length of a message's header.
const HEADER: usize = 12;
/// The largest message.
const MAX: usize = 65_535;
/// The number of records from which on the library's encoding may be larger than needed.
const MANY: usize = 50;
/// The range of a compression pointer: 14 bits (RFC 1035, section 4.1.4).
const MAX_POINTER: usize = 0x3fff;
const POINTER: u16 = 0xc000;
/// Limit of the remembered names.
const MAX_NAMES: usize = 4096;

/// Encodes a message whole. Returns `None` if it is larger than `limit`, or than a message can be.
pub(crate) fn encode_whole(message: &Message, limit: usize) -> Option<Vec<u8>> {
    let (limit, records) = (limit.min(MAX), &message.answers);
    let records =
        [records, &message.authorities, &message.additionals].into_iter().map(Vec::len).sum::<usize>();
    by_library(message, limit).or_else(|| if records < MANY { None } else { compact(message, limit) })
}

fn by_library(message: &Message, limit: usize) -> Option<Vec<u8>> {
    let mut buffer = Vec::with_capacity(512);
    message.emit(&mut BinEncoder::new(&mut buffer)).ok()?;
    // Beyond 64 KiB the encoder itself omits records, including the OPT.
    let written =
        buffer.get(6..HEADER)?.chunks_exact(2).map(|count| u16::from_be_bytes([count[0], count[1]]));
    let is_whole = written.map(usize::from).eq(counts(message));
    (is_whole && buffer.len() <= limit).then_some(buffer)
}

/// The number of records of each section.
fn counts(message: &Message) -> [usize; 3] {
    let opt = usize::from(message.edns.is_some());
    [message.answers.len(), message.authorities.len(), message.additionals.len() + opt]
}

fn compact(message: &Message, limit: usize) -> Option<Vec<u8>> {
    let mut writer = Writer { out: head(message).ok()?, limit, names: HashMap::new() };
    if let Some(query) = message.queries.first() {
        // Written by the library already, without compression.
        writer.remember(&query.name, HEADER);
    }
    for record in message.answers.iter().chain(&message.authorities).chain(&message.additionals) {
        writer.record(record)?;
    }
    if let Some(edns) = &message.edns {
        writer.opt(edns, &message.metadata)?;
    }
    for (place, count) in writer.out.get_mut(6..HEADER)?.chunks_exact_mut(2).zip(counts(message)) {
        place.copy_from_slice(&u16::try_from(count).ok()?.to_be_bytes());
    }
    (writer.out.len() <= limit).then_some(writer.out)
}

/// Header and question.
fn head(message: &Message) -> Result<Vec<u8>, ProtoError> {
    let mut head = Message::new(message.metadata.id, message.metadata.message_type, message.metadata.op_code);
    head.metadata = message.metadata;
    head.queries.clone_from(&message.queries);
    head.to_vec()
}

struct Writer {
    out: Vec<u8>,
    limit: usize,
    /// Where names begin, in their own case.
    names: HashMap<Box<[u8]>, u16>,
}

impl Writer {
    /// Returns `None` above the limit.
    fn record(&mut self, record: &Record) -> Option<()> {
        self.name(&record.name);
        for field in [u16::from(record.record_type()), u16::from(record.dns_class)] {
            self.out.extend_from_slice(&field.to_be_bytes());
        }
        self.out.extend_from_slice(&record.ttl.to_be_bytes());
        let place = self.out.len();
        self.out.extend_from_slice(&[0, 0]);
        self.data(&record.data)?;
        let length = u16::try_from(self.out.len() - place - 2).ok()?;
        self.out.get_mut(place..place + 2)?.copy_from_slice(&length.to_be_bytes());
        (self.out.len() <= self.limit).then_some(())
    }

    /// Only names in data of these types may be compressed (RFC 3597, section 4).
    #[expect(clippy::wildcard_enum_match_arm, reason = "types are an open list")]
    fn data(&mut self, data: &RData) -> Option<()> {
        match data {
            RData::NS(NS(name)) | RData::CNAME(CNAME(name)) | RData::PTR(PTR(name)) => self.name(name),
            RData::MX(MX { preference, exchange, .. }) => {
                self.out.extend_from_slice(&preference.to_be_bytes());
                self.name(exchange);
            }
            RData::SOA(SOA { mname, rname, serial, refresh, retry, expire, minimum, .. }) => {
                self.name(mname);
                self.name(rname);
                let timers = [*refresh, *retry, *expire].map(i32::cast_unsigned);
                for field in [*serial].into_iter().chain(timers).chain([*minimum]) {
                    self.out.extend_from_slice(&field.to_be_bytes());
                }
            }
            other => {
                let mut octets = Vec::new();
                let mut encoder = BinEncoder::new(&mut octets);
                // An offset in this buffer means nothing in the message.
                encoder.set_name_encoding(NameEncoding::Uncompressed);
                other.emit(&mut encoder).ok()?;
                self.out.extend_from_slice(&octets);
            }
        }
        Some(())
    }

    fn opt(&mut self, edns: &Edns, metadata: &Metadata) -> Option<()> {
        let mut edns = edns.clone();
        edns.set_rcode_high(metadata.response_code.high());
        let octets = edns.to_bytes().ok()?;
        self.out.extend_from_slice(&octets);
        (self.out.len() <= self.limit).then_some(())
    }

    fn name(&mut self, name: &Name) {
        let octets = wire(name);
        let mut at = 0;
        while let Some(length) = octets.get(at).filter(|length| **length != 0) {
            if let Some(known) = self.names.get(&octets[at..]) {
                self.out.extend_from_slice(&(POINTER | known).to_be_bytes());
                return;
            }
            let end = at + 1 + usize::from(*length);
            self.keep(&octets[at..], self.out.len());
            self.out.extend_from_slice(&octets[at..end]);
            at = end;
        }
        self.out.push(0);
    }

    /// Remembers a name that is written at `start`, and those above it.
    fn remember(&mut self, name: &Name, start: usize) {
        let octets = wire(name);
        let mut at = 0;
        while let Some(length) = octets.get(at).filter(|length| **length != 0) {
            self.keep(&octets[at..], start + at);
            at += 1 + usize::from(*length);
        }
    }

    fn keep(&mut self, name: &[u8], start: usize) {
        if start <= MAX_POINTER && self.names.len() < MAX_NAMES {
            self.names.entry(name.into()).or_insert(u16::try_from(start).unwrap_or_default());
        }
    }
}

/// An uncompressed name.
fn wire(name: &Name) -> Vec<u8> {
    let mut octets = Vec::with_capacity(64);
    for label in name.iter() {
        octets.push(u8::try_from(label.len()).unwrap_or_default());
        octets.extend_from_slice(label);
    }
    octets.push(0);
    octets
}

#[cfg(test)]
mod tests {
    use hickory_server::proto::{
        op::{OpCode, Query, ResponseCode},
        rr::{
            RecordType,
            rdata::{A, SRV, TXT, opt::EdnsOption},
        },
    };

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    /// A message with records of all kinds, as the library writes it and as this module does, means the same.
    #[test]
    fn messages_are_the_same_in_fewer_octets() {
        let mut message = Message::response(7, OpCode::Query);
        message.add_query(Query::query(name("Www.example.org."), RecordType::ANY));
        let soa = SOA::new(name("ns.example.org."), name("root.ns.example.org."), 1, 2, 3, 4, 5);
        let kinds = [
            RData::A(A([192, 0, 2, 1].into())),
            RData::NS(NS(name("ns.example.org."))),
            RData::CNAME(CNAME(name("www.example.org."))),
            RData::PTR(PTR(name("."))),
            RData::MX(MX::new(10, name("mail.example.net."))),
            RData::SOA(soa),
            RData::SRV(SRV::new(1, 2, 3, name("mail.example.net."))),
            RData::TXT(TXT::new(vec!["text".to_owned()])),
        ];
        for n in 0..400_u32 {
            let owner = name(&format!("host-{}.example.org.", n % 7));
            let data = kinds[n as usize % kinds.len()].clone();
            message.add_answer(Record::from_rdata(owner, n, data));
        }
        message.add_authority(Record::from_rdata(name("example.org."), 9, kinds[1].clone()));
        message.add_additional(Record::from_rdata(name("ns.example.org."), 9, kinds[0].clone()));
        let mut edns = Edns::new();
        edns.options_mut().insert(EdnsOption::Unknown(10, vec![1, 2, 3]));
        message.set_edns(edns);
        message.metadata.response_code = ResponseCode::BADCOOKIE;
        let (large, small) = (message.to_vec().unwrap(), compact(&message, MAX).unwrap());
        assert!(small.len() + 1000 < large.len(), "{} {}", small.len(), large.len());
        let (large, small) = (Message::from_vec(&large).unwrap(), Message::from_vec(&small).unwrap());
        assert_eq!(small, large);
        assert!(compact(&message, small.to_vec().unwrap().len().min(5000)).is_none());
    }

    #[test]
    fn a_limit_is_kept_to_the_octet() {
        let mut message = Message::response(7, OpCode::Query);
        message.add_query(Query::query(name("a.example.org."), RecordType::A));
        for n in 0..1000_u16 {
            let [high, low] = n.to_be_bytes();
            message.add_answer(Record::from_rdata(
                name("a.example.org."),
                5,
                RData::A(A([10, 0, high, low].into())),
            ));
        }
        let whole = HEADER + 15 + 4 + 1000 * 16;
        for (limit, fits) in [(whole - 1, false), (whole, true), (whole + 1, true)] {
            let length = encode_whole(&message, limit).map(|octets| octets.len());
            assert_eq!(length, fits.then_some(whole), "{limit}");
        }
    }
}
