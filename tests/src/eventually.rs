//! Waiting for a condition. Stories never sleep: they say what they wait for.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use tokio::time::sleep;

const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// Tries until `attempt` succeeds and fails the story, naming `what` and the last error, when it never does.
pub async fn eventually<T, F>(what: &str, attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T>>,
{
    match within(PATIENCE, what, attempt).await {
        Ok(value) => value,
        Err(error) => panic!("{error:#}"),
    }
}

pub async fn within<T, F>(patience: Duration, what: &str, mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let deadline = Instant::now() + patience;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(anyhow!("not within {patience:?}: {what}; at last: {error:#}"));
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}
