//! Decoding of the messages of upstreams. RDATA that the library cannot parse is kept as octets (RFC 3597).

use hickory_server::proto::{
    op::{Message, OpCode},
    rr::{RData, Record, RecordType, rdata::NULL},
    serialize::binary::DecodeError,
};

/// Types that are never kept as octets: their RDATA may hold compressed names (RFC 3597, section 4), or they are no
/// data (OPT, TSIG, SIG).
const STRUCTURED: [RecordType; 12] = [
    RecordType::NS,
    RecordType::CNAME,
    RecordType::SOA,
    RecordType::PTR,
    RecordType::MX,
    RecordType::SRV,
    RecordType::NAPTR,
    RecordType::A,
    RecordType::AAAA,
    RecordType::OPT,
    RecordType::SIG,
    RecordType::TSIG,
];
/// Obsolete types with compressed names: MD, MF, MB, MG, MR, MINFO, RP, AFSDB, RT, PX, NXT, KX and DNAME.
const OBSOLETE: [u16; 13] = [3, 4, 7, 8, 9, 14, 17, 18, 21, 26, 30, 36, 39];
/// The first type for private use: the library reads the data of these as octets.
const PRIVATE: u16 = 0xff00;
const MAX_PRIVATE: usize = 0xfe;
/// The bits of the opcode in the third octet of the header, and the opcode UPDATE (RFC 2136).
const OPCODE: u8 = 0x78;
const UPDATE: u8 = 5 << 3;
const HEADER: usize = 12;
/// Type and class of a question.
const QUESTION_TAIL: usize = 4;
/// Type, class, TTL and length of a record.
const RECORD_TAIL: usize = 10;

/// Decodes a message. The second attempt keeps the RDATA of all types without compressed names as octets.
pub(crate) fn decode(wire: &[u8]) -> Result<Message, DecodeError> {
    Message::from_vec(wire).or_else(|error| with_octets(wire).ok_or(error))
}

/// Gives the records private types for the library, and their own types back afterwards.
fn with_octets(wire: &[u8]) -> Option<Message> {
    let mut types = Vec::new();
    let mut message = Message::from_vec(&with_private_types(wire, &mut types)?).ok()?;
    message.metadata.op_code = OpCode::Query;
    let Message { answers, authorities, additionals, .. } = &mut message;
    answers.iter_mut().chain(authorities).chain(additionals).for_each(|record| restore_type(record, &types));
    Some(message)
}

fn restore_type(record: &mut Record, types: &[u16]) {
    let number = usize::from(u16::from(record.record_type()).wrapping_sub(PRIVATE));
    let Some(code) = types.get(number).copied().map(RecordType::from) else { return };
    let rdata = if let RData::Unknown { rdata, .. } = &mut record.data {
        std::mem::take(rdata)
    } else {
        // Empty RDATA.
        NULL::new()
    };
    record.data = RData::Unknown { code, rdata };
}

/// The message with a private type for each type in `types`, as an UPDATE, for which the library accepts empty RDATA.
/// Returns `None` if a record exceeds the message, or has no RDATA though its type needs some.
fn with_private_types(wire: &[u8], types: &mut Vec<u16>) -> Option<Vec<u8>> {
    let mut copy = wire.to_vec();
    let flags = copy.get_mut(2)?;
    *flags = *flags & !OPCODE | UPDATE;
    let mut at = HEADER;
    for _ in 0..u16_at(wire, 4)? {
        at = end_of_name(wire, at)? + QUESTION_TAIL;
    }
    let records =
        [6, 8, 10].into_iter().map(|count| u16_at(wire, count).map(u32::from)).sum::<Option<u32>>()?;
    for _ in 0..records {
        at = end_of_name(wire, at)?;
        let (qtype, length) = (u16_at(wire, at)?, u16_at(wire, at + 8)?);
        if !STRUCTURED.contains(&RecordType::from(qtype)) && !OBSOLETE.contains(&qtype) {
            let number = types.iter().position(|known| *known == qtype).unwrap_or(types.len());
            if number == types.len() {
                types.push(qtype);
            }
            let private = PRIVATE + u16::try_from(number).ok().filter(|_| number < MAX_PRIVATE)?;
            copy.get_mut(at..at + 2)?.copy_from_slice(&private.to_be_bytes());
        } else if length == 0 && qtype != u16::from(RecordType::OPT) {
            return None;
        }
        at += RECORD_TAIL + usize::from(length);
    }
    Some(copy)
}

fn u16_at(wire: &[u8], at: usize) -> Option<u16> {
    wire.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

/// The offset after a name, which may end with a pointer.
pub(crate) fn end_of_name(wire: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *wire.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=0x3f => at += 1 + usize::from(length),
            0xc0.. => return Some(at + 2),
            0x40..=0xbf => return None,
        }
    }
}
