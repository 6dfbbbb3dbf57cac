//! Requests over HTTPS (RFC 8484), over HTTP/1.1 and HTTP/2.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};
use tracing::debug;

use super::{
    connections::{ConnectionSlot, QueuedReply},
    serving::{MAX_REQUEST, Serving},
};
use crate::serve::handler::{Client, Handled, min_ttl};

const PATH: &str = "/dns-query";
const MESSAGE: &str = "application/dns-message";
/// The idle timeout of a connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The timeout for the header of a request over HTTP/1.1.
const READ_TIMEOUT: Duration = Duration::from_secs(3);
/// The timeout for the last replies of a connection that is told to end.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Limits of one connection over HTTP/2: the requests at a time, and the octets that are buffered for each.
const MAX_STREAMS: u32 = 64;
const MAX_SEND_BUFFER: usize = 64 << 10;
const MAX_HEADERS: u32 = 16 << 10;

/// Serves one connection until it is closed or idle, or the server stops.
pub async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    (slot, client): (Arc<ConnectionSlot>, Client),
    serving: Serving,
) {
    let mut stop = serving.stop.clone();
    let (active, mut last_active) = watch::channel(Instant::now());
    let active = Arc::new(active);
    let service = service_fn(move |request| {
        active.send_replace(Instant::now());
        let (slot, serving, active) = (Arc::clone(&slot), serving.clone(), Arc::clone(&active));
        async move {
            let response = respond(request, &slot, client, &serving).await;
            active.send_replace(Instant::now());
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_header_list_size(MAX_HEADERS);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = connection.as_mut() => {
            if let Err(error) = ended {
                debug!(%error, client = %client.address, "connection over HTTPS ended");
            }
            return;
        }
        _ = stop.wait_for(|stop| *stop) => {}
        () = idle(&mut last_active) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        _ = connection => {}
        () = sleep(END_TIMEOUT) => {}
    }
}

/// Waits until there was no request for the idle timeout.
async fn idle(last_active: &mut watch::Receiver<Instant>) {
    loop {
        let end = *last_active.borrow_and_update() + IDLE_TIMEOUT;
        tokio::select! {
            () = sleep_until(end) => return,
            changed = last_active.changed() => if changed.is_err() {
                // The connection ends.
                return std::future::pending().await;
            },
        }
    }
}

type Body = BoxBody<Bytes, Infallible>;

async fn respond(
    request: Request<Incoming>,
    slot: &ConnectionSlot,
    client: Client,
    serving: &Serving,
) -> Response<Body> {
    let query = match query(request).await {
        Ok(query) => query,
        Err(status) => return error(status),
    };
    let turn = slot.turn().await;
    let handled = serving.handler.handle(&query, client);
    yield_now().await;
    drop(turn);
    let reply = match handled {
        Handled::Dropped => return error(StatusCode::BAD_REQUEST),
        Handled::Reply(reply) => reply,
        // Refused by the handler over HTTP.
        Handled::Transfer(_) => return error(StatusCode::BAD_REQUEST),
        Handled::Pending(pending) => match serving.acquire_slot() {
            None => pending.refuse(),
            Some(pending_slot) => {
                let reply = pending.finish().await;
                drop(pending_slot);
                reply
            }
        },
    };
    let ttl = min_ttl(&reply);
    let Some(QueuedReply { reply, permits }) = slot.reserve(reply, &serving.losses) else {
        return error(StatusCode::SERVICE_UNAVAILABLE);
    };
    // The permits are held until the body is written.
    let body = Full::new(Bytes::from(reply)).map_frame(move |frame| {
        let _held = &permits;
        frame
    });
    let mut response = Response::new(body.boxed());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(MESSAGE));
    // RFC 8484, section 5.1: not longer than any record of the answer.
    if let Ok(age) = format!("max-age={}", ttl.unwrap_or_default()).try_into() {
        headers.insert(CACHE_CONTROL, age);
    }
    response
}

/// The query of a request. Errors: the status of the response.
async fn query(request: Request<Incoming>) -> Result<Vec<u8>, StatusCode> {
    let (head, body) = request.into_parts();
    if head.uri.path() != PATH {
        return Err(StatusCode::NOT_FOUND);
    }
    if head.method == Method::GET {
        let parameters = head.uri.query().unwrap_or_default().split('&');
        let encoded = parameters.filter_map(|parameter| parameter.strip_prefix("dns=")).next();
        let encoded = encoded.ok_or(StatusCode::BAD_REQUEST)?;
        let query =
            URL_SAFE_NO_PAD.decode(encoded.trim_end_matches('=')).map_err(|_| StatusCode::BAD_REQUEST)?;
        return if query.len() <= MAX_REQUEST { Ok(query) } else { Err(StatusCode::URI_TOO_LONG) };
    }
    if head.method != Method::POST {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    if head.headers.get(CONTENT_TYPE).is_none_or(|kind| kind != MESSAGE) {
        return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    match Limited::new(body, MAX_REQUEST).collect().await {
        Ok(body) => Ok(body.to_bytes().to_vec()),
        Err(error) if error.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => Err(StatusCode::BAD_REQUEST),
    }
}

fn error(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::default().boxed());
    *response.status_mut() = status;
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, POST"));
    }
    response
}
