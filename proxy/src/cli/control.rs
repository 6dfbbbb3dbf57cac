//! Requests on the control socket of a running agent.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

use crate::observe::control::{ControlRequest, LOG_LEVEL};

/// Read timeout. An agent that does not respond within it hangs.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends a request and returns the response. Returns `None` if no agent listens.
pub fn request<T: DeserializeOwned>(socket: &Path, command: ControlRequest) -> Result<Option<T>> {
    send(socket, command.word())
}

/// Sends a request whose response is text, and returns up to `limit` octets of it. Returns `None` if no agent listens.
pub fn text(socket: &Path, command: ControlRequest, limit: u64) -> Result<Option<String>> {
    let Some(stream) = connect(socket, command.word())? else { return Ok(None) };
    let mut octets = Vec::new();
    // What came before a timeout counts.
    match stream.take(limit).read_to_end(&mut octets) {
        Err(error) if octets.is_empty() => Err(error).with_context(|| no_response(socket)),
        Ok(_) | Err(_) => Ok(Some(String::from_utf8_lossy(&octets).into_owned())),
    }
}

/// Changes the levels of the agent's log, or only asks for them. `Err` inside: the agent refuses the level.
pub fn change_log_level(socket: &Path, level: Option<&str>) -> Result<Option<Result<String, String>>> {
    let level = level.unwrap_or_default();
    send(socket, &format!("{LOG_LEVEL}{level}"))
}

fn no_response(socket: &Path) -> String {
    format!("no response from the agent at {}", socket.display())
}

/// Sends a request whose response has no end. Returns `None` if no agent listens.
pub fn open(socket: &Path, words: &str) -> Result<Option<UnixStream>> {
    connect(socket, words)
}

/// Sends a request. Returns `None` if no agent listens.
fn connect(socket: &Path, words: &str) -> Result<Option<UnixStream>> {
    let context = || no_response(socket);
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(context),
    };
    stream.set_read_timeout(Some(RESPONSE_TIMEOUT)).with_context(context)?;
    stream.write_all(words.as_bytes()).with_context(context)?;
    stream.shutdown(Shutdown::Write).with_context(context)?;
    Ok(Some(stream))
}

fn send<T: DeserializeOwned>(socket: &Path, words: &str) -> Result<Option<T>> {
    let Some(mut stream) = connect(socket, words)? else { return Ok(None) };
    let mut text = String::new();
    match stream.read_to_string(&mut text) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            bail!("no response from the agent at {} for {} s", socket.display(), RESPONSE_TIMEOUT.as_secs())
        }
        read => read.with_context(|| no_response(socket))?,
    };
    let response = serde_json::from_str(&text).context("the agent is of an incompatible version")?;
    Ok(Some(response))
}
