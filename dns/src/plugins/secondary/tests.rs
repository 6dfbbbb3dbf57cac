use std::{net::Ipv4Addr, path::Path};

use hickory_server::proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{
        Name, RData, Record,
        rdata::{A, SOA},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::{
    cluster::name::domain,
    corefile::{self, Source},
};

fn setting(text: &str) -> Result<Secondary, CorefileError> {
    let text = format!("example.org {{\n secondary {text}\n}}");
    let tree = corefile::read(Source::text(Path::new("Corefile"), &text), &|_| None);
    assert!(tree.problems.is_empty(), "{:?}", tree.problems);
    read(&tree.blocks[0].directives[0], &Zones(vec![domain("example.org").unwrap()]))
}

#[test]
fn primaries_are_read() {
    for (text, zones, primaries) in [
        ("{\n transfer from 192.0.2.1\n}", "example.org.", "192.0.2.1:53"),
        (
            "a.example b.example {\n transfer from 192.0.2.1:54 fd00::1\n transfer from dns://[fd00::2]:55\n}",
            "a.example. b.example.",
            "192.0.2.1:54 [fd00::1]:53 [fd00::2]:55",
        ),
    ] {
        let setting = setting(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let joined = |texts: Vec<String>| texts.join(" ");
        assert_eq!(joined(setting.zones.0.iter().map(ToString::to_string).collect()), zones, "{text}");
        assert_eq!(joined(setting.primaries.iter().map(ToString::to_string).collect()), primaries, "{text}");
    }
    assert_eq!(setting("{\n transfer from 192.0.2.1\n fallthrough\n}").unwrap().fallthrough, Zones::all());
    for (text, line, want) in [
        ("", 2, "add `transfer from ADDRESS`"),
        ("{\n transfer from\n}", 3, "`transfer from ADDRESS...`"),
        ("{\n transfer to 192.0.2.1\n}", 3, "`transfer from ADDRESS...`"),
        ("{\n transfer from ns.example\n}", 3, "`ns.example` is no address"),
        ("{\n transfer from tls://192.0.2.1\n}", 3, "`tls://192.0.2.1` is no address"),
        ("{\n transfer from 192.0.2.1\n catalog\n}", 4, "catalogs of zones are not followed"),
        ("{\n upstream\n}", 3, "`upstream` is no option of `secondary`"),
    ] {
        let error = setting(text).unwrap_err().to_string();
        assert!(error.contains(&format!(":{line}: ")) && error.contains(want), "{text}: {error}");
    }
}

fn soa(zone: &str, serial: u32) -> Record {
    let name = Name::from_ascii(zone).unwrap();
    Record::from_rdata(name.clone(), 60, RData::SOA(SOA::new(name.clone(), name, serial, 60, 1, 60, 60)))
}

fn address(name: &str) -> Record {
    Record::from_rdata(Name::from_ascii(name).unwrap(), 60, RData::A(A(Ipv4Addr::LOCALHOST)))
}

/// A primary that answers the first query of each connection with these messages, and closes it.
async fn primary_with(messages: Vec<Vec<Record>>, change: fn(&mut Message)) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let length = stream.read_u16().await.unwrap();
            let mut octets = vec![0; usize::from(length)];
            stream.read_exact(&mut octets).await.unwrap();
            let query = Message::from_vec(&octets).unwrap();
            for records in &messages {
                let mut reply = Message::response(query.metadata.id, OpCode::Query);
                reply.add_answers(records.clone());
                change(&mut reply);
                let octets = reply.to_vec().unwrap();
                stream.write_u16(u16::try_from(octets.len()).unwrap()).await.unwrap();
                stream.write_all(&octets).await.unwrap();
            }
        }
    });
    address
}

#[tokio::test]
async fn only_a_whole_zone_is_used() {
    let zone = "example.org.";
    let whole =
        vec![vec![soa(zone, 7), address("a.example.org.")], vec![address("b.example.net."), soa(zone, 7)]];
    let unchanged: fn(&mut Message) = |_| {};
    for (case, messages, change, want) in [
        ("whole", whole.clone(), unchanged, "serial 7, 1 foreign"),
        ("one message", vec![whole.concat()], unchanged, "serial 7, 1 foreign"),
        (
            "more after the end",
            vec![whole.concat(), vec![address("c.example.org.")]],
            unchanged,
            "serial 7, 1 foreign",
        ),
        ("cut", vec![whole[0].clone()], unchanged, "the connection failed"),
        ("nothing", vec![], unchanged, "the connection failed"),
        ("no SOA", vec![vec![address("a.example.org.")]], unchanged, "does not begin with the SOA record"),
        ("another zone", vec![vec![soa("example.net.", 7)]], unchanged, "does not begin with the SOA record"),
        ("changed", vec![vec![soa(zone, 7), soa(zone, 8)]], unchanged, "the zone changed"),
        ("empty", vec![vec![soa(zone, 7)], vec![]], unchanged, "a message has no records"),
        (
            "refused",
            whole.clone(),
            |reply| reply.metadata.response_code = ResponseCode::NotAuth,
            "the primary answers",
        ),
        ("another id", whole.clone(), |reply| reply.metadata.id ^= 1, "to another query"),
    ] {
        let primary = primary_with(messages, change).await;
        let got = match fetch(primary, &domain("example.org").unwrap()).await {
            Ok(zone) => format!("serial {}, {} foreign", zone.serial(), zone.foreign),
            Err(error) => error.to_string(),
        };
        assert!(got.contains(want), "{case}: {got}");
    }
}
