//! The answers of a server that was started with a Corefile.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use dns::{
    plugins,
    resolve::forward::ServerContext,
    serve::{run, server::Server},
};
use hickory_server::proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, CNAME, TXT},
    },
};
use tokio::net::UdpSocket;

const COREFILE: &str = "\
. {
    any
    rewrite name suffix .outer.example .inner.example
    hosts /nonexistent {
        10.0.0.1 listed.inner.example listed.example
        fallthrough
    }
    template IN AAAA {
        rcode NOERROR
    }
    forward . UPSTREAM
    cache 30
}
acme.local {
    forward . UPSTREAM {
        except not.acme.local
    }
}
";

/// An upstream that answers every query with a CNAME and an address.
async fn upstream() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let mut reply = Message::response(query.metadata.id, OpCode::Query);
            let name = query.queries[0].name().clone();
            let target = Name::from_ascii("alias.example.").unwrap();
            reply.add_query(query.queries[0].clone());
            reply.add_answer(Record::from_rdata(name, 300, RData::CNAME(CNAME(target.clone()))));
            reply.add_answer(Record::from_rdata(target, 300, RData::A(A(Ipv4Addr::new(192, 0, 2, 1)))));
            socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
        }
    });
    address
}

async fn start() -> Server {
    start_with(&COREFILE.replace("UPSTREAM", &upstream().await.to_string()))
}

fn start_with(corefile: &str) -> Server {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("Corefile");
    std::fs::write(&path, corefile).unwrap();
    let config = plugins::read(&path, &|_| None).unwrap();
    let listen = [(Ipv4Addr::LOCALHOST, 0).into()];
    run::start(&config, &listen, &Arc::default(), &ServerContext::default()).unwrap()
}

async fn query(server: &Server, name: &str, qtype: RecordType) -> String {
    query_from(Ipv4Addr::LOCALHOST, server, name, qtype).await
}

async fn query_from(client: Ipv4Addr, server: &Server, name: &str, qtype: RecordType) -> String {
    let socket = UdpSocket::bind((client, 0)).await.unwrap();
    socket.connect(server.addresses()[0]).await.unwrap();
    let mut question = Message::new(7, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), qtype));
    socket.send(&question.to_vec().unwrap()).await.unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).await.unwrap();
    let reply = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(reply.queries, question.queries, "{name} {qtype}");
    let records = reply.answers.iter().map(|record| format!(" | {} {}", record.name, record.data));
    format!("{}{}", reply.metadata.response_code, records.collect::<String>())
}

#[tokio::test]
async fn directives_of_a_block_take_effect() {
    let server = start().await;
    for (name, qtype, want) in [
        ("Listed.example.", RecordType::A, "No Error | Listed.example. 10.0.0.1"),
        ("Listed.Outer.example.", RecordType::A, "No Error | Listed.Outer.example. 10.0.0.1"),
        ("www.example.", RecordType::AAAA, "No Error"),
        ("www.example.", RecordType::ANY, "No Error | www.example. ANY obsoleted See RFC 8482"),
        ("localhost.", RecordType::A, "No Error | localhost. 127.0.0.1"),
        ("www.example.", RecordType::A, "No Error | www.example. alias.example. | alias.example. 192.0.2.1"),
        ("WWW.example.", RecordType::A, "No Error | WWW.example. alias.example. | alias.example. 192.0.2.1"),
        (
            "www.outer.example.",
            RecordType::A,
            "No Error | www.outer.example. alias.example. | alias.example. 192.0.2.1",
        ),
        (
            "x.acme.local.",
            RecordType::A,
            "No Error | x.acme.local. alias.example. | alias.example. 192.0.2.1",
        ),
        ("x.not.acme.local.", RecordType::A, "Query Refused"),
    ] {
        assert_eq!(query(&server, name, qtype).await, want, "{name} {qtype}");
    }
}

/// An upstream that answers with the options of the query, and the number of queries before it.
async fn echo() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        for count in 0_u32.. {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let mut reply = Message::response(query.metadata.id, OpCode::Query);
            let name = query.queries[0].name().clone();
            reply.add_query(query.queries[0].clone());
            let options =
                query.edns.as_ref().unwrap().options().as_ref().iter().map(|(code, option)| {
                    format!("{} {:?}", u16::from(*code), Vec::try_from(option).unwrap())
                });
            let text = format!("{count}: {}", options.collect::<Vec<_>>().join(", "));
            reply.add_answer(Record::from_rdata(name, 300, RData::TXT(TXT::new(vec![text]))));
            socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn options_reach_upstreams_and_belong_to_a_cached_answer() {
    let rules = "rewrite continue edns0 local set 0xffee {client_ip}\n rewrite edns0 subnet set 24 56";
    let server = start_with(&format!(". {{\n {rules}\n forward . {}\n cache 30\n}}\n", echo().await));
    let client = |last| Ipv4Addr::new(127, 0, 0, last);
    for (from, want) in [
        (client(1), "0: 8 [0, 1, 24, 0, 127, 0, 0], 65518 [127, 0, 0, 1]"),
        (client(2), "1: 8 [0, 1, 24, 0, 127, 0, 0], 65518 [127, 0, 0, 2]"),
        // From the cache.
        (client(1), "0: 8 [0, 1, 24, 0, 127, 0, 0], 65518 [127, 0, 0, 1]"),
    ] {
        let got = query_from(from, &server, "a.example.", RecordType::TXT).await;
        assert_eq!(got, format!("No Error | a.example. {want}"), "{from}");
    }
}

#[tokio::test]
async fn a_view_knows_the_address_of_the_server() {
    let template =
        |text: &str| format!(" template IN TXT {{\n  answer \"{{{{ .Name }}}} 5 IN TXT {text}\"\n }}\n");
    let server = start_with(&format!(
        ". {{\n view a {{\n  expr server_ip() == '127.0.0.1'\n }}\n{}}}\n. {{\n{}}}\n",
        template("here"),
        template("elsewhere"),
    ));
    assert_eq!(query(&server, "a.example.", RecordType::TXT).await, "No Error | a.example. here");
}
