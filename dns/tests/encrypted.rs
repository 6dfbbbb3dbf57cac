//! DNS over TLS and over HTTPS: the same answers as over TCP, with a certificate that follows its files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/free_port.rs"]
mod free_port;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use dns::{plugins, resolve::forward::ServerContext, serve::run, serve::server::Server};
use free_port::free_port;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A query for the address of a.example, with the id 7.
const QUERY: &[u8] = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\x07example\0\0\x01\0\x01";
/// The same in base64url.
const ENCODED: &str = "AAcBAAABAAAAAAAAAWEHZXhhbXBsZQAAAQAB";
const TIMEOUT: Duration = Duration::from_secs(20);

struct Started {
    directory: tempfile::TempDir,
    _server: Server,
    context: ServerContext,
    tls: SocketAddr,
    https: SocketAddr,
    certificate: CertificateDer<'static>,
}

/// Writes a new certificate and its key.
fn write_certificate(directory: &Path) -> (CertificateDer<'static>, KeyPair) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["dns.example".to_owned()]).unwrap();
    fs::write(directory.join("key.pem"), signing_key.serialize_pem()).unwrap();
    fs::write(directory.join("cert.pem"), cert.pem()).unwrap();
    (cert.der().clone(), signing_key)
}

impl Started {
    fn new(options: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, _) = write_certificate(directory.path());
        let ports = [free_port(), free_port()];
        let path = directory.path().display();
        let text = format!(
            "tls://.:{} https://.:{} {{\n bind 127.0.0.1\n tls {path}/cert.pem {path}/key.pem {path}/cert.pem \
             {options}\n hosts /nonexistent {{\n  192.0.2.7 a.example\n  ttl 90\n }}\n}}\n",
            ports[0], ports[1]
        );
        let corefile = directory.path().join("Corefile");
        fs::write(&corefile, text).unwrap();
        let config = plugins::read(&corefile, &|_| None).unwrap();
        let context = ServerContext::default();
        let server = run::start(&config, &[], &Arc::default(), &context).unwrap();
        assert!(server.sockets().is_empty(), "clients are not redirected to them");
        let [tls, https] = ports.map(|port| (Ipv4Addr::LOCALHOST, port).into());
        Self { directory, _server: server, context, tls, https, certificate }
    }

    async fn connect(&self, to: SocketAddr, protocol: &str) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_as(to, protocol, None).await
    }

    async fn connect_as(
        &self,
        to: SocketAddr,
        protocol: &str,
        client: Option<(CertificateDer<'static>, KeyPair)>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        };
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let name = ServerName::try_from("dns.example").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(to).await?).await
    }
}

/// Asks over TLS. An error is one of the connection.
async fn ask(stream: &mut TlsStream<TcpStream>) -> std::io::Result<Vec<u8>> {
    let framed = [&u16::try_from(QUERY.len()).unwrap().to_be_bytes(), QUERY].concat();
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut reply = vec![0; length.into()];
    stream.read_exact(&mut reply).await?;
    Ok(reply)
}

fn is_answer(reply: &[u8]) -> bool {
    reply.starts_with(&[0, 7]) && reply.ends_with(&[192, 0, 2, 7])
}

#[tokio::test]
async fn queries_over_tls_are_answered_on_one_connection() {
    let started = Started::new("");
    let mut stream = started.connect(started.tls, "dot").await.unwrap();
    for _ in 0..3 {
        assert!(is_answer(&ask(&mut stream).await.unwrap()));
    }
    let text = started.context.metrics.text();
    assert!(text.contains("server=\"tls://:"), "{text}");
}

#[tokio::test]
async fn silent_and_plain_clients_are_no_loss_for_others() {
    let started = Started::new("");
    let mut plain = TcpStream::connect(started.tls).await.unwrap();
    plain.write_all(&[0; 64]).await.unwrap();
    let _silent = TcpStream::connect(started.tls).await.unwrap();
    let began = Instant::now();
    while !started.context.metrics.text().contains("portreeve_dns_lost_total{kind=\"handshake\"} 2") {
        assert!(began.elapsed() < TIMEOUT, "not closed");
        sleep(Duration::from_millis(20)).await;
    }
    let mut stream = started.connect(started.tls, "dot").await.unwrap();
    assert!(is_answer(&ask(&mut stream).await.unwrap()));
}

