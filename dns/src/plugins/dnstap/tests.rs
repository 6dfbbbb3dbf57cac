use std::{path::Path, time::SystemTime};

use tokio::net::UnixListener;

use super::*;
use crate::{
    corefile::{self, Source},
    observe::metrics::Transport,
};

fn parsed(line: &str) -> Result<Dnstap, CorefileError> {
    let text = format!(". {{\n{line}\n}}");
    let tree = corefile::read(Source::text(Path::new("Corefile"), &text), &|_| None);
    read(&tree.blocks[0].directives[0])
}

fn message(octets: &[u8]) -> ClientMessage<'_> {
    ClientMessage {
        client: "192.0.2.1".parse().unwrap(),
        port: 4242,
        transport: Transport::Udp,
        asked: SystemTime::UNIX_EPOCH + Duration::from_millis(7_500),
        octets,
    }
}

/// The fields of a message in Protocol Buffers: numbers, and octets.
fn fields(mut octets: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
    fn varint(octets: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (first, rest) = octets.split_first().unwrap();
            *octets = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !octets.is_empty() {
        let key = varint(&mut octets);
        let (number, data) = match key & 7 {
            0 => (varint(&mut octets), Vec::new()),
            5 => {
                let (fixed, rest) = octets.split_first_chunk().unwrap();
                octets = rest;
                (u32::from_le_bytes(*fixed).into(), Vec::new())
            }
            2 => {
                let length = usize::try_from(varint(&mut octets)).unwrap();
                let (data, rest) = octets.split_at(length);
                octets = rest;
                (0, data.to_vec())
            }
            other => panic!("wire type {other}"),
        };
        found.push((key >> 3, number, data));
    }
    found
}

fn number(fields: &[(u64, u64, Vec<u8>)], field: u64) -> Option<u64> {
    fields.iter().find(|(at, ..)| *at == field).map(|(_, number, _)| *number)
}

fn octets(fields: &[(u64, u64, Vec<u8>)], field: u64) -> Option<Vec<u8>> {
    fields.iter().find(|(at, ..)| *at == field).map(|(.., data)| data.clone())
}

async fn frame(stream: &mut UnixStream) -> Vec<u8> {
    let length = stream.read_u32().await.unwrap();
    let mut data = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut data).await.unwrap();
    data
}

#[tokio::test]
async fn a_collector_gets_queries_and_responses() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tap.sock");
    let collector = UnixListener::bind(&path).unwrap();
    let line = format!("dnstap unix://{} full {{\nidentity me\nversion 1\nextra x\n}}", path.display());
    let dropped = IntCounter::new("dropped", "dropped").unwrap();
    let taps = Taps::start(&[parsed(&line).unwrap()], &dropped);
    taps.query(&message(b"query"));
    taps.response(&message(b"response"));
    let (mut stream, _) = collector.accept().await.unwrap();
    assert!(frame(&mut stream).await.is_empty(), "an escape");
    let ready = frame(&mut stream).await;
    assert_eq!(ready, control(encoding::READY)[8..]);
    stream.write_all(&control(encoding::ACCEPT)).await.unwrap();
    assert!(frame(&mut stream).await.is_empty());
    assert_eq!(frame(&mut stream).await, control(encoding::START)[8..]);
    for (kind, field, want) in [(5, 10, &b"query"[..]), (6, 14, b"response")] {
        let outer = fields(&frame(&mut stream).await);
        assert_eq!([1, 2, 3].map(|field| octets(&outer, field).unwrap()), [&b"me"[..], b"1", b"x"]);
        assert_eq!(number(&outer, 15), Some(1));
        let inner = fields(&octets(&outer, 14).unwrap());
        let numbers = [1, 2, 3, 6, 8, 9].map(|field| number(&inner, field).unwrap());
        assert_eq!(numbers, [kind, 1, 1, 4242, 7, 500_000_000]);
        assert_eq!(octets(&inner, 4).unwrap(), [192, 0, 2, 1]);
        assert_eq!(octets(&inner, field).unwrap(), want);
        assert_eq!(number(&inner, 12).is_some(), kind == 6, "the time of the response");
    }
    drop(taps);
    assert!(frame(&mut stream).await.is_empty());
    assert_eq!(frame(&mut stream).await, encoding::STOP.to_be_bytes());
    assert_eq!(dropped.get(), 0);
}

#[tokio::test]
async fn messages_above_the_limits_are_dropped_and_counted() {
    let dropped = IntCounter::new("dropped", "dropped").unwrap();
    let setting = Dnstap { queue: 2, ..parsed("dnstap /nonexistent/tap.sock full").unwrap() };
    let taps = Taps::start(&[setting], &dropped);
    (0..5).for_each(|_| taps.query(&message(b"query")));
    assert_eq!(dropped.get(), 3, "by number");
    let taps = Taps::start(&[parsed("dnstap /nonexistent/tap.sock full").unwrap()], &dropped);
    let large = vec![0; 60_000];
    (0..1000).for_each(|_| taps.query(&message(&large)));
    let kept = u64::try_from(MAX_WAITING / 60_200).unwrap();
    assert!(
        (3 + 1000 - kept - 5..=3 + 1000 - kept + 5).contains(&dropped.get()),
        "by octets: {}",
        dropped.get()
    );
}

#[test]
fn options_are_read() {
    let tap = parsed("dnstap tcp://collector.example:6000 full 4 2").unwrap();
    assert_eq!(tap.collector, Collector::Tcp("collector.example:6000".to_owned()));
    assert_eq!((tap.full, tap.queue), (true, 20_000));
    let tap = parsed("dnstap /tmp/tap.sock").unwrap();
    assert_eq!((tap.collector, tap.full, tap.queue), (Collector::Unix("/tmp/tap.sock".into()), false, QUEUE));
    for (line, want) in [
        ("dnstap", "is to be written"),
        ("dnstap tcp://127.0.0.1", "has no port"),
        ("dnstap tls://127.0.0.1:6000", "`tls://` are not supported"),
        ("dnstap listen /tmp/tap.sock", "collectors are called"),
        ("dnstap /tmp/tap.sock full 0", "from 1 to 1024"),
        ("dnstap /tmp/tap.sock full 1 4097", "from 1 to 4096"),
        ("dnstap /tmp/tap.sock full 1 1 1", "is to be written"),
        ("dnstap /tmp/tap.sock {\nskipverify\n}", "`skipverify` is no option"),
        ("dnstap /tmp/tap.sock {\nidentity\n}", "`identity TEXT`"),
    ] {
        let error = parsed(line).unwrap_err().to_string();
        assert!(error.contains(want), "{line}: {error}");
    }
}
