//! The parts of a message that are handled as octets: its header, and its size.

use hickory_server::proto::{
    op::{Message, ResponseCode},
    serialize::binary::{BinEncodable as _, BinEncoder},
};

const HEADER: usize = 12;
const MIN_BUFFER: usize = 512;
const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const RECURSION_DESIRED: u16 = 0x0100;

#[derive(Clone, Copy, Debug)]
pub struct Header {
    id: [u8; 2],
    flags: u16,
}

impl Header {
    /// `None`: too short to be a message.
    pub fn parse(request: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER] = request.first_chunk()?;
        Some(Self { id: [header[0], header[1]], flags: u16::from_be_bytes([header[2], header[3]]) })
    }

    pub fn is_response(self) -> bool {
        self.flags & RESPONSE != 0
    }

    pub fn opcode(self) -> u8 {
        ((self.flags & OPCODE) >> 11) as u8
    }
}

/// A reply to what could not be read: nothing but a header.
pub fn refusal(header: Header, rcode: ResponseCode) -> Vec<u8> {
    let flags = RESPONSE | header.flags & (OPCODE | RECURSION_DESIRED) | u16::from(rcode.low());
    let mut reply = vec![0; HEADER];
    reply[..2].copy_from_slice(&header.id);
    reply[2..4].copy_from_slice(&flags.to_be_bytes());
    reply
}

/// The message in at most `limit` octets, its OPT always with it. What may be left out goes first, then answers go, and
/// TC says so.
pub fn encode(mut message: Message, limit: usize) -> Vec<u8> {
    if let Some(whole) = fitting(&message, limit) {
        return whole;
    }
    message.additionals.clear();
    if let Some(without) = fitting(&message, limit) {
        return without;
    }
    message.metadata.truncation = true;
    message.authorities.clear();
    let all = std::mem::take(&mut message.answers);
    let (mut fits, mut too_many) = (0, all.len() + 1);
    let mut best = None;
    while fits + 1 < too_many || best.is_none() {
        let count = usize::midpoint(fits, too_many);
        message.answers = all.iter().take(count).cloned().collect();
        match fitting(&message, limit) {
            Some(encoded) => (fits, best) = (count, Some(encoded)),
            None if count == 0 => break,
            None => too_many = count,
        }
    }
    best.unwrap_or_default()
}

fn fitting(message: &Message, limit: usize) -> Option<Vec<u8>> {
    let mut buffer = Vec::with_capacity(MIN_BUFFER);
    message.emit(&mut BinEncoder::new(&mut buffer)).ok()?;
    // Beyond 64 KiB the encoder leaves records out by itself, the OPT among them.
    let opt = usize::from(message.edns.is_some());
    let sections = [message.answers.len(), message.authorities.len(), message.additionals.len() + opt];
    let written =
        buffer.get(6..HEADER)?.chunks_exact(2).map(|count| u16::from_be_bytes([count[0], count[1]]));
    let is_whole = written.map(usize::from).eq(sections);
    (is_whole && buffer.len() <= limit).then_some(buffer)
}
