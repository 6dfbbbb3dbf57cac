//! Upstreams over HTTPS.

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::net::TcpListener;

use super::*;
use crate::config::DohMethod;

/// A server over HTTPS, its certificate for `dns.example`, and the requests that it has seen.
struct Server {
    to: Upstream,
    tls: Tls,
    seen: Arc<Mutex<Seen>>,
    _directory: tempfile::TempDir,
}

#[derive(Default)]
struct Seen {
    connections: usize,
    open: usize,
    requests: Vec<(Version, Method, String)>,
    ids: Vec<u16>,
}

impl Server {
    async fn start(protocols: &[&str], status: StatusCode) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = directory.path().join("ca.pem");
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["dns.example".to_owned()]).unwrap();
        std::fs::write(&authority, cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = Upstream::Server {
            address: listener.local_addr().unwrap(),
            protocol: UpstreamProtocol::Https,
            server_name: Some("dns.example".to_owned()),
        };
        let seen = Arc::<Mutex<Seen>>::default();
        tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), status, Arc::clone(&seen)));
        let tls = Tls { authority: Some(authority), ..Tls::default() };
        Self { to, tls, seen, _directory: directory }
    }

    fn rule(&self) -> Forward {
        Forward { tls: self.tls.clone(), ..Forward::to(vec![self.to.clone()]) }
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, status: StatusCode, seen: Arc<Mutex<Seen>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(stream) = acceptor.accept(stream).await else { continue };
        {
            let mut seen = seen.lock().unwrap();
            (seen.connections, seen.open) = (seen.connections + 1, seen.open + 1);
        }
        let (seen, counted) = (Arc::clone(&seen), Arc::clone(&seen));
        let service = service_fn(move |request| answer(request, status, Arc::clone(&seen)));
        tokio::spawn(async move {
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
            counted.lock().unwrap().open -= 1;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    status: StatusCode,
    seen: Arc<Mutex<Seen>>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    let octets = match head.uri.query().and_then(|query| query.strip_prefix("dns=")) {
        Some(dns) => URL_SAFE_NO_PAD.decode(dns).unwrap(),
        None => body,
    };
    let query = Message::from_vec(&octets).unwrap();
    let mut seen = seen.lock().unwrap();
    seen.requests.push((head.version, head.method, head.uri.path().to_owned()));
    seen.ids.push(query.metadata.id);
    let response = Response::builder()
        .status(status)
        .header("content-type", "application/dns-message")
        .header("age", "10")
        .body(Full::from(wire(&address_for(&query))));
    Ok(response.unwrap())
}

#[tokio::test]
async fn idle_connections_over_http_1_are_limited() {
    let server = Server::start(&["http/1.1"], StatusCode::OK).await;
    let forwarder = start(&[Forward { max_idle: 2, ..server.rule() }]);
    let names: Vec<String> = (0..5).map(|number| format!("n{number}.example.")).collect();
    join_all(names.iter().map(|name| resolve(&forwarder, name))).await;
    let count = || {
        let seen = server.seen.lock().unwrap();
        (seen.connections, seen.open)
    };
    let closed = async {
        while count().1 > 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(30), closed).await;
    assert_eq!(count(), (5, 2));
}

#[tokio::test]
async fn queries_over_https_share_a_connection() {
    for (protocols, version) in [
        (&["h2", "http/1.1"][..], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        for (doh_method, method) in [(DohMethod::Post, Method::POST), (DohMethod::Get, Method::GET)] {
            let server = Server::start(protocols, StatusCode::OK).await;
            let forwarder = start(&[Forward { doh_method, ..server.rule() }]);
            for _ in 0..3 {
                let reply = resolve(&forwarder, "Example.ORG.").await;
                // Ten seconds less, for the age of the response.
                assert_eq!(addresses(&reply), ["Example.ORG. 50 192.0.2.1"], "{version:?} {method}");
            }
            let seen = server.seen.lock().unwrap();
            let want = (version, method.clone(), "/dns-query".to_owned());
            assert_eq!(seen.requests, vec![want; 3]);
            assert_eq!((seen.connections, seen.ids.as_slice()), (1, &[0, 0, 0][..]), "{version:?} {method}");
        }
    }
}

#[tokio::test]
async fn queries_at_the_same_time_share_a_connection_over_http_2() {
    let server = Server::start(&["h2"], StatusCode::OK).await;
    let forwarder = start(&[server.rule()]);
    resolve(&forwarder, "example.org.").await;
    let names: Vec<String> = (0..20).map(|number| format!("n{number}.example.")).collect();
    let replies = join_all(names.iter().map(|name| resolve(&forwarder, name))).await;
    assert!(replies.iter().all(|reply| reply.rcode == ResponseCode::NoError));
    assert_eq!(server.seen.lock().unwrap().connections, 1);
}

#[tokio::test]
async fn an_upstream_over_https_is_verified_and_its_errors_are_failures() {
    let failing = Server::start(&["h2"], StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(resolve(&start(&[failing.rule()]), "example.org.").await.rcode, ResponseCode::ServFail, "503");
    let good = Server::start(&["h2"], StatusCode::OK).await;
    let Upstream::Server { address, protocol, .. } = good.to.clone() else { panic!("no server") };
    let other = Upstream::Server { address, protocol, server_name: Some("other.example".to_owned()) };
    let rule = Forward { to: vec![other], ..good.rule() };
    assert_eq!(resolve(&start(&[rule]), "example.org.").await.rcode, ResponseCode::ServFail, "another name");
    assert_eq!(good.seen.lock().unwrap().connections, 0);
}
