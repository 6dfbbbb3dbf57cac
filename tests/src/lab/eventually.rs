//! Waiting for conditions. Stories do not sleep: they name the condition.

use std::{
    env,
    future::Future,
    sync::LazyLock,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use tokio::time::sleep;

const TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// Retries until `attempt` succeeds. Panics with `what` and the last error after the timeout.
pub async fn eventually<T, F>(what: &str, attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T>>,
{
    match within(TIMEOUT, what, attempt).await {
        Ok(value) => value,
        Err(error) => panic!("{error:#}"),
    }
}

pub async fn within<T, F>(limit: Duration, what: &str, mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let limit = scaled(limit);
    let deadline = Instant::now() + limit;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(anyhow!("not within {limit:?}: {what}; last error: {error:#}"));
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Scales a timeout of an ordinary machine by $PORTREEVE_TIMEOUT_FACTOR, for an emulated one.
pub fn scaled(ordinary: Duration) -> Duration {
    static FACTOR: LazyLock<u32> = LazyLock::new(|| {
        env::var("PORTREEVE_TIMEOUT_FACTOR")
            .map_or(1, |text| text.parse().expect("PORTREEVE_TIMEOUT_FACTOR is a number"))
    });
    ordinary * *FACTOR
}
