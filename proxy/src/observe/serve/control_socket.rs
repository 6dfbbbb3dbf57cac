//! The socket where `portreeve status` and `portreeve get dns` ask.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    time::{sleep, timeout},
};
use tracing::warn;

use crate::observe::{agent_state::AgentState, control::ControlRequest};

/// No request is longer.
const MAX_REQUEST: u64 = 16;
/// Who says nothing for so long has said it.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// Who has not read it by then does not want to know.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// After a question that could not be heard: the next one would not be either, for as long as descriptors are short.
const ACCEPT_BACKOFF: Duration = Duration::from_secs(1);

pub async fn serve(path: PathBuf, state: Arc<AgentState>) {
    let listener = match listen(&path) {
        Ok(listener) => listener,
        Err(error) => {
            warn!(path = %path.display(), %error, "`portreeve status` cannot ask this agent");
            return;
        }
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(respond(stream, Arc::clone(&state)))),
            Err(error) => {
                warn!(%error, "`portreeve status` was not answered");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// A request that is not known gets no answer.
async fn respond(mut stream: UnixStream, state: Arc<AgentState>) {
    let mut request = Vec::new();
    // Whatever came counts, be it cut short by an error or by time.
    let _ = timeout(READ_TIMEOUT, (&mut stream).take(MAX_REQUEST).read_to_end(&mut request)).await;
    let text = match ControlRequest::parse(&request) {
        Some(ControlRequest::Status) => serde_json::to_vec(&state.status()),
        Some(ControlRequest::QueryStatistics) => serde_json::to_vec(&state.query_statistics()),
        None => return,
    };
    // Who hangs up early did not want to know either.
    let _ = timeout(WRITE_TIMEOUT, stream.write_all(&text.unwrap_or_default())).await;
}

/// Under a name of its own first: an agent that takes over takes the path over too, at once.
fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    }
    let fresh = path.with_extension(format!("{}", std::process::id()));
    let _ = fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(&fresh, path)?;
    Ok(listener)
}
