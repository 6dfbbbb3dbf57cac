//! Hedged queries: the next attempt starts when the last one has failed, or exceeds its hedging delay.

use std::{future::Future, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until, timeout_at};

/// One attempt, and the hedging delay after which another one starts beside it.
pub(super) struct Attempt<A> {
    pub answer: A,
    pub hedging_delay: Duration,
}

/// The result of the first attempt that succeeds, or all failures in the order in which they happened. A slow
/// attempt is not cancelled; all are when `time` is over.
pub(super) async fn hedge<A, T, E>(
    mut attempts: impl Iterator<Item = Attempt<A>>,
    time: Duration,
) -> Result<T, Vec<E>>
where
    A: Future<Output = Result<T, E>>,
{
    let end = Instant::now() + time;
    let mut running = FuturesUnordered::new();
    let mut failures = Vec::new();
    while Instant::now() < end {
        let mut hedging_delay = end;
        if let Some(attempt) = attempts.next() {
            hedging_delay = end.min(Instant::now() + attempt.hedging_delay);
            running.push(attempt.answer);
        } else if running.is_empty() {
            break;
        }
        match timeout_at(hedging_delay, running.next()).await {
            Ok(Some(Ok(answer))) => return Ok(answer),
            Ok(Some(Err(failure))) => failures.push(failure),
            // No attempt is running, or the hedging delay is over: start the next one.
            Ok(None) | Err(_) => {}
        }
    }
    Err(failures)
}

/// Runs a future for at most `time`. Errors: its own, or `late` on timeout.
pub(super) async fn within<T, E>(
    time: Duration,
    late: E,
    promise: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let end = Instant::now() + time;
    tokio::select! {
        kept = promise => kept,
        () = sleep_until(end) => Err(late),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// `tries`: milliseconds until an attempt ends, and its result.
    struct Case {
        name: &'static str,
        tries: &'static [(u64, Result<&'static str, &'static str>)],
        want: Result<&'static str, &'static [&'static str]>,
        after: u64,
    }

    const DELAY: Duration = Duration::from_millis(100);
    const TIME: Duration = Duration::from_millis(1000);
    const NEVER: u64 = 60_000;

    #[tokio::test(start_paused = true)]
    async fn the_first_success_wins() {
        let cases = [
            Case { name: "at once", tries: &[(5, Ok("a")), (0, Ok("b"))], want: Ok("a"), after: 5 },
            Case {
                name: "the second beside it",
                tries: &[(500, Ok("a")), (5, Ok("b"))],
                want: Ok("b"),
                after: 105,
            },
            Case {
                name: "the first after all",
                tries: &[(110, Ok("a")), (50, Ok("b"))],
                want: Ok("a"),
                after: 110,
            },
            Case { name: "after a failure", tries: &[(5, Err("x")), (5, Ok("b"))], want: Ok("b"), after: 10 },
            Case {
                name: "the third",
                tries: &[(NEVER, Ok("a")), (5, Err("x")), (1, Ok("c"))],
                want: Ok("c"),
                after: 106,
            },
            Case {
                name: "all fail",
                tries: &[(5, Err("x")), (6, Err("y"))],
                want: Err(&["x", "y"]),
                after: 11,
            },
            Case { name: "no upstream", tries: &[], want: Err(&[]), after: 0 },
            Case {
                name: "time is over",
                tries: &[(NEVER, Ok("a")), (5, Err("x"))],
                want: Err(&["x"]),
                after: 1000,
            },
        ];
        for Case { name, tries, want, after } in cases {
            let start = Instant::now();
            let attempts = tries.iter().map(|(takes, end)| Attempt {
                answer: async move {
                    sleep(Duration::from_millis(*takes)).await;
                    *end
                },
                hedging_delay: DELAY,
            });
            let got = hedge(attempts, TIME).await;
            assert_eq!(
                got.as_ref().map_err(Vec::as_slice),
                want.as_ref().map_err(|failures| *failures),
                "{name}"
            );
            assert_eq!(start.elapsed().as_millis(), u128::from(after), "{name}");
        }
    }
}
