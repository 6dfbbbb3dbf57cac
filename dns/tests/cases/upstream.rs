//! A DNS server with a fixed list of records, over UDP and TCP.

use std::{net::SocketAddr, str::FromStr as _, sync::Arc};

use hickory_server::proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};

use super::state::Zone;

pub struct Upstream {
    pub address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Upstream {
    pub async fn start(zone: &Zone) -> Self {
        let records: Arc<Vec<Record>> = Arc::new(zone.records.iter().map(|line| record(line)).collect());
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // The port may be in use for TCP.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, records.clone()));
        tasks.spawn(serve_tcp(tcp, records));
        Self { address, _tasks: tasks }
    }
}

async fn serve_udp(socket: UdpSocket, records: Arc<Vec<Record>>) {
    let mut buffer = vec![0; 4096];
    while let Ok((len, client)) = socket.recv_from(&mut buffer).await {
        socket.send_to(&reply(&buffer[..len], &records), client).await.unwrap();
    }
}

async fn serve_tcp(listener: TcpListener, records: Arc<Vec<Record>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let records = records.clone();
        tokio::spawn(async move {
            while let Ok(len) = stream.read_u16().await {
                let mut request = vec![0; len.into()];
                stream.read_exact(&mut request).await.unwrap();
                let reply = reply(&request, &records);
                stream.write_u16(reply.len().try_into().unwrap()).await.unwrap();
                stream.write_all(&reply).await.unwrap();
            }
        });
    }
}

fn reply(request: &[u8], records: &[Record]) -> Vec<u8> {
    let request = Message::from_vec(request).unwrap();
    let question = request.queries[0].clone();
    let mut reply = Message::new(request.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.recursion_available = true;
    let mut name = question.name.clone();
    // Follow CNAMEs, as a resolver does.
    loop {
        let of_name = || records.iter().filter(|record| record.name == name);
        let alias = of_name().find(|record| record.record_type() == RecordType::CNAME);
        match alias {
            Some(record) if question.query_type != RecordType::CNAME => {
                let RData::CNAME(target) = &record.data else { unreachable!() };
                reply.answers.push(record.clone());
                name = target.0.clone();
            }
            _ => {
                if of_name().next().is_none() {
                    reply.metadata.response_code = ResponseCode::NXDomain;
                }
                reply
                    .answers
                    .extend(of_name().filter(|record| record.record_type() == question.query_type).cloned());
                break;
            }
        }
    }
    reply.queries.push(question);
    reply.to_vec().unwrap()
}

fn record(line: &str) -> Record {
    let mut words = line.split_whitespace();
    let mut word = || words.next().unwrap_or_else(|| panic!("{line}"));
    let (name, ttl, rtype) = (word(), word(), word());
    let value = word();
    let data = match rtype {
        "A" => RData::A(value.parse().unwrap()),
        "AAAA" => RData::AAAA(value.parse().unwrap()),
        "CNAME" => RData::CNAME(rdata::CNAME(Name::from_str(value).unwrap())),
        "PTR" => RData::PTR(rdata::PTR(Name::from_str(value).unwrap())),
        "NS" => RData::NS(rdata::NS(Name::from_str(value).unwrap())),
        "TXT" => RData::TXT(rdata::TXT::new(vec![value.trim_matches('"').to_owned()])),
        "MX" => {
            let target = Name::from_str(words.next().unwrap()).unwrap();
            RData::MX(rdata::MX::new(value.parse().unwrap(), target))
        }
        other => panic!("type {other} in {line}"),
    };
    Record::from_rdata(Name::from_str(name).unwrap(), ttl.parse().unwrap(), data)
}