#[tokio::test]
async fn a_changed_certificate_is_followed_and_a_wrong_one_is_not() {
    let mut started = Started::new("");
    let path = started.directory.path().to_owned();
    fs::write(path.join("cert.pem"), "nothing").unwrap();
    // Once for each of the two listeners.
    let failed = |started: &Started| !started.context.metrics.text().contains("certificate_failures_total 0");
    let began = Instant::now();
    while !failed(&started) {
        assert!(began.elapsed() < TIMEOUT, "not noticed");
        sleep(Duration::from_millis(20)).await;
    }
    let mut before = started.connect(started.tls, "dot").await.unwrap();
    assert!(is_answer(&ask(&mut before).await.unwrap()), "the certificate before stays");
    (started.certificate, _) = write_certificate(&path);
    let began = Instant::now();
    while started.connect(started.https, "h2").await.is_err()
        || started.connect(started.tls, "dot").await.is_err()
    {
        assert!(began.elapsed() < TIMEOUT, "not followed");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(is_answer(&ask(&mut before).await.unwrap()), "connections from before go on");
}

#[tokio::test]
async fn clients_without_a_certificate_are_refused_on_request() {
    let mut started = Started::new("{\n  client_auth require_and_verify\n }");
    // With TLS 1.3 the client learns of it when it reads.
    let refused = match started.connect(started.tls, "dot").await {
        Ok(mut stream) => ask(&mut stream).await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
    let (certificate, key) = write_certificate(started.directory.path());
    started.certificate = certificate.clone();
    let began = Instant::now();
    // Until the new authority is known.
    loop {
        let key = KeyPair::from_pem(&key.serialize_pem()).unwrap();
        let connected = started.connect_as(started.tls, "dot", Some((certificate.clone(), key))).await;
        if let Ok(mut stream) = connected
            && let Ok(reply) = ask(&mut stream).await
        {
            assert!(is_answer(&reply));
            return;
        }
        assert!(began.elapsed() < TIMEOUT, "refused with a certificate");
        sleep(Duration::from_millis(50)).await;
    }
}

type Request1 = Request<Full<Bytes>>;

/// The status, headers and body of the response.
async fn fetch(started: &Started, protocol: &str, request: Request1) -> (StatusCode, String, Vec<u8>) {
    let stream = TokioIo::new(started.connect(started.https, protocol).await.unwrap());
    let response = if protocol == "h2" {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    };
    let (head, body) = response.into_parts();
    let headers = format!("{:?}", head.headers);
    (head.status, headers, body.collect().await.unwrap().to_bytes().to_vec())
}

fn post(kind: &str, body: &[u8]) -> Request1 {
    Request::post("https://dns.example/dns-query")
        .header("content-type", kind)
        .body(Full::from(body.to_vec()))
        .unwrap()
}

fn get(path: &str) -> Request1 {
    Request::get(format!("https://dns.example{path}")).body(Full::default()).unwrap()
}

#[tokio::test]
async fn queries_over_https_are_answered_by_both_methods() {
    const MESSAGE: &str = "application/dns-message";
    let started = Started::new("");
    for protocol in ["h2", "http/1.1"] {
        for (name, request) in [
            ("POST", post(MESSAGE, QUERY)),
            ("GET", get(&format!("/dns-query?dns={ENCODED}"))),
            ("GET, another parameter", get(&format!("/dns-query?x=y&dns={ENCODED}"))),
        ] {
            let (status, headers, body) = fetch(&started, protocol, request).await;
            assert_eq!(status, StatusCode::OK, "{protocol} {name}");
            assert!(is_answer(&body), "{protocol} {name}: {body:?}");
            for header in [MESSAGE, "max-age=90"] {
                assert!(headers.contains(header), "{protocol} {name}: {headers}");
            }
        }
        for (name, request, want) in [
            ("another path", get("/"), StatusCode::NOT_FOUND),
            ("no query", get("/dns-query"), StatusCode::BAD_REQUEST),
            ("no base64url", get("/dns-query?dns=%"), StatusCode::BAD_REQUEST),
            ("no query of DNS", post(MESSAGE, b"hello"), StatusCode::BAD_REQUEST),
            ("a large query", post(MESSAGE, &[0; 70_000]), StatusCode::PAYLOAD_TOO_LARGE),
            ("another type", post("text/plain", QUERY), StatusCode::UNSUPPORTED_MEDIA_TYPE),
            (
                "another method",
                Request::put("https://dns.example/dns-query").body(Full::default()).unwrap(),
                StatusCode::METHOD_NOT_ALLOWED,
            ),
        ] {
            assert_eq!(fetch(&started, protocol, request).await.0, want, "{protocol} {name}");
        }
    }
}

/// The query with an OPT that has these options.
fn with_options(options: &[u8]) -> Vec<u8> {
    let mut query = QUERY.to_vec();
    query[11] = 1;
    let length = u16::try_from(options.len()).unwrap().to_be_bytes();
    [&query, &[0, 0, 41, 16, 0, 0, 0, 0, 0][..], &length, options].concat()
}

#[tokio::test]
async fn replies_are_padded_if_the_query_was() {
    let started = Started::new("");
    let mut stream = started.connect(started.tls, "dot").await.unwrap();
    for (case, options, is_padded) in [
        ("padding", &[0, 12, 0, 3, 0, 0, 0][..], true),
        ("empty padding", &[0, 12, 0, 0], true),
        ("another option", &[0, 10, 0, 1, 0], false),
        ("none", &[], false),
    ] {
        let query = with_options(options);
        let framed = [&u16::try_from(query.len()).unwrap().to_be_bytes(), query.as_slice()].concat();
        stream.write_all(&framed).await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut reply = vec![0; length.into()];
        stream.read_exact(&mut reply).await.unwrap();
        assert!(reply.windows(4).any(|octets| octets == [192, 0, 2, 7]), "{case}: {reply:?}");
        assert_eq!(length == 468, is_padded, "{case}: {length} octets");
        let head = post("application/dns-message", &query);
        let (_, _, over_https) = fetch(&started, "h2", head).await;
        assert_eq!(over_https.len() == 468, is_padded, "{case} over HTTPS");
    }
}
