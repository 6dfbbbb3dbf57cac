//! Queries, assembled octet by octet, so that they do not pass through the library that the server uses.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::state::{Edns, Query, Transport};

const TIMEOUT: Duration = Duration::from_secs(8);
const ID: [u8; 2] = [0xab, 0xcd];

pub async fn send(server: SocketAddr, query: &Query, transport: Transport) -> Option<Vec<u8>> {
    let message = message(query);
    timeout(TIMEOUT, async {
        match transport {
            Transport::Udp => over_udp(server, &message).await,
            Transport::Tcp => over_tcp(server, &message).await,
        }
    })
    .await
    .ok()
    .flatten()
}

async fn over_udp(server: SocketAddr, message: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.ok()?;
    socket.connect(server).await.ok()?;
    socket.send(message).await.ok()?;
    let mut reply = vec![0; 65_536];
    let len = socket.recv(&mut reply).await.ok()?;
    reply.truncate(len);
    Some(reply)
}

async fn over_tcp(server: SocketAddr, message: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await.ok()?;
    stream.write_u16(message.len().try_into().ok()?).await.ok()?;
    stream.write_all(message).await.ok()?;
    let len = stream.read_u16().await.ok()?;
    let mut reply = vec![0; len.into()];
    stream.read_exact(&mut reply).await.ok()?;
    Some(reply)
}

fn message(query: &Query) -> Vec<u8> {
    let flags = opcode(&query.opcode) << 11 | u16::from(query.rd) << 8;
    let mut message = ID.to_vec();
    let additional = u16::from(query.edns.is_some());
    for field in [flags, query.qdcount, 0, 0, additional] {
        message.extend(field.to_be_bytes());
    }
    for _ in 0..query.qdcount {
        message.extend(question(&query.qname, &query.qtype, &query.qclass));
    }
    message.extend(query.edns.iter().flat_map(opt));
    message
}

/// The question section, which the reply must repeat unchanged.
pub fn question(name: &str, qtype: &str, class: &str) -> Vec<u8> {
    let mut question = Vec::new();
    for label in labels(name) {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend(label);
    }
    question.push(0);
    question.extend(qtype_number(qtype).to_be_bytes());
    question.extend(class_number(class).to_be_bytes());
    question
}

/// Splits a name at its dots; `\DDD` and `\X` are escaped octets (RFC 1035, section 5.1).
fn labels(name: &str) -> Vec<Vec<u8>> {
    let mut labels = vec![Vec::new()];
    let mut octets = name.bytes();
    while let Some(octet) = octets.next() {
        match octet {
            b'.' => labels.push(Vec::new()),
            b'\\' => {
                let rest: Vec<u8> = octets.clone().take(3).collect();
                let number = std::str::from_utf8(&rest).ok().and_then(|text| text.parse().ok());
                let escaped =
                    number.filter(|_| rest.len() == 3).inspect(|_| assert!(octets.nth(2).is_some()));
                let last = labels.last_mut().unwrap();
                last.push(escaped.unwrap_or_else(|| octets.next().unwrap()));
            }
            _ => labels.last_mut().unwrap().push(octet),
        }
    }
    labels.retain(|label| !label.is_empty());
    labels
}

fn opt(edns: &Edns) -> Vec<u8> {
    let flags = u16::from(edns.dnssec_ok) << 15;
    let mut opt = vec![0, 0, 41];
    opt.extend(edns.udp_size.to_be_bytes());
    opt.extend([0, edns.version]);
    opt.extend(flags.to_be_bytes());
    opt.extend([0, 0]);
    opt
}

fn opcode(value: &Value) -> u16 {
    match value.as_str() {
        None => value.as_u64().unwrap().try_into().unwrap(),
        Some("IQUERY") => 1,
        Some("STATUS") => 2,
        Some("NOTIFY") => 4,
        Some("UPDATE") => 5,
        Some(_) => 0,
    }
}

fn qtype_number(qtype: &str) -> u16 {
    let known = [
        ("A", 1),
        ("NS", 2),
        ("CNAME", 5),
        ("SOA", 6),
        ("PTR", 12),
        ("HINFO", 13),
        ("MX", 15),
        ("TXT", 16),
        ("AAAA", 28),
        ("SRV", 33),
        ("NAPTR", 35),
        ("DS", 43),
        ("DNSKEY", 48),
        ("SVCB", 64),
        ("HTTPS", 65),
        ("IXFR", 251),
        ("AXFR", 252),
        ("ANY", 255),
        ("CAA", 257),
    ];
    let number = known.iter().find(|(name, _)| *name == qtype).map(|(_, number)| *number);
    number.or_else(|| qtype.strip_prefix("TYPE")?.parse().ok()).unwrap_or_else(|| panic!("type {qtype}"))
}

fn class_number(class: &str) -> u16 {
    match class {
        "IN" => 1,
        "CH" => 3,
        "HS" => 4,
        "ANY" => 255,
        other => panic!("class {other}"),
    }
}
