//! Transfers of zones to other servers, and their notification.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/free_port.rs"]
mod free_port;

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use dns::{
    plugins,
    resolve::forward::ServerContext,
    serve::{run, server::Server},
};
use free_port::free_port;
use hickory_server::proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::SOA},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

const ADDRESSES: usize = 3000;
const PATIENCE: Duration = Duration::from_secs(60);

fn write_zone(directory: &Path, serial: u32) {
    let mut text = format!("@ 300 IN SOA ns.example.org. root.example.org. {serial} 60 60 60 60\n@ NS ns\n");
    for n in 0..ADDRESSES {
        writeln!(text, "a-rather-long-name-of-a-host-{n} A 10.0.{}.{}", n / 256, n % 256).unwrap();
    }
    let path = directory.join("zone");
    fs::write(directory.join("new"), text).unwrap();
    fs::rename(directory.join("new"), path).unwrap();
}

fn start(directory: &Path, to: &str) -> Server {
    let zone = directory.join("zone");
    let file = format!(" file {} example.org {{\n  reload 50ms\n }}\n", zone.display());
    let corefile = format!(". {{\n{file} transfer {{\n  to {to}\n }}\n}}\n");
    let path = directory.join("Corefile");
    fs::write(&path, corefile).unwrap();
    let config = plugins::read(&path, &|_| None).unwrap();
    let listen = [(Ipv4Addr::LOCALHOST, 0).into()];
    run::start(&config, &listen, &Default::default(), &ServerContext::default()).unwrap()
}

