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

use crate::observe::{agent_state::Vitals, control::Inquiry};

/// No word is longer.
const LONGEST: u64 = 16;
/// Who says nothing for so long has said it.
const SILENCE: Duration = Duration::from_secs(1);
/// Who has not read it by then does not want to know.
const PATIENCE: Duration = Duration::from_secs(5);
/// After a question that could not be heard: the next one would not be either, for as long as descriptors are short.
const BREATH: Duration = Duration::from_secs(1);

pub async fn answer(path: PathBuf, vitals: Arc<Vitals>) {
    let listener = match listen(&path) {
        Ok(listener) => listener,
        Err(error) => {
            warn!(path = %path.display(), %error, "`portreeve status` cannot ask this agent");
            return;
        }
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(tell(stream, Arc::clone(&vitals)))),
            Err(error) => {
                warn!(%error, "`portreeve status` was not answered");
                sleep(BREATH).await;
            }
        }
    }
}

/// A word that is not known gets no answer.
async fn tell(mut stream: UnixStream, vitals: Arc<Vitals>) {
    let mut word = Vec::new();
    // Whatever came counts, be it cut short by an error or by time.
    let _ = timeout(SILENCE, (&mut stream).take(LONGEST).read_to_end(&mut word)).await;
    let text = match Inquiry::of(&word) {
        Some(Inquiry::Status) => serde_json::to_vec(&vitals.status()),
        Some(Inquiry::Names) => serde_json::to_vec(&vitals.asked()),
        None => return,
    };
    // Who hangs up early did not want to know either.
    let _ = timeout(PATIENCE, stream.write_all(&text.unwrap_or_default())).await;
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
