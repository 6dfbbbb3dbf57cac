//! Requests by name, as programs make them: the C library looks up the name, and the addresses are tried until a
//! connection succeeds. A client with several names uses the next one after a failure, and starts over after the
//! last, until the timeout.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::BufReader,
    net::{TcpStream, lookup_host},
    time::{Instant, sleep, timeout},
};

use super::{
    Dial,
    exchange::{answered, connect, exchange_line, in_turn},
    now_us,
    report::{Answered, FailedTry, Failure},
};

/// Between two rounds over all names.
const REST: Duration = Duration::from_millis(10);
/// The limit of one step of a try; the C library has its own timeouts.
const STEP: Duration = Duration::from_secs(1);

/// The result, and the failed tries before it.
pub async fn request(dial: &Dial, turn: usize) -> (Result<Answered, Failure>, Vec<FailedTry>) {
    let deadline = Instant::now() + Duration::from_millis(dial.timeout_ms);
    let mut failed_tries = Vec::new();
    // Each request starts with another name.
    for index in turn.. {
        let Some(name) = in_turn(&dial.names, index) else { break };
        let began_us = now_us();
        let Failed { name, failure } = match visit(name, dial).await {
            Ok(answered) => return (Ok(answered), failed_tries),
            Err(failed) if Instant::now() >= deadline => return (Err(failed.failure), failed_tries),
            Err(failed) => failed,
        };
        failed_tries.push(FailedTry { name, began_us, ended_us: now_us(), failure: failure.0 });
        if index - turn + 1 >= dial.names.len() {
            sleep(REST).await;
        }
    }
    (Err(Failure("no name to dial".to_owned())), failed_tries)
}

/// The name that failed.
struct Failed {
    name: String,
    failure: Failure,
}

async fn visit(name: &str, dial: &Dial) -> Result<Answered, Failed> {
    let first = exchange(name, dial).await?;
    match &dial.referred {
        Some(pattern) => exchange(&pattern.replace("{}", &first.name), dial).await,
        None => Ok(first),
    }
}

async fn exchange(name: &str, dial: &Dial) -> Result<Answered, Failed> {
    let failed = |failure| Failed { name: name.to_owned(), failure };
    let addresses = lookup_host(name).await.map_err(|error| failed(Failure(format!("lookup: {error}"))))?;
    let mut stream = first_of(addresses).await.map_err(Failure::at("connect")).map_err(failed)?;
    let mut answer =
        within(exchange_line(&mut stream, "who")).await.map_err(Failure::at("exchange")).map_err(failed)?;
    if dial.linger_ms > 0 {
        sleep(Duration::from_millis(dial.linger_ms)).await;
        answer =
            within(exchange_line(&mut stream, "who")).await.map_err(Failure::at("later")).map_err(failed)?;
    }
    answered(&answer, None).map_err(failed)
}

/// A connection to the first address that accepts one.
async fn first_of(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<BufReader<TcpStream>> {
    let mut outcome = Err(io::ErrorKind::AddrNotAvailable.into());
    for address in addresses {
        outcome = within(connect(address)).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome.map(BufReader::new)
}

async fn within<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(STEP, step).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
