//! HTTP requests to the API server, with streamed response bodies.

use std::{cell::RefCell, pin::Pin, rc::Rc, time::Duration};

use futures_util::{AsyncBufRead, AsyncBufReadExt as _};
use http::Request;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio::time::{Instant, timeout};

use super::error::ApiError;
use crate::{
    k8s::{
        access::{Access, Connection, status_code},
        object::Kind,
    },
    source_state::RequestMetrics,
};

/// Characters with a meaning in the query of a URL.
const RESERVED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'&').add(b'+').add(b'=');

pub struct Api {
    access: Access,
    requests: RequestMetrics,
    /// Created at the first request, and again after the credentials were rejected.
    connection: RefCell<Option<Rc<Connection>>>,
}

/// A response body.
pub struct Body {
    reader: Pin<Box<dyn AsyncBufRead>>,
}

impl Api {
    pub fn new(access: Access, requests: RequestMetrics) -> Self {
        Self { access, requests, connection: RefCell::default() }
    }

    /// Sends a GET request. Errors: among others, no response headers within `header_timeout`.
    pub async fn get(&self, kind: Kind, uri: &str, header_timeout: Duration) -> Result<Body, ApiError> {
        let connection = self.connection().await?;
        let mut request = Request::get(uri)
            .header("accept", "application/json")
            // Compression would delay the events of a watch until a block is full.
            .header("accept-encoding", "identity")
            .body(Vec::new())
            .map_err(|error| ApiError::Malformed(error.to_string()))?;
        connection.authorize(&mut request);
        let began = Instant::now();
        let response = timeout(header_timeout, connection.client.request_stream(request)).await;
        let code = response.as_ref().ok().and_then(status_code);
        self.requests.observe("GET", &connection.url, began.elapsed(), code);
        match response {
            Ok(Ok(reader)) => Ok(Body { reader: Box::pin(reader) }),
            Ok(Err(error)) => Err(ApiError::new(&error, kind, &connection.url)),
            Err(_) => Err(ApiError::Stalled(header_timeout)),
        }
    }

    /// Drops the connection, so that the next request reads the credentials again.
    pub fn forget_credentials(&self) {
        self.connection.borrow_mut().take();
    }

    async fn connection(&self) -> Result<Rc<Connection>, ApiError> {
        let current = self.connection.borrow().clone();
        if let Some(connection) = current {
            return Ok(connection);
        }
        let connection = Rc::new(self.access.connect().await?);
        *self.connection.borrow_mut() = Some(Rc::clone(&connection));
        Ok(connection)
    }
}

impl Body {
    /// Reads the next chunk into `take`. Returns `false` at the end of the body.
    pub async fn read(&mut self, idle_timeout: Duration, take: impl FnOnce(&[u8])) -> Result<bool, ApiError> {
        let bytes = timeout(idle_timeout, self.reader.fill_buf())
            .await
            .map_err(|_| ApiError::Stalled(idle_timeout))?;
        let bytes = bytes.map_err(|error| ApiError::of_body(&error))?;
        let count = bytes.len();
        take(bytes);
        self.reader.as_mut().consume(count);
        Ok(count > 0)
    }
}

/// The query parameters of a request.
#[derive(Debug, Default)]
pub struct Query {
    text: String,
}

impl Query {
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.text.push(if self.text.is_empty() { '?' } else { '&' });
        self.text.push_str(name);
        self.text.push('=');
        self.text.extend(utf8_percent_encode(&value.to_string(), RESERVED));
        self
    }

    pub fn with_some(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// The request target: a path with these parameters.
    pub fn target(&self, path: &str) -> String {
        format!("{path}{}", self.text)
    }
}
