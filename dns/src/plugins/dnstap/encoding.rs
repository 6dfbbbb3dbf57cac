//! The wire formats: frames of Frame Streams, and dnstap's messages in Protocol Buffers.

use std::{
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::observe::metrics::Transport;

/// Types of control frames.
pub(super) const ACCEPT: u32 = 1;
pub(super) const START: u32 = 2;
pub(super) const STOP: u32 = 3;
pub(super) const READY: u32 = 4;
/// The field of a control frame with the type of the content.
const CONTENT_TYPE: u32 = 1;
const CONTENT: &[u8] = b"protobuf:dnstap.Dnstap";

/// A control frame: an empty length, its own length, its type, and all but STOP the type of the content.
pub(super) fn control(kind: u32) -> Vec<u8> {
    let mut body = kind.to_be_bytes().to_vec();
    if kind != STOP {
        body.extend(CONTENT_TYPE.to_be_bytes());
        body.extend(length(CONTENT));
        body.extend(CONTENT);
    }
    [&[0_u8; 4][..], &length(&body), &body].concat()
}

pub(super) fn data_frame(message: &[u8], out: &mut Vec<u8>) {
    out.extend(length(message));
    out.extend(message);
}

fn length(octets: &[u8]) -> [u8; 4] {
    u32::try_from(octets.len()).unwrap_or(u32::MAX).to_be_bytes()
}

/// A query of a client, or the response to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientMessage<'m> {
    pub client: IpAddr,
    pub port: u16,
    pub transport: Transport,
    pub asked: SystemTime,
    pub octets: &'m [u8],
}

/// `Message.Type` of dnstap.proto.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    ClientQuery = 5,
    ClientResponse = 6,
}

pub(super) struct Tapped<'t> {
    pub kind: Kind,
    pub message: &'t ClientMessage<'t>,
    pub is_full: bool,
}

/// A `Dnstap` of dnstap.proto, with the identity, the version and the extra text where they are not empty.
pub(super) fn payload(texts: [&[u8]; 3], tapped: &Tapped<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    for (field, text) in (1..).zip(texts).filter(|(_, text)| !text.is_empty()) {
        bytes(&mut out, field, text);
    }
    bytes(&mut out, 14, &encoded(tapped));
    // The type MESSAGE.
    varint_field(&mut out, 15, 1);
    out
}

fn encoded(Tapped { kind, message, is_full }: &Tapped<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    varint_field(&mut out, 1, *kind as u64);
    varint_field(&mut out, 2, if message.client.is_ipv4() { 1 } else { 2 });
    varint_field(&mut out, 3, if message.transport == Transport::Udp { 1 } else { 2 });
    match message.client {
        IpAddr::V4(v4) => bytes(&mut out, 4, &v4.octets()),
        IpAddr::V6(v6) => bytes(&mut out, 4, &v6.octets()),
    }
    varint_field(&mut out, 6, message.port.into());
    time(&mut out, (8, 9), message.asked);
    let field = match kind {
        Kind::ClientQuery => 10,
        Kind::ClientResponse => {
            time(&mut out, (12, 13), SystemTime::now());
            14
        }
    };
    if *is_full {
        bytes(&mut out, field, message.octets);
    }
    out
}

/// Seconds, and nanoseconds as `fixed32`.
fn time(out: &mut Vec<u8>, (seconds, nanoseconds): (u64, u64), time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    varint_field(out, seconds, since.as_secs());
    varint(out, (nanoseconds << 3) | 5);
    out.extend(since.subsec_nanos().to_le_bytes());
}

fn varint_field(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn bytes(out: &mut Vec<u8>, field: u64, octets: &[u8]) {
    varint(out, (field << 3) | 2);
    varint(out, octets.len() as u64);
    out.extend(octets);
}

/// Seven bits an octet, the least significant first.
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