fn request(zone: &str, qtype: RecordType, serial: Option<u32>) -> Message {
    let mut request = Message::new(77, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii(zone).unwrap();
    request.add_query(Query::query(name.clone(), qtype));
    if let Some(serial) = serial {
        let soa = SOA::new(Name::root(), Name::root(), serial, 0, 0, 0, 0);
        request.add_authority(Record::from_rdata(name, 0, RData::SOA(soa)));
    }
    request
}

async fn read(stream: &mut TcpStream) -> Message {
    let length = stream.read_u16().await.unwrap();
    let mut octets = vec![0; usize::from(length)];
    stream.read_exact(&mut octets).await.unwrap();
    Message::from_vec(&octets).unwrap()
}

/// The number of messages and the records of a transfer, or its rcode.
async fn transferred(server: SocketAddr, request: &Message) -> Result<(usize, Vec<Record>), ResponseCode> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let octets = request.to_vec().unwrap();
    stream.write_u16(octets.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&octets).await.unwrap();
    let (mut messages, mut records) = (0, Vec::new());
    loop {
        let message = timeout(PATIENCE, read(&mut stream)).await.unwrap();
        if message.metadata.response_code != ResponseCode::NoError {
            return Err(message.metadata.response_code);
        }
        assert!(message.metadata.id == 77 && message.metadata.authoritative && !message.metadata.truncation);
        messages += 1;
        records.extend(message.answers);
        let is_soa =
            |record: Option<&Record>| record.is_some_and(|record| record.record_type() == RecordType::SOA);
        assert!(is_soa(records.first()), "the SOA record comes first");
        let is_current = request.queries[0].query_type == RecordType::IXFR && records.len() == 1;
        if is_current || records.len() > 1 && is_soa(records.last()) {
            return Ok((messages, records));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_is_transferred_whole_and_only_to_those_who_may() {
    let directory = tempfile::tempdir().unwrap();
    write_zone(directory.path(), 5);
    let server = start(directory.path(), "127.0.0.0/8");
    let address = server.addresses()[0];
    let (messages, records) =
        transferred(address, &request("Example.ORG.", RecordType::AXFR, None)).await.unwrap();
    assert_eq!(records.len(), ADDRESSES + 3);
    assert!(messages > 2, "{messages} messages");
    assert_eq!(records[0], records[ADDRESSES + 2]);
    for (zone, qtype, serial, want) in [
        ("example.org.", RecordType::IXFR, Some(4), Ok(ADDRESSES + 3)),
        ("example.org.", RecordType::IXFR, Some(5), Ok(1)),
        ("example.org.", RecordType::IXFR, Some(6), Ok(1)),
        ("example.org.", RecordType::IXFR, None, Ok(ADDRESSES + 3)),
        ("a.example.org.", RecordType::AXFR, None, Err(ResponseCode::NotAuth)),
        ("example.net.", RecordType::AXFR, None, Err(ResponseCode::NotAuth)),
    ] {
        let got = transferred(address, &request(zone, qtype, serial)).await.map(|(_, records)| records.len());
        assert_eq!(got, want, "{zone} {qtype} {serial:?}");
    }
    let other = start(directory.path(), "192.0.2.1");
    let got = transferred(other.addresses()[0], &request("example.org.", RecordType::AXFR, None)).await;
    assert_eq!(got, Err(ResponseCode::Refused));
    // Over UDP there is none.
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let request = request("example.org.", RecordType::AXFR, None).to_vec().unwrap();
    socket.send_to(&request, address).await.unwrap();
    let mut reply = [0; 512];
    let length = timeout(PATIENCE, socket.recv(&mut reply)).await.unwrap().unwrap();
    let reply = Message::from_vec(&reply[..length]).unwrap();
    assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::Refused, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secondaries_are_notified_of_changes() {
    let directory = tempfile::tempdir().unwrap();
    write_zone(directory.path(), 5);
    let secondary = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let _server = start(directory.path(), &format!("* {}", secondary.local_addr().unwrap()));
    let mut buffer = [0; 512];
    // At the start, and after a change.
    for serial in [6, 7] {
        let (length, from) = timeout(PATIENCE, secondary.recv_from(&mut buffer)).await.unwrap().unwrap();
        let notification = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(notification.metadata.op_code, OpCode::Notify);
        assert!(notification.metadata.authoritative);
        let question = &notification.queries[0];
        assert_eq!(
            (question.name.to_string().as_str(), question.query_type),
            ("example.org.", RecordType::SOA)
        );
        let mut reply = buffer[..length].to_vec();
        reply[2] |= 0x80;
        secondary.send_to(&reply, from).await.unwrap();
        write_zone(directory.path(), serial);
    }
}

/// A primary whose zone may change, and its secondary, which is notified.
struct Pair {
    directory: tempfile::TempDir,
    primary: Server,
    secondary: Server,
}

fn write_small(directory: &Path, serial: u32) {
    let text = format!(
        "@ 5 IN SOA ns.example.org. root.example.org. {serial} 3600 1 3 5\n@ NS ns\na A 10.0.0.{serial}\n"
    );
    fs::write(directory.join("new"), text).unwrap();
    fs::rename(directory.join("new"), directory.join("zone")).unwrap();
}

async fn pair() -> Pair {
    let directory = tempfile::tempdir().unwrap();
    write_small(directory.path(), 1);
    let port = free_port();
    let primary = start(directory.path(), &format!("127.0.0.1:{port}"));
    let text =
        format!("example.org {{\n secondary {{\n  transfer from {}\n }}\n}}\n", primary.addresses()[0]);
    let path = directory.path().join("Secondary");
    fs::write(&path, text).unwrap();
    let config = plugins::read(&path, &|_| None).unwrap();
    let listen = [(Ipv4Addr::LOCALHOST, port).into()];
    let secondary = run::start(&config, &listen, &Default::default(), &ServerContext::default()).unwrap();
    Pair { directory, primary, secondary }
}

/// A secondary has the signatures and the proofs of its primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_zone_is_transferred_whole() {
    let Pair { directory, primary, secondary } = pair().await;
    let signed = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/signed/nsec3");
    fs::copy(signed, directory.path().join("new")).unwrap();
    fs::rename(directory.path().join("new"), directory.path().join("zone")).unwrap();
    let reply = async |server: &Server| {
        let mut request = request("none.example.org.", RecordType::A, None);
        let mut edns = Edns::new();
        edns.set_dnssec_ok(true).set_max_payload(1232);
        request.set_edns(edns);
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.send_to(&request.to_vec().unwrap(), server.addresses()[0]).await.unwrap();
        let mut buffer = [0; 1232];
        let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
        Message::from_vec(&buffer[..length]).unwrap().authorities
    };
    let follows = async {
        loop {
            let [of_primary, of_secondary] = [reply(&primary).await, reply(&secondary).await];
            // The SOA record, three NSEC3 records, and a signature of each.
            if of_primary.len() == 8 && of_primary == of_secondary {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, follows).await.unwrap();
}

/// The rcode and the first answer.
async fn asked(server: SocketAddr) -> String {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.send_to(&request("a.example.org.", RecordType::A, None).to_vec().unwrap(), server).await.unwrap();
    let mut buffer = [0; 512];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    let reply = Message::from_vec(&buffer[..length]).unwrap();
    let data = reply.answers.first().map(|record| record.data.to_string());
    format!("{} {}", reply.metadata.response_code.low(), data.unwrap_or_default())
}

async fn becomes(server: SocketAddr, want: &str) {
    let mut got = String::new();
    let becomes = async {
        while got != want {
            got = asked(server).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let is_reached = timeout(PATIENCE, becomes).await.is_ok();
    assert!(is_reached, "{got} instead of {want}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secondary_follows_its_primary_and_expires_without_it() {
    let Pair { directory, primary, secondary } = pair().await;
    let address = secondary.addresses()[0];
    becomes(address, "0 10.0.0.1").await;
    // The refresh timer is an hour: only NOTIFY tells.
    write_small(directory.path(), 2);
    becomes(address, "0 10.0.0.2").await;

    // Another host than the primary gets no answer.
    let mut notification = request("example.org.", RecordType::SOA, None);
    notification.metadata.op_code = OpCode::Notify;
    let octets = notification.to_vec().unwrap();
    let [stranger, own] =
        [2, 1].map(|last| std::net::UdpSocket::bind((Ipv4Addr::new(127, 0, 0, last), 0)).unwrap());
    stranger.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    own.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 512];
    stranger.send_to(&octets, address).unwrap();
    assert!(stranger.recv(&mut buffer).is_err());
    own.send_to(&octets, address).unwrap();
    let length = own.recv(&mut buffer).unwrap();
    let reply = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(
        (reply.metadata.op_code, reply.metadata.response_code),
        (OpCode::Notify, ResponseCode::NoError)
    );
    assert!(reply.metadata.authoritative);

    primary.stop().await;
    becomes(address, "2 ").await;
}
