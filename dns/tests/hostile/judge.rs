//! What a reply may be.

use dns::metrics::Protocol;
use hickory_server::proto::op::Message;

const HEADER: usize = 12;
const RESPONSE: u8 = 0x80;
const SMALLEST_PAYLOAD: u16 = 512;
const LARGEST_PAYLOAD: u16 = 1232;

pub fn judge(packet: &[u8], protocol: Protocol, reply: Option<&[u8]>) -> Result<(), String> {
    let must_be_dropped = packet.len() < HEADER || packet[2] & RESPONSE != 0;
    let Some(reply) = reply else {
        return if must_be_dropped { Ok(()) } else { Err("no reply to a question".to_owned()) };
    };
    if must_be_dropped {
        return Err("a reply to what is no question".to_owned());
    }
    let limit = limit(packet, protocol);
    if reply.len() > limit {
        return Err(format!("a reply of {} octets where {limit} are the most", reply.len()));
    }
    if reply.len() < HEADER || reply[..2] != packet[..2] || reply[2] & RESPONSE == 0 {
        return Err("a reply to something else".to_owned());
    }
    let read = Message::from_vec(reply).map_err(|error| format!("a reply that cannot be read: {error}"))?;
    let asked = Message::from_vec(packet).ok().filter(|asked| asked.queries.len() == 1);
    let repeats = |asked: &Message| {
        read.queries == asked.queries && read.queries[0].name().eq_case(asked.queries[0].name())
    };
    match asked {
        Some(asked) if !read.queries.is_empty() && !repeats(&asked) => Err("another question".to_owned()),
        Some(asked) if asked.edns.is_none() && read.edns.is_some() => {
            Err("an OPT that nobody sent".to_owned())
        }
        Some(asked) if !read.queries.is_empty() && asked.edns.is_some() && read.edns.is_none() => {
            Err("no OPT in reply to one".to_owned())
        }
        Some(_) | None => Ok(()),
    }
}

/// As much as the client can take; nothing but a header for what cannot be read.
fn limit(packet: &[u8], protocol: Protocol) -> usize {
    let Ok(asked) = Message::from_vec(packet) else { return HEADER };
    let payload = asked.edns.map_or(SMALLEST_PAYLOAD, |edns| edns.max_payload());
    match protocol {
        Protocol::Udp => payload.clamp(SMALLEST_PAYLOAD, LARGEST_PAYLOAD).into(),
        Protocol::Tcp => u16::MAX.into(),
    }
}
