//! Packets: real queries, most of them corrupted.

use hickory_server::proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{DNSClass, Name, RecordType, rdata::opt::EdnsOption},
};
use rand::{Rng as _, RngExt as _, rngs::StdRng, seq::IndexedRandom as _};

const NAMES: &[&str] = &[
    "web.shop.svc.cluster.local.",
    "WEB.Shop.SVC.Cluster.Local.",
    "_http._tcp.web.shop.svc.cluster.local.",
    "peers.shop.svc.cluster.local.",
    "peer-7.peers.shop.svc.cluster.local.",
    "_http._tcp.peers.shop.svc.cluster.local.",
    "near.shop.svc.cluster.local.",
    "loop.shop.svc.cluster.local.",
    "away.shop.svc.cluster.local.",
    "missing.shop.svc.cluster.local.",
    "10-1-0-1.shop.pod.cluster.local.",
    "fd00--1.shop.pod.cluster.local.",
    "dns-version.cluster.local.",
    "cluster.local.",
    "1.0.96.10.in-addr.arpa.",
    "1.0.1.10.in-addr.arpa.",
    "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
    "www.old.example.",
    "10.0.0.9.filled.example.",
    "listed.example.",
    "www.example.org.",
    "www.acme.local.",
    "localhost.",
    ".",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb.cluster.local.",
];
const QTYPES: &[u16] = &[1, 28, 33, 12, 5, 6, 2, 16, 255, 41, 43, 46, 64, 65, 250, 251, 252, 13, 0, 4711];
const PAYLOADS: &[u16] = &[0, 100, 512, 1232, 4096, 65_535];
const INTERESTING: &[u8] = &[0, 1, 12, 63, 64, 0x7f, 0x80, 0xc0, 0xff];
const MAX_CHANGES: u32 = 8;
const LARGEST: usize = 2048;

pub fn next(random: &mut StdRng) -> Vec<u8> {
    let mut packet = question(random);
    // One in four stays intact.
    if random.random_ratio(3, 4) {
        for _ in 0..random.random_range(1..=MAX_CHANGES) {
            corrupt(&mut packet, random);
        }
    }
    packet.truncate(LARGEST);
    packet
}

fn question(random: &mut StdRng) -> Vec<u8> {
    let qtype = RecordType::from(*QTYPES.choose(random).unwrap());
    let mut message = Message::new(random.random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = random.random();
    message.metadata.checking_disabled = random.random_ratio(1, 10);
    let mut query = Query::query(Name::from_ascii(NAMES.choose(random).unwrap()).unwrap(), qtype);
    if random.random_ratio(1, 50) {
        query.set_query_class(DNSClass::CH);
    }
    message.add_query(query);
    if random.random() {
        let mut edns = Edns::new();
        edns.set_max_payload(*PAYLOADS.choose(random).unwrap()).set_dnssec_ok(random.random());
        edns.set_version(u8::from(random.random_ratio(1, 20)));
        if random.random_ratio(1, 5) {
            let mut data = vec![0; random.random_range(0..40)];
            random.fill_bytes(&mut data);
            edns.options_mut().insert(EdnsOption::Unknown(random.random(), data));
        }
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

fn corrupt(packet: &mut Vec<u8>, random: &mut StdRng) {
    if packet.is_empty() {
        packet.push(random.random());
        return;
    }
    let at = random.random_range(0..packet.len());
    match random.random_range(0..10) {
        0 => packet[at] ^= 1 << random.random_range(0..8),
        1 => packet[at] = random.random(),
        2 => packet[at] = *INTERESTING.choose(random).unwrap(),
        3 => packet.insert(at, random.random()),
        4 => drop(packet.remove(at)),
        5 => packet.truncate(at),
        6 => insert_pointer(packet, at, random),
        7 => repeat_piece(packet, at, random),
        8 => change_count(packet, random),
        _ => packet.splice(at.., question(random)).for_each(drop),
    }
}

/// Writes a compression pointer, usually to an offset within the packet.
fn insert_pointer(packet: &mut Vec<u8>, at: usize, random: &mut StdRng) {
    let to = u16::try_from(random.random_range(0..packet.len() + 20)).unwrap() & 0x3fff;
    let pointer = (0xc000 | to).to_be_bytes();
    packet.splice(at..(at + 2).min(packet.len()), pointer).for_each(drop);
}

fn repeat_piece(packet: &mut Vec<u8>, at: usize, random: &mut StdRng) {
    let end = random.random_range(at..=packet.len());
    let piece = packet[at..end].to_vec();
    let times = random.random_range(1..30);
    let repeated = piece.repeat(times);
    packet.splice(end..end, repeated).for_each(drop);
    packet.truncate(LARGEST);
}

/// Overwrites the record count of one section.
fn change_count(packet: &mut [u8], random: &mut StdRng) {
    let section = 4 + 2 * random.random_range(0..4);
    if let Some(count) = packet.get_mut(section..section + 2) {
        let number: u16 = if random.random() { random.random_range(0..4) } else { random.random() };
        count.copy_from_slice(&number.to_be_bytes());
    }
}
