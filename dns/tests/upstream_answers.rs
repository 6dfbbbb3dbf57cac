//! Answers of upstreams as clients get them: large ones, and those of alternative upstreams.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use dns::{
    plugins,
    resolve::forward::ServerContext,
    serve::{run, server::Server},
};
use hickory_server::proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, NS, TXT},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn start(directives: &str) -> Server {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("Corefile");
    fs::write(&path, format!(". {{\n{directives}\n}}\n")).unwrap();
    let config = plugins::read(&path, &|_| None).unwrap();
    let listen = [(Ipv4Addr::LOCALHOST, 0).into()];
    run::start(&config, &listen, &Default::default(), &ServerContext::default()).unwrap()
}

async fn read(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut octets = vec![0; usize::from(length)];
    stream.read_exact(&mut octets).await?;
    Ok(octets)
}

async fn write(stream: &mut TcpStream, octets: &[u8]) {
    let length = u16::try_from(octets.len()).unwrap();
    stream.write_all(&[&length.to_be_bytes(), octets].concat()).await.unwrap();
}

/// An upstream over TCP.
async fn upstream(answer: fn(&Message) -> Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                while let Ok(query) = read(&mut stream).await {
                    let reply = answer(&Message::from_vec(&query).unwrap());
                    write(&mut stream, &reply).await;
                }
            });
        }
    });
    address
}

fn reply_to(query: &Message) -> Message {
    let mut reply = Message::response(query.metadata.id, OpCode::Query);
    reply.add_query(query.queries[0].clone());
    reply
}

/// The reply of a server, as octets and decoded.
async fn asked(server: &Server, name: &str, has_edns: bool) -> (usize, Message) {
    let mut question = Message::new(7, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::TXT));
    if has_edns {
        question.set_edns(Edns::new());
    }
    let mut stream = TcpStream::connect(server.addresses()[0]).await.unwrap();
    write(&mut stream, &question.to_vec().unwrap()).await;
    let octets = timeout(PATIENCE, read(&mut stream)).await.unwrap().unwrap();
    (octets.len(), Message::from_vec(&octets).unwrap())
}

/// The size in octets is the first label of the name.
fn of_size(query: &Message) -> Vec<u8> {
    /// The octets around the text of a record whose owner is a pointer to the question.
    const FRAME: usize = 13;
    let name = query.queries[0].name();
    let size: usize = std::str::from_utf8(name.iter().next().unwrap()).unwrap().parse().unwrap();
    let mut reply = reply_to(query).to_vec().unwrap();
    let mut count = 0_u16;
    while reply.len() < size {
        let left = size - reply.len();
        let record = if left > 2 * (FRAME + 200) {
            FRAME + 200
        } else if left > FRAME + 200 {
            left / 2
        } else {
            left
        };
        let text = u8::try_from(record - FRAME).unwrap();
        reply.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60, 0, text + 1, text]);
        // Equal records would be one.
        let [high, low] = count.to_be_bytes();
        reply.extend([high, low].into_iter().chain(std::iter::repeat(b'x')).take(text.into()));
        count += 1;
    }
    reply[6..8].copy_from_slice(&count.to_be_bytes());
    assert_eq!(reply.len(), size);
    reply
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_answers_arrive_whole() {
    const OPT: usize = 11;
    for directives in ["", " cache 30\n", " minimal\n"] {
        let server =
            start(&format!("{directives} forward . {} {{\n  force_tcp\n }}", upstream(of_size).await));
        for size in [63_999, 64_000, 64_001, 65_000, 65_523, 65_524, 65_534, 65_535] {
            // Twice, for the answer from the cache.
            for has_edns in [false, false, true] {
                let (length, message) = asked(&server, &format!("{size}.example."), has_edns).await;
                let whole = size + if has_edns { OPT } else { 0 };
                let is_whole = whole <= 65_535;
                let case = format!("{size} octets, EDNS {has_edns}, {directives:?}");
                assert_eq!(message.metadata.truncation, !is_whole, "{case}");
                assert_eq!(message.metadata.response_code, ResponseCode::NoError, "{case}");
                if is_whole {
                    assert_eq!(length, whole, "{case}");
                } else {
                    assert!(message.answers.len() > 100, "{case}: {length}");
                }
            }
        }
    }
}

