//! The TCP connections that sockets of this node opened, of a service port or a backend, as fields of a row.
//!
//! ```text
//! {"opened": 12, "open": 2, "failures": {"refused": 0, "timed_out": 0, "unreachable": 0, "abandoned": 0, "reset": 0},
//!  "sent_bytes": 4096, "received_bytes": 8192, "retransmissions": 0, "round_trip_us": 180}
//! ```
//!
//! Bytes and retransmissions of open connections are as of the last ten seconds. `round_trip_us` is the smoothed round-trip time when they closed:
//! of a service port the mean of all, of a backend that of the latest; null if none has closed.

use std::{borrow::Cow, collections::BTreeMap};

use proxy_ebpf::abi::{BackendConnections, ServiceConnections};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionCounts {
    opened: u64,
    open: u64,
    failures: BTreeMap<Cow<'static, str>, u64>,
    sent_bytes: u64,
    received_bytes: u64,
    retransmissions: u64,
    round_trip_us: Option<u64>,
}

impl ConnectionCounts {
    pub fn of_service(counts: &ServiceConnections) -> Self {
        Self {
            opened: counts.opened(),
            open: counts.open(),
            failures: counts.failures().map(|(failure, count)| (failure.name().into(), count)).collect(),
            sent_bytes: counts.sent,
            received_bytes: counts.received,
            retransmissions: counts.retransmissions,
            round_trip_us: counts.round_trips.checked_div(counts.round_trip_samples),
        }
    }

    pub fn of_backend(counts: &BackendConnections) -> Self {
        Self {
            opened: counts.opened,
            open: counts.open(),
            failures: counts
                .failures()
                .map(|(failure, count)| (failure.name().into(), count.into()))
                .collect(),
            sent_bytes: counts.sent,
            received_bytes: counts.received,
            retransmissions: counts.retransmissions.into(),
            round_trip_us: Some(u64::from(counts.round_trip)).filter(|time| *time != 0),
        }
    }

    pub const HEADER: [&str; 4] = ["OPENED", "OPEN", "FAILED", "RTT"];

    pub fn cells(&self) -> [String; 4] {
        let failed: u64 = self.failures.values().sum();
        let round_trip = self.round_trip_us.map_or_else(|| "-".to_owned(), milliseconds);
        [self.opened.to_string(), self.open.to_string(), failed.to_string(), round_trip]
    }
}

/// Whether a backend took bytes on closed connections, and never sent any. A FIN counts as a byte on either side, and a few
/// connections may be probes that send nothing.
pub fn is_unanswered(closed: u64, sent: u64, received: u64) -> bool {
    const LEAST: u64 = 3;
    closed >= LEAST && received <= closed && sent > closed.saturating_mul(2)
}

/// Two digits behind the point: on one machine a round trip takes some hundredths.
fn milliseconds(microseconds: u64) -> String {
    format!("{}.{:02}ms", microseconds / 1000, microseconds % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_without_any_byte_is_unanswered() {
        for (closed, sent, received, want) in [
            (3, 300, 0, true),
            (3, 300, 3, true),
            (3, 300, 4, false),
            (2, 300, 0, false),
            (50, 50, 0, false),
            (0, 0, 0, false),
            (u64::MAX, u64::MAX, 0, false),
        ] {
            assert_eq!(is_unanswered(closed, sent, received), want, "{closed} {sent} {received}");
        }
    }

    #[test]
    fn cells_are_short() {
        let counts = ServiceConnections {
            closed: 3,
            failures: [1, 2, 0, 0, 4],
            round_trips: 4_000,
            round_trip_samples: 3,
            connect_times: [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            ..ServiceConnections::default()
        };
        assert_eq!(ConnectionCounts::of_service(&counts).cells(), ["5", "2", "7", "1.33ms"]);
        let unused = ConnectionCounts::of_backend(&BackendConnections::default());
        assert_eq!(unused.cells(), ["0", "0", "0", "-"]);
    }
}
