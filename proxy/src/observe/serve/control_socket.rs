//! The control socket, for `portreeve status` and `portreeve get`.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{endpoints::metrics_text, events};
use crate::{
    config::Pages,
    log_level, log_ring,
    observe::{
        agent_state::AgentState,
        conditions::{ConditionType, Fault},
        control::{AgentConfiguration, ControlRequest, LOG_LEVEL},
        events::filter::EVENTS,
        objects::Objects,
    },
};

/// Limit of a Corefile in a response, in bytes.
const MAX_COREFILE: u64 = 256 << 10;
/// The longest request in bytes: a filter of events.
const MAX_REQUEST: u64 = 16 << 10;
/// A client that sends nothing for this long has sent its request.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// A client must have read the reply by then.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a failed accept: while file descriptors are short, the next one would fail, too.
const ACCEPT_BACKOFF: Duration = Duration::from_secs(1);

/// What requests are answered from.
pub struct ControlSocket {
    pub state: Arc<AgentState>,
    /// The pin directory of the counters.
    pub bpffs: PathBuf,
    pub pages: Pages,
}

pub async fn serve(path: PathBuf, source: ControlSocket) {
    let source = Arc::new(source);
    let state = Arc::clone(&source.state);
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
            Ok((stream, _)) => drop(tokio::spawn(respond(stream, Arc::clone(&source)))),
            Err(error) => {
                warn!(%error, "cannot accept on the control socket");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// An unknown request gets no reply.
async fn respond(mut stream: UnixStream, source: Arc<ControlSocket>) {
    let ControlSocket { state, bpffs, pages } = &*source;
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
    if let Some(filter) = request.strip_prefix(EVENTS.as_bytes()) {
        return events::listen(stream, filter, state).await;
    }
    let text = match ControlRequest::parse(&request) {
        Some(ControlRequest::Status) => serde_json::to_vec(&state.status()),
        Some(ControlRequest::QueryStatistics) => serde_json::to_vec(&state.query_statistics()),
        Some(ControlRequest::Services) => {
            objects(state, |objects| serde_json::to_vec(&objects.services())).await
        }
        Some(ControlRequest::Endpoints) => {
            objects(state, |objects| serde_json::to_vec(&objects.endpoints())).await
        }
        Some(ControlRequest::Pods) => objects(state, |objects| serde_json::to_vec(&objects.pods())).await,
        Some(ControlRequest::Objects) => return send_manifests(stream, state).await,
        Some(ControlRequest::Policy) => {
            let has_names = state.names().is_some();
            let policy = move |objects: Objects| serde_json::to_vec(&objects.policy(has_names));
            objects(state, policy).await
        }
        Some(ControlRequest::Log) => serde_json::to_vec(&log_ring::text()),
        Some(ControlRequest::Metrics) => {
            let text = metrics_text(state, bpffs, pages.series).await;
            serde_json::to_vec(&text.ok().map(|octets| String::from_utf8_lossy(&octets).into_owned()))
        }
        Some(ControlRequest::Configuration) => {
            let pages = pages.clone();
            spawn_blocking(move || serde_json::to_vec(&configuration(&pages)))
                .await
                .unwrap_or_else(|_| Ok(b"null".to_vec()))
        }
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

/// Sends the objects in pieces: as one text they might need more memory than the agent may have.
async fn send_manifests(mut stream: UnixStream, state: &AgentState) {
    let Some(objects) = state.objects().await else { return };
    let names = state.names();
    let (sender, mut pieces) = mpsc::channel::<String>(2);
    drop(spawn_blocking(move || {
        objects.write_manifests(names.as_deref(), |piece| sender.blocking_send(piece))
    }));
    while let Some(piece) = pieces.recv().await {
        // The client may have closed the connection.
        let Ok(Ok(())) = timeout(WRITE_TIMEOUT, stream.write_all(piece.as_bytes())).await else { return };
    }
}

fn configuration(pages: &Pages) -> AgentConfiguration {
    let configuration = serde_json::from_str(&pages.configz).unwrap_or_default();
    let corefile = value_of(&pages.arguments, "--corefile").and_then(|path| start_of(path.as_ref()).ok());
    AgentConfiguration { arguments: pages.arguments.clone(), configuration, corefile }
}

/// The last value of a flag: `--flag=value` or `--flag value`.
fn value_of<'a>(arguments: &'a [String], flag: &str) -> Option<&'a str> {
    arguments.iter().enumerate().rev().find_map(|(n, argument)| {
        let rest = argument.strip_prefix(flag)?;
        if rest.is_empty() { arguments.get(n + 1).map(String::as_str) } else { rest.strip_prefix('=') }
    })
}

fn start_of(path: &Path) -> io::Result<String> {
    let mut octets = Vec::new();
    fs::File::open(path)?.take(MAX_COREFILE).read_to_end(&mut octets)?;
    Ok(String::from_utf8_lossy(&octets).into_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_flag_counts() {
        let arguments = ["run", "--corefile", "/a", "--corefile=/b", "--corefile-x=/c"].map(str::to_owned);
        assert_eq!(value_of(&arguments, "--corefile"), Some("/b"));
        assert_eq!(value_of(&arguments[..3], "--corefile"), Some("/a"));
        assert_eq!(value_of(&arguments[..2], "--corefile"), None);
    }

    #[test]
    fn the_corefile_of_the_flags_is_in_the_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("Corefile");
        fs::write(&path, ". {\n}\n").unwrap();
        let arguments = vec!["run".to_owned(), format!("--corefile={}", path.display())];
        let pages = Pages { arguments, ..Pages::default() };
        assert_eq!(configuration(&pages).corefile.as_deref(), Some(". {\n}\n"));
        fs::remove_file(&path).unwrap();
        assert_eq!(configuration(&pages).corefile, None);
    }
}
