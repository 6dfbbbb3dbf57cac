//! Connections, and the response to each request.

use std::{net::TcpListener, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Request as HttpRequest, State as Extract},
    http::{HeaderValue, Response, header},
    serve::Listener,
};
use serde_json::json;
use tokio::{
    net::{TcpListener as AsyncListener, TcpStream},
    sync::{oneshot, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    identity::Identity,
    request::Request,
    state::{Behaviour, Shared},
    status::status,
    store::Store,
    stream,
};

/// The listener and the TLS handshake.
struct TlsListener {
    listener: AsyncListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Addr = std::net::SocketAddr;
    type Io = TlsStream<TcpStream>;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            // A client that aborts the handshake, or does not trust the CA, is skipped.
            let Ok((stream, address)) = self.listener.accept().await else { continue };
            // As the real server: small events do not wait for acknowledgements of earlier ones (Nagle).
            if stream.set_nodelay(true).is_err() {
                continue;
            }
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

pub async fn serve(
    listener: TcpListener,
    identity: &Identity,
    shared: Arc<Shared>,
    stopped: oneshot::Receiver<()>,
) {
    let listener = AsyncListener::from_std(listener).expect("the listener does not block");
    let listener = TlsListener { listener, acceptor: identity.acceptor() };
    let router = Router::new().fallback(handle).with_state(shared);
    tokio::select! {
        served = axum::serve(listener, router) => served.expect("serving does not end by itself"),
        _ = stopped => {}
    }
}

async fn handle(Extract(shared): Extract<Arc<Shared>>, request: HttpRequest) -> Response<Body> {
    let mut response = answer(shared, &request);
    // Clients that accept several formats see the actual one here.
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn answer(shared: Arc<Shared>, request: &HttpRequest) -> Response<Body> {
    let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = token.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    let parsed = Request::parse(path, query);
    let behaviour = {
        let mut state = shared.lock();
        state.requests.push(format!("{path}?{query}"));
        state.behaviour.clone()
    };
    if let Some(refusal) = refusal(&parsed, token.as_deref(), &behaviour) {
        return refusal;
    }
    // Subscribed before the response is built, so that no later change is missed.
    let changes: watch::Receiver<u64> = shared.changes.subscribe();
    if parsed.is_watch {
        return stream::watch(shared, changes, parsed);
    }
    let list = list(&shared.lock().store, &parsed, &behaviour);
    list.map_or_else(|refusal| *refusal, |json| stream::whole(json.into_bytes(), &behaviour))
}

fn refusal(request: &Request, token: Option<&str>, behaviour: &Behaviour) -> Option<Response<Body>> {
    let kind = &request.selector.kind;
    if let Some(code) = behaviour.fails_with {
        return Some(status(code, "InternalError", "configured to fail"));
    }
    if behaviour.token.is_some() && behaviour.token.as_deref() != token {
        return Some(status(401, "Unauthorized", "Unauthorized"));
    }
    if behaviour.missing.contains(kind) {
        return Some(status(404, "NotFound", "the server could not find the requested resource"));
    }
    if behaviour.forbidden.contains(kind) {
        let message =
            format!("{kind} is forbidden: User \"system:kube-proxy\" cannot list resource \"{kind}\"");
        return Some(status(403, "Forbidden", &message));
    }
    if request.wants_everything && !behaviour.streams_lists {
        return Some(status(
            422,
            "Invalid",
            "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
        ));
    }
    None
}

/// The text of a list, or of its next page.
fn list(store: &Store, request: &Request, behaviour: &Behaviour) -> Result<String, Box<Response<Body>>> {
    if request.version.is_some_and(|version| version > store.version()) {
        return Err(Box::new(status(504, "Timeout", "Too large resource version")));
    }
    let after = request.r#continue.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let limit = if behaviour.pages && request.limit > 0 { request.limit } else { usize::MAX };
    let mut objects = store.list(&request.selector, after.as_ref());
    let page: Vec<_> = objects.by_ref().take(limit).collect();
    let has_more = objects.next().is_some();
    let last = page.last().filter(|_| has_more).map(|stored| json!(stored.key).to_string());
    let metadata =
        json!({"resourceVersion": store.version().to_string(), "continue": last.unwrap_or_default()});
    let items: Vec<&str> = page.iter().map(|stored| stored.json.as_str()).collect();
    let (kind, api_version) = (request.selector.singular(), &request.selector.api_version);
    let head = format!(r#""kind":"{kind}List","apiVersion":"{api_version}","metadata":{metadata}"#);
    Ok(format!(r#"{{{head},"items":[{}]}}"#, items.join(",")))
}
