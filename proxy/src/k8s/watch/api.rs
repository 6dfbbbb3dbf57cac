//! Requests to the API server, and their answers as they arrive.

use std::{cell::RefCell, pin::Pin, rc::Rc, time::Duration};

use futures_util::{AsyncBufRead, AsyncBufReadExt as _};
use http::Request;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio::time::timeout;

use super::problem::Problem;
use crate::k8s::{
    access::{Access, Connection},
    object::Kind,
};

/// What would end a parameter of a query, or mean something in it.
const RESERVED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'&').add(b'+').add(b'=');

pub struct Api {
    access: Access,
    /// Made when it is first needed, and again after credentials were refused.
    connection: RefCell<Option<Rc<Connection>>>,
}

/// The body of an answer.
pub struct Body {
    reader: Pin<Box<dyn AsyncBufRead>>,
}

impl Api {
    pub fn new(access: Access) -> Self {
        Self { access, connection: RefCell::default() }
    }

    /// Asks for a path and query; the answer, once it begins within this time.
    pub async fn get(&self, kind: Kind, uri: &str, patience: Duration) -> Result<Body, Problem> {
        let connection = self.connection().await?;
        let mut request = Request::get(uri)
            .header("accept", "application/json")
            // Compressed, a watch would arrive in larger pieces, and later.
            .header("accept-encoding", "identity")
            .body(Vec::new())
            .map_err(|error| Problem::Nonsense(error.to_string()))?;
        connection.authorize(&mut request);
        match timeout(patience, connection.client.request_stream(request)).await {
            Ok(Ok(reader)) => Ok(Body { reader: Box::pin(reader) }),
            Ok(Err(error)) => Err(Problem::new(&error, kind, &connection.url)),
            Err(_) => Err(Problem::Stalled(patience)),
        }
    }

    /// The next request begins with credentials read anew.
    pub fn forget_credentials(&self) {
        self.connection.borrow_mut().take();
    }

    async fn connection(&self) -> Result<Rc<Connection>, Problem> {
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
    /// Waits for more and passes it on; whether there was any: `false` is the end.
    pub async fn read(&mut self, patience: Duration, take: impl FnOnce(&[u8])) -> Result<bool, Problem> {
        let bytes =
            timeout(patience, self.reader.fill_buf()).await.map_err(|_| Problem::Stalled(patience))?;
        let bytes = bytes.map_err(|error| Problem::of_body(&error))?;
        let count = bytes.len();
        take(bytes);
        self.reader.as_mut().consume(count);
        Ok(count > 0)
    }
}

/// The parameters of a request.
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

    /// The request's target: a path, and these parameters.
    pub fn of(&self, path: &str) -> String {
        format!("{path}{}", self.text)
    }
}
