//! The control socket, for `portreeve status` and `portreeve get`.

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
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    log_level,
    observe::{
        agent_state::AgentState,
        conditions::{ConditionType, Fault},
        control::{ControlRequest, LOG_LEVEL},
        objects::Objects,
    },
};

/// The longest request in bytes.
const MAX_REQUEST: u64 = 64;
/// A client that sends nothing for this long has sent its request.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// A client must have read the reply by then.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a failed accept: while file descriptors are short, the next one would fail, too.
const ACCEPT_BACKOFF: Duration = Duration::from_secs(1);

pub async fn serve(path: PathBuf, state: Arc<AgentState>) {
    let listener = match listen(&path) {
        Ok(listener) => listener,
        Err(error) => {
            let path = path.display();
            let message =
                format!("no control socket at {path}, `portreeve status` cannot reach this agent: {error}");
            let fault = Fault::new("control socket", "CannotListen", message);
            state.conditions.set(ConditionType::AddressesBound, "control socket", [fault]);
            return;
        }
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(respond(stream, Arc::clone(&state)))),
            Err(error) => {
                warn!(%error, "cannot accept on the control socket");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// An unknown request gets no reply.
async fn respond(mut stream: UnixStream, state: Arc<AgentState>) {
    let mut request = Vec::new();
    // The bytes received count, also after an error or a timeout.
    let _ = timeout(READ_TIMEOUT, (&mut stream).take(MAX_REQUEST).read_to_end(&mut request)).await;
    if let Some(level) = request.strip_prefix(LOG_LEVEL.as_bytes()) {
        let changed = log_level::change(&String::from_utf8_lossy(level));
        if let Ok(levels) = &changed {
            info!(levels, "log level");
        }
        let text = serde_json::to_vec(&changed).unwrap_or_default();
        // The client may have closed the connection.
        let _ = timeout(WRITE_TIMEOUT, stream.write_all(&text)).await;
        return;
    }
    let text = match ControlRequest::parse(&request) {
        Some(ControlRequest::Status) => serde_json::to_vec(&state.status()),
        Some(ControlRequest::QueryStatistics) => serde_json::to_vec(&state.query_statistics()),
        Some(ControlRequest::Services) => {
            objects(&state, |objects| serde_json::to_vec(&objects.services())).await
        }
        Some(ControlRequest::Endpoints) => {
            objects(&state, |objects| serde_json::to_vec(&objects.endpoints())).await
        }
        Some(ControlRequest::Pods) => objects(&state, |objects| serde_json::to_vec(&objects.pods())).await,
        None => return,
    };
    // The client may have closed the connection.
    let _ = timeout(WRITE_TIMEOUT, stream.write_all(&text.unwrap_or_default())).await;
}

/// Writes the objects, `null` if they cannot be had now; on another thread, as there may be many.
async fn objects(
    state: &AgentState,
    write: impl FnOnce(Objects) -> serde_json::Result<Vec<u8>> + Send + 'static,
) -> serde_json::Result<Vec<u8>> {
    let Some(objects) = state.objects().await else { return Ok(b"null".to_vec()) };
    spawn_blocking(move || write(objects)).await.unwrap_or_else(|_| Ok(b"null".to_vec()))
}

/// Binds under a temporary name first: an agent that takes over replaces the path atomically.
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
