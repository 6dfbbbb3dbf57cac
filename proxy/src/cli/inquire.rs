//! Asks a running agent something at its socket.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

use crate::observe::control::ControlRequest;

/// An agent that does not answer within this time hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// Nothing: no agent listens there.
pub fn inquire<T: DeserializeOwned>(socket: &Path, inquiry: ControlRequest) -> Result<Option<T>> {
    let asking = || format!("cannot ask the agent at {}", socket.display());
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(asking),
    };
    stream.set_read_timeout(Some(PATIENCE)).with_context(asking)?;
    stream.write_all(inquiry.word().as_bytes()).with_context(asking)?;
    stream.shutdown(Shutdown::Write).with_context(asking)?;
    let mut text = String::new();
    match stream.read_to_string(&mut text) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            bail!("the agent at {} has not answered for {} s: it hangs", socket.display(), PATIENCE.as_secs())
        }
        read => read.with_context(asking)?,
    };
    let answer = serde_json::from_str(&text).context("the agent is of a version that speaks otherwise")?;
    Ok(Some(answer))
}
