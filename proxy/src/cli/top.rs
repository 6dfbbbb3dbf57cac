//! `top`: the busiest Services, their backends and clients, refusals, and the names that pods ask for, as rates.
//!
//! Counters come from the pinned maps, as those of `get` do, so a dead agent does not matter; only DNS is the agent's. Two readings
//! make rates; nothing is written, and what a view does not show is not read: flows only for the clients of a backend, DNS only for
//! its tab.
//!
//! ```text
//! reading, dns, clients ──> rates ──> tables ──> screen (live), once
//!                                      view: keys ─┘
//! ```

use std::time::Duration;

use anyhow::{Result, bail};

use super::{
    agents::{self, FindArgs, Place},
    get::selection::SelectionArgs,
    output::{Format, OutputArgs},
};
use crate::datapath::InspectError;

mod clients;
mod dns;
mod grid;
mod live;
mod once;
mod rates;
mod reading;
mod screen;
mod tables;
mod terminal;
mod units;
mod view;

/// The meaning of the columns, in `--help`.
const LEGEND: &str = "\
Columns:
  CONN/S    new connections and UDP flows to backends, of sockets and of packets
  REFUSE/S  connections and packets that Portreeve refused; the tab Refusals has the reasons
  FAIL/S    TCP connections of this node's sockets that were refused by the backend, timed out, found no way, were given up, or
            were reset before the first byte
  SENT/S    bytes to backends and from backends (RECV/S): of TCP connections of this node's sockets, and of a Service the packets
            of its flows; those of open connections are added every ten seconds
  P99       time to connect of 99 in 100 of them: between the bounds of a histogram, so `<=1ms` means above 0.5 ms, too
  OPEN      TCP connections of this node's sockets that are open
  SHARE     of the connections of a Service since `top` began
  RTT       smoothed round-trip time of connections that closed
  RETR/S    segments sent again
  STATE     ready, terminating, or unanswered: connections closed in the interval, and the backend had sent nothing
  FLOWS     of the packet plane, and their bytes so far (SENT, RECEIVED), by client

`-` is unknown: the first reading, a new Service or backend, or counters that began anew. `top --once -o json` prints two readings
with the fields
  interval_seconds
  services   service, port_name, protocol, connections_per_second, refused_per_second, opened_per_second, failures_per_second,
             failures, sent_bytes_per_second, received_bytes_per_second, retransmissions_per_second, connect_p99_above_seconds,
             connect_p99_at_most_seconds, round_trip_seconds, open
  backends   service, port_name, protocol, address, state, share, opened_per_second, failures_per_second, failures,
             sent_bytes_per_second, received_bytes_per_second, retransmissions_per_second, round_trip_seconds, open
  refusals   reason, count, per_second
  dns        null, or topics, clients and upstreams";

#[derive(Debug, clap::Args)]
#[command(after_long_help = LEGEND)]
pub struct Args {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Time between two readings, in seconds
    #[arg(short, long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    delay: Duration,
    /// Print the rates between two readings, and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    find: FindArgs,
}

/// The shortest delay: reading 10,000 Services takes a part of it.
const SHORTEST: f64 = 0.1;
const LONGEST: f64 = 3600.0;

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (SHORTEST..=LONGEST).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| format!("not within {SHORTEST} and {LONGEST} seconds"))
}

pub fn run(args: Args) -> Result<()> {
    let Args { selection, delay, once, output: OutputArgs { output }, find } = args;
    let place = find.find()?;
    let source = reading::Source::new(place.clone(), &selection)?;
    let first = source.read().map_err(|error| with_hint(error, &place))?;
    if once {
        return once::run(&source, first, delay, output);
    }
    if output == Format::Json {
        bail!("a live view has no -o json: add --once");
    }
    if !terminal::is_terminal() {
        bail!("standard output is no terminal: use --once");
    }
    live::run(&source, first, delay)
}

/// Where else a data plane is, if there is none.
fn with_hint(error: InspectError, place: &Place) -> anyhow::Error {
    match error {
        error @ InspectError::NoDataPlane(_) => {
            anyhow::anyhow!("{error}{}", agents::hint(&place.bpffs, None))
        }
        error @ (InspectError::OtherVersion { .. }
        | InspectError::Denied(_)
        | InspectError::Io { .. }
        | InspectError::Open(_)
        | InspectError::Unreadable(_)) => error.into(),
    }
}
