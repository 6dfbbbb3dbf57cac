//! The rules that every reply must follow.

use dns::observe::metrics::Transport;
use hickory_server::proto::op::{Message, ResponseCode};

const HEADER: usize = 12;
const RESPONSE: u8 = 0x80;
const SMALLEST_PAYLOAD: u16 = 512;
const LARGEST_PAYLOAD: u16 = 1232;

pub fn judge(packet: &[u8], transport: Transport, reply: Option<&[u8]>) -> Result<(), String> {
    let must_be_dropped = packet.len() < HEADER || packet[2] & RESPONSE != 0;
    let Some(reply) = reply else {
        return if must_be_dropped { Ok(()) } else { Err("no reply to a query".to_owned()) };
    };
    if must_be_dropped {
        return Err("a reply to a packet that is not a query".to_owned());
    }
    let limit = limit(packet, transport);
    if reply.len() > limit {
        return Err(format!("a reply of {} octets, above the limit of {limit}", reply.len()));
    }
    if reply.len() < HEADER || reply[..2] != packet[..2] || reply[2] & RESPONSE == 0 {
        return Err("a reply with another id, or without QR".to_owned());
    }
    let read = Message::from_vec(reply).map_err(|error| format!("a malformed reply: {error}"))?;
    let query = Message::from_vec(packet).ok().filter(|query| query.queries.len() == 1);
    let repeats = |query: &Message| {
        read.queries == query.queries && read.queries[0].name().eq_case(query.queries[0].name())
    };
    // Refused before its OPT was read.
    let is_malformed = read.queries.is_empty() || read.metadata.response_code == ResponseCode::FormErr;
    match query {
        Some(query) if !read.queries.is_empty() && !repeats(&query) => Err("another question".to_owned()),
        Some(query) if query.edns.is_none() && read.edns.is_some() => {
            Err("an OPT in reply to a query without one".to_owned())
        }
        Some(query) if !is_malformed && query.edns.is_some() && read.edns.is_none() => {
            Err("no OPT in reply to a query with one".to_owned())
        }
        Some(_) | None => Ok(()),
    }
}

/// The largest permitted reply: the client's limit, or for a malformed query its own length.
fn limit(packet: &[u8], transport: Transport) -> usize {
    let Ok(query) = Message::from_vec(packet) else { return packet.len() };
    let payload = query.edns.map_or(SMALLEST_PAYLOAD, |edns| edns.max_payload());
    match transport {
        Transport::Udp => payload.clamp(SMALLEST_PAYLOAD, LARGEST_PAYLOAD).into(),
        Transport::Tcp => u16::MAX.into(),
    }
}
