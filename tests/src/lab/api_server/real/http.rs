//! Single requests to an API server or to etcd.

use anyhow::{Context as _, Result, ensure};
use kube::Client;
use serde_json::Value;

pub(super) async fn send(client: &Client, method: &str, path: &str, body: &Value) -> Result<Value> {
    let text = succeeded(method, path, request(client, method, path, body).await?)?;
    serde_json::from_str(&text).with_context(|| format!("{method} {path} returned {text}"))
}

pub(super) fn succeeded(method: &str, path: &str, (code, text): (u16, String)) -> Result<String> {
    ensure!((200..300).contains(&code), "{method} {path} returned {code}: {text}");
    Ok(text)
}

pub(super) async fn request(
    client: &Client,
    method: &str,
    path: &str,
    body: &Value,
) -> Result<(u16, String)> {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = axum::http::Request::builder().method(method).uri(path);
    let request = request.header("content-type", "application/json").body(body)?;
    match client.request_text(request).await {
        Ok(text) => Ok((200, text)),
        Err(kube::Error::Api(status)) => Ok((status.code, status.message.clone())),
        Err(error) => Err(error.into()),
    }
}
