//! Queries to a primary over TCP: the serial of a zone, and its transfer (AXFR, RFC 5936).

use std::{io, net::SocketAddr, time::Duration};

use hickory_server::proto::{
    ProtoError,
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{LowerName, RData, Record, RecordType, rdata::SOA},
    serialize::binary::DecodeError,
};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::spawn_blocking,
    time::{error::Elapsed, timeout},
};

use crate::{
    resolve::decode::decode,
    zone_data::{InvalidZone, MAX_RECORDS, Zone},
};

const CONNECT: Duration = Duration::from_secs(5);
/// The limit for the next message.
const READ: Duration = Duration::from_secs(10);
/// The limit of a transfer.
const WHOLE: Duration = Duration::from_secs(600);
/// The limit of the octets of a zone on the wire.
const MAX_OCTETS: usize = 256 << 20;

#[derive(Debug, Error)]
pub(super) enum FetchError {
    #[error("there is no primary")]
    Nothing,
    #[error("the connection failed")]
    Connection(#[from] io::Error),
    #[error("the primary takes too long")]
    TooSlow(#[from] Elapsed),
    #[error("a message cannot be decoded")]
    Malformed(#[from] DecodeError),
    #[error("the query cannot be encoded")]
    Query(#[from] ProtoError),
    #[error("the primary answers {0}")]
    Refused(ResponseCode),
    #[error("{0}")]
    Wrong(&'static str),
    #[error("the zone is larger than {MAX_OCTETS} octets or {MAX_RECORDS} records")]
    TooLarge,
    #[error("the zone cannot be used")]
    Invalid(#[from] InvalidZone),
}

/// The serial of a zone.
pub(super) async fn serial_of(primary: SocketAddr, origin: &LowerName) -> Result<u32, FetchError> {
    let mut connection = Connection::ask(primary, origin, RecordType::SOA).await?;
    let message = connection.next().await?;
    let serial = message.answers.iter().find_map(|record| serial(record, origin));
    serial.ok_or(FetchError::Wrong("the primary knows no SOA record of the zone"))
}

/// Transfers a zone.
pub(super) async fn fetch(primary: SocketAddr, origin: &LowerName) -> Result<Zone, FetchError> {
    let records = timeout(WHOLE, records(primary, origin)).await??;
    let origin = origin.clone();
    // Sorting a large zone must not delay queries.
    let zone = spawn_blocking(move || Zone::new(&origin, records)).await;
    Ok(zone.map_err(io::Error::other)??)
}

/// All records, with one of the two SOA records.
async fn records(primary: SocketAddr, origin: &LowerName) -> Result<Vec<Record>, FetchError> {
    let mut connection = Connection::ask(primary, origin, RecordType::AXFR).await?;
    let mut records: Vec<Record> = Vec::new();
    let mut first = None;
    loop {
        for record in connection.next().await?.answers {
            match (first, serial(&record, origin)) {
                (None, None) => {
                    return Err(FetchError::Wrong("the transfer does not begin with the SOA record"));
                }
                (None, Some(serial)) => first = Some(serial),
                (Some(first), Some(last)) if first == last => return Ok(records),
                (Some(_), Some(_)) => return Err(FetchError::Wrong("the zone changed during its transfer")),
                (Some(_), None) => {}
            }
            records.push(record);
        }
        if records.len() > MAX_RECORDS || connection.octets > MAX_OCTETS {
            return Err(FetchError::TooLarge);
        }
    }
}

/// The serial of a SOA record of the zone; `None`: another record.
fn serial(record: &Record, origin: &LowerName) -> Option<u32> {
    let RData::SOA(SOA { serial, .. }) = &record.data else { return None };
    (LowerName::new(&record.name) == *origin).then_some(*serial)
}

struct Connection {
    stream: TcpStream,
    id: u16,
    /// Of all messages so far.
    octets: usize,
}

impl Connection {
    async fn ask(primary: SocketAddr, origin: &LowerName, qtype: RecordType) -> Result<Self, FetchError> {
        let mut stream = timeout(CONNECT, TcpStream::connect(primary)).await??;
        let mut query = Message::new(rand::random(), MessageType::Query, OpCode::Query);
        query.add_query(Query::query(origin.into(), qtype));
        let octets = query.to_vec()?;
        // A query for a name fits.
        let length = u16::try_from(octets.len()).unwrap_or_default();
        timeout(READ, stream.write_all(&[&length.to_be_bytes(), octets.as_slice()].concat())).await??;
        Ok(Self { stream, id: query.metadata.id, octets: 0 })
    }

    async fn next(&mut self) -> Result<Message, FetchError> {
        let octets = timeout(READ, async {
            let length = self.stream.read_u16().await?;
            let mut octets = vec![0; usize::from(length)];
            self.stream.read_exact(&mut octets).await?;
            Ok::<_, io::Error>(octets)
        });
        let octets = octets.await??;
        self.octets += octets.len();
        let message = decode(&octets)?;
        if message.metadata.id != self.id || message.metadata.message_type != MessageType::Response {
            return Err(FetchError::Wrong("the answer is to another query"));
        }
        let rcode = message.metadata.response_code;
        if rcode != ResponseCode::NoError {
            return Err(FetchError::Refused(rcode));
        }
        if message.answers.is_empty() {
            return Err(FetchError::Wrong("a message has no records"));
        }
        Ok(message)
    }
}
