//! HTTP requests to a node's servers, as from a load balancer or a kubelet.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::lab::kernel::netns::Netns;

const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct HttpResponse {
    pub status: u16,
    /// In lower case.
    pub headers: Vec<String>,
    pub body: String,
}

impl HttpResponse {
    pub fn has_header(&self, line: &str) -> bool {
        self.headers.iter().any(|header| header == line)
    }
}

/// Sends a request from a network namespace.
pub fn get(netns: &Netns, server: SocketAddr, path: &str) -> Result<HttpResponse> {
    netns.run(|| {
        let mut stream = TcpStream::connect_timeout(&server, TIMEOUT).context("no server listens")?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        parse(&text)
    })
}

fn parse(text: &str) -> Result<HttpResponse> {
    let (head, body) = text.split_once("\r\n\r\n").context("a response with incomplete headers")?;
    let mut lines = head.lines();
    let status =
        lines.next().and_then(|line| line.split(' ').nth(1)).context("a response without a status")?;
    Ok(HttpResponse {
        status: status.parse().context("the status is not a number")?,
        headers: lines.map(str::to_lowercase).collect(),
        body: body.to_owned(),
    })
}
