//! A fake upstream for tests, with scripted answers over UDP and TCP.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use hickory_server::proto::{
    op::{Edns, Message, OpCode, ResponseCode},
    rr::{Name, RData, Record, rdata::A},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
    task::JoinHandle,
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    Udp,
    Tcp,
}

/// Messages to send in reply to one query, in order; none for a timeout.
pub(crate) type Answer = Vec<Vec<u8>>;

pub(crate) struct Fake {
    pub address: SocketAddr,
    counts: Arc<Counts>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    last_client: Mutex<Option<IpAddr>>,
    questions: AtomicU32,
    connections: AtomicU32,
    ended: AtomicU32,
}

type AnswerOf = dyn Fn(&Message, Via) -> Answer + Send + Sync;

#[derive(Clone)]
struct Script {
    answer: Arc<AnswerOf>,
    delay: Duration,
}

impl Script {
    async fn answer(&self, query: &[u8], via: Via) -> Answer {
        if !self.delay.is_zero() {
            sleep(self.delay).await;
        }
        (self.answer)(&Message::from_vec(query).unwrap(), via)
    }
}

impl Fake {
    pub(crate) async fn start(script: impl Fn(&Message, Via) -> Answer + Send + Sync + 'static) -> Self {
        Self::with_tls(None, script).await
    }

    pub(crate) async fn with_tls(
        tls: Option<TlsAcceptor>,
        script: impl Fn(&Message, Via) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::with_delay(Duration::ZERO, tls, script).await
    }

    async fn with_delay(
        delay: Duration,
        tls: Option<TlsAcceptor>,
        script: impl Fn(&Message, Via) -> Answer + Send + Sync + 'static,
    ) -> Self {
        // A port that is free for TCP may be in use for UDP by a query of another test.
        let (listener, socket) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            if let Ok(socket) = UdpSocket::bind(address).await {
                break (listener, socket);
            }
        };
        let script = Script { answer: Arc::new(script), delay };
        let counts = Arc::<Counts>::default();
        let address = listener.local_addr().unwrap();
        let datagrams = tokio::spawn(datagrams(socket, script.clone(), Arc::clone(&counts)));
        let streams = tokio::spawn(streams(listener, tls, script, Arc::clone(&counts)));
        Self { address, counts, tasks: vec![datagrams, streams] }
    }

    /// Answers every query with an address.
    pub(crate) async fn plain() -> Self {
        Self::start(|query, _| vec![wire(&address_for(query))]).await
    }

    /// Answers every query with an address, late.
    pub(crate) async fn slow(delay: Duration) -> Self {
        Self::with_delay(delay, None, |query, _| vec![wire(&address_for(query))]).await
    }

    /// Answers every query with REFUSED.
    pub(crate) async fn refusing() -> Self {
        Self::start(|query, _| {
            let mut reply = reply_to(query);
            reply.metadata.response_code = ResponseCode::Refused;
            vec![wire(&reply)]
        })
        .await
    }

    /// Receives queries and does not answer.
    pub(crate) async fn silent() -> Self {
        Self::start(|_, _| Vec::new()).await
    }

    pub(crate) fn questions(&self) -> u32 {
        self.counts.questions.load(Relaxed)
    }

    /// The address that the last query came from.
    pub(crate) fn last_client(&self) -> Option<IpAddr> {
        *self.counts.last_client.lock().unwrap()
    }

    pub(crate) fn connections(&self) -> u32 {
        self.counts.connections.load(Relaxed)
    }

    pub(crate) fn open_connections(&self) -> u32 {
        self.connections() - self.counts.ended.load(Relaxed)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn datagrams(socket: UdpSocket, script: Script, counts: Arc<Counts>) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        counts.questions.fetch_add(1, Relaxed);
        *counts.last_client.lock().unwrap() = Some(from.ip());
        for answer in script.answer(&buffer[..length], Via::Udp).await {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

async fn streams(listener: TcpListener, tls: Option<TlsAcceptor>, script: Script, counts: Arc<Counts>) {
    loop {
        let (stream, client) = listener.accept().await.unwrap();
        *counts.last_client.lock().unwrap() = Some(client.ip());
        counts.connections.fetch_add(1, Relaxed);
        let (tls, script, counts) = (tls.clone(), script.clone(), Arc::clone(&counts));
        tokio::spawn(async move {
            match tls {
                None => serve(stream, script, &counts).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, script, &counts).await;
                    }
                }
            }
            counts.ended.fetch_add(1, Relaxed);
        });
    }
}

/// Serves a connection until it is closed; an empty answer closes it.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, script: Script, counts: &Counts) {
    while let Ok(length) = stream.read_u16().await {
        let mut question = vec![0; length.into()];
        stream.read_exact(&mut question).await.unwrap();
        counts.questions.fetch_add(1, Relaxed);
        for answer in script.answer(&question, Via::Tcp).await {
            if answer.is_empty() {
                return;
            }
            let framed = [&u16::try_from(answer.len()).unwrap().to_be_bytes(), answer.as_slice()].concat();
            stream.write_all(&framed).await.unwrap();
        }
    }
}

/// An empty reply, with an OPT if the query has one.
pub(crate) fn reply_to(query: &Message) -> Message {
    let mut reply = Message::response(query.metadata.id, OpCode::Query);
    reply.metadata.recursion_available = true;
    reply.add_queries(query.queries.clone());
    if query.edns.is_some() {
        reply.set_edns(Edns::new());
    }
    reply
}

pub(crate) fn address_for(query: &Message) -> Message {
    let mut reply = reply_to(query);
    reply.add_answer(a(query.queries[0].name().clone(), 60, [192, 0, 2, 1]));
    reply
}

pub(crate) fn a(name: Name, ttl: u32, address: [u8; 4]) -> Record {
    Record::from_rdata(name, ttl, RData::A(A(address.into())))
}

pub(crate) fn wire(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap()
}
