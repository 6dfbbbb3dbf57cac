//! The replacement of a streaming list by pages, against a server that speaks just enough HTTP.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

use super::*;
use crate::k8s::{
    access::{Access, Credentials},
    watch::{Settings, watch},
};
use crate::source_state::SourceState;

type Requests = Arc<Mutex<Vec<String>>>;

/// A server that answers a streaming list with this status and body, a list with one page and a watch with silence. Records
/// the request targets.
async fn server(status: &'static str, body: &'static str) -> (String, Requests) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = Requests::default();
    let record = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, status, body, Arc::clone(&record)));
        }
    });
    (url, requests)
}

async fn answer(mut stream: TcpStream, status: &'static str, body: &'static str, requests: Requests) {
    let mut request = Vec::new();
    while stream.read_buf(&mut request).await.is_ok_and(|count| count > 0) {
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8(std::mem::take(&mut request)).unwrap();
        let target = text.split(' ').nth(1).unwrap().to_owned();
        requests.lock().unwrap().push(target.clone());
        let list = r#"{"metadata":{"resourceVersion":"7"},"items":[]}"#;
        let (status, body) = match () {
            () if target.contains("sendInitialEvents") => (status, body),
            () if target.contains("watch=true") => return std::future::pending().await,
            () => ("200 OK", list),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
    }
}

async fn updates(url: &str) -> mpsc::Receiver<Update> {
    let access = Access { credentials: Credentials::Anonymous, url: Some(url.to_owned()) };
    let reader = Reader { node_name: "node-1".to_owned(), dns: None };
    watch(Settings { access, reader, timing: Timing::default(), state: SourceState::default() })
        .await
        .unwrap()
}

#[tokio::test]
async fn a_streaming_list_that_fails_is_replaced_by_pages() {
    let no_progress = r#"{"kind":"Status","status":"Failure","reason":"InternalError","code":500,
        "message":"Internal error occurred: etcdserver: RequestWatchProgress is disabled"}"#;
    for (name, status, body) in [
        ("an etcd that reports no progress", "500 Internal Server Error", no_progress),
        (
            "the same error in the stream",
            "200 OK",
            concat!(
                r#"{"type":"ERROR","object":{"kind":"Status","status":"Failure","reason":"InternalError","code":500,"#,
                r#""message":"etcdserver: RequestWatchProgress is disabled"}}"#,
                "\n"
            ),
        ),
        ("an intermediary", "502 Bad Gateway", "<html>"),
        ("no events", "200 OK", "<html>\n"),
    ] {
        let (url, requests) = server(status, body).await;
        let mut updates = updates(&url).await;
        let first = timeout(Duration::from_secs(10), updates.recv()).await;
        let requests = requests.lock().unwrap().clone();
        assert!(first.is_ok_and(|update| update.unwrap().is_synced), "{name}: {requests:#?}");
        let services: Vec<_> = requests.iter().filter(|target| target.contains("/services?")).collect();
        assert!(services[0].contains("sendInitialEvents=true"), "{name}: {services:#?}");
        assert!(services[1].contains("limit=500"), "{name}: {services:#?}");
        let streams = services.iter().filter(|target| target.contains("sendInitialEvents")).count();
        assert_eq!(streams, 1, "{name}: {services:#?}");
    }
}

#[test]
fn errors_that_may_pass_do_not_rule_out_streaming() {
    let failing = |code| ApiError::Failing {
        code,
        reason: String::new(),
        message: String::new(),
        retry_after: Duration::ZERO,
    };
    for (error, want) in [
        (failing(500), true),
        (failing(503), true),
        (failing(429), false),
        (ApiError::Stalled(Duration::ZERO), true),
        (ApiError::Incomplete(String::new()), true),
        (ApiError::Unauthorized, false),
        (ApiError::Expired, false),
        (ApiError::Unreachable { url: String::new(), cause: String::new() }, false),
    ] {
        assert_eq!(error.rules_out_streaming(), want, "{error}");
    }
}