/// An upstream over UDP that answers with the number of options.
async fn echo() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let count = query.edns.as_ref().map_or(0, |edns| edns.options().as_ref().len());
            let text = RData::TXT(TXT::new(vec![format!("second, {count} options")]));
            let mut reply = reply_to(&query);
            reply.add_answer(Record::from_rdata(query.queries[0].name().clone(), 60, text));
            reply.set_edns(Edns::new());
            socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
        }
    });
    address
}

/// A text, with an NS record and its address in the other sections.
fn with_name_server(query: &Message) -> Vec<u8> {
    let name = |text: &str| Name::from_ascii(text).unwrap();
    let mut reply = reply_to(query);
    let text = RData::TXT(TXT::new(vec!["x".to_owned()]));
    reply.add_answer(Record::from_rdata(query.queries[0].name().clone(), 60, text));
    reply.add_authority(Record::from_rdata(name("example."), 60, RData::NS(NS(name("ns.example.")))));
    reply.add_additional(Record::from_rdata(name("ns.example."), 60, RData::A(A(Ipv4Addr::LOCALHOST))));
    reply.to_vec().unwrap()
}

/// As CoreDNS does, with and without its cache. A stub resolver ignores them; `minimal` leaves them out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_sections_of_an_upstream_are_passed_on() {
    for (directives, want) in [("", 1), (" cache 30\n", 1), (" minimal\n", 0), (" cache 30\n minimal\n", 0)] {
        let upstream = upstream(with_name_server).await;
        let server = start(&format!("{directives} forward . {upstream} {{\n  force_tcp\n }}"));
        // Twice, for the answer from the cache.
        for _ in 0..2 {
            let (_, message) = asked(&server, "www.example.", false).await;
            let sections = [&message.answers, &message.authorities, &message.additionals].map(Vec::len);
            assert_eq!(sections, [1, want, want], "{directives:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alternate_answers_what_is_denied_elsewhere() {
    let first = upstream(|query| {
        let mut reply = reply_to(query);
        reply.metadata.response_code = match query.queries[0].name().iter().next().unwrap() {
            b"denied" => ResponseCode::NXDomain,
            b"refused" => ResponseCode::Refused,
            b"failed" => ResponseCode::ServFail,
            _ => ResponseCode::NoError,
        };
        reply.to_vec().unwrap()
    });
    let second = echo();
    let (first, second) = (first.await, second.await);

    for (directives, name, want) in [
        ("alternate NXDOMAIN . SECOND", "denied", "0 second, 0 options"),
        ("alternate NXDOMAIN . SECOND", "refused", "5 "),
        ("alternate NXDOMAIN . SECOND", "fine", "0 "),
        ("alternate original SERVFAIL,REFUSED . SECOND", "refused", "0 second, 0 options"),
        (
            "alternate SERVFAIL,refused . SECOND\n alternate NXDOMAIN . SECOND",
            "denied",
            "0 second, 0 options",
        ),
        ("rewrite edns0 local set 0xffee x\n alternate NXDOMAIN . SECOND", "denied", "0 second, 1 options"),
        (
            "rewrite edns0 local set 0xffee x\n alternate original NXDOMAIN . SECOND",
            "denied",
            "0 second, 0 options",
        ),
    ] {
        for cache in ["", "\n cache 30"] {
            let server = start(&format!(
                " forward . {first} {{\n  force_tcp\n }}\n {}{cache}",
                directives.replace("SECOND", &second.to_string())
            ));
            for _ in 0..2 {
                let (_, message) = asked(&server, &format!("{name}.example."), true).await;
                let text = message.answers.first().map(|record| record.data.to_string()).unwrap_or_default();
                let got = format!("{} {text}", message.metadata.response_code.low());
                assert_eq!(got, want, "{directives}{cache}: {name}");
            }
        }
    }
}
