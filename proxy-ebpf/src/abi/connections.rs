//! Counters of the TCP connections that the socket LB translated: what their sockets saw, per service port and per backend. And of a
//! service port the packets of its flows.
//!
//! All CPUs share them, and add atomically: each connection adds a few times in its whole life, and an array per CPU would take
//! this memory once for each CPU. The agent maps the arrays and reads them without system calls.

use super::{Endpoint, HealthFault, SocketPair, map_type};

/// Value of `TCP_SOCKETS`: the translation of a TCP socket, as `SOCKETS` holds it for others, and what was counted of it. One value, as
/// a second one would cost each connect a percent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpSocket {
    pub pair: SocketPair,
    /// Nanoseconds of the monotonic clock at the connect.
    pub started: u64,
    /// `ServiceConnections::generation` at the connect.
    pub generation: u64,
    pub service: u32,
    /// A number of `SocketStage`.
    pub stage: u32,
    /// 1 if the backend is in `BACKENDS_V6`, 0 if in `BACKENDS_V4`.
    pub is_v6: u32,
    /// A number of `Steering`.
    pub steering: u32,
    /// What the counters have of the open connection: bytes, and segments that were sent again.
    pub sent: u64,
    pub received: u64,
    pub retransmissions: u64,
}
map_type!(TcpSocket, 48 + 8 + 8 + 4 + 4 + 4 + 4 + 3 * 8);

/// What was counted of a socket. Each connection is counted as open and as closed once, whatever its socket does later.
pub struct SocketStage;

impl SocketStage {
    /// Nothing: not translated, failed, or closed.
    pub const NONE: u32 = 0;
    /// The first SYN was sent.
    pub const CONNECTING: u32 = 1;
    /// Counted as open.
    pub const OPEN: u32 = 2;
}

/// The socket of an open connection through a Service, as iterators write it for the agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenSocket {
    pub backend: Endpoint,
    /// The socket's own end.
    pub local: Endpoint,
    /// The sequence number that the socket expects next from the backend.
    pub receive_next: u32,
    /// The sequence number that the socket sends next.
    pub send_next: u32,
}
map_type!(OpenSocket, 20 + 20 + 4 + 4);

/// What became of the SYN of a socket.
pub struct Steering;

impl Steering {
    /// Answered, or not sent again yet.
    pub const NONE: u32 = 0;
    /// Sent again without an answer: the packet plane may have sent it to another backend than the socket's own.
    pub const UNANSWERED: u32 = 1;
}

/// Upper bounds of `ServiceConnections::connect_times` but the last, in nanoseconds. Without a retransmission a connect is shorter
/// than a second, with one it is shorter than three (TCP_TIMEOUT_INIT, doubled each time).
pub const CONNECT_BOUNDS: [u64; 10] = [
    100_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    100_000_000,
    1_000_000_000,
    3_000_000_000,
];

/// The bounds, and infinity.
pub const CONNECT_BUCKETS: usize = CONNECT_BOUNDS.len() + 1;

/// The index in `ServiceConnections::connect_times` of a time in nanoseconds.
#[inline(always)]
pub const fn connect_bucket(nanoseconds: u64) -> usize {
    let (mut bucket, mut at) = (0, 0);
    while at < CONNECT_BOUNDS.len() {
        if nanoseconds > CONNECT_BOUNDS[at] {
            bucket = at + 1;
        }
        at += 1;
    }
    bucket
}

/// The reason for which a connection was of no use.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// An RST, or an ICMP port unreachable, in answer to the SYN.
    Refused,
    /// No answer: the kernel gave up, or the application after a SYN was sent again.
    TimedOut,
    /// An ICMP error or the route: no way to the backend.
    Unreachable,
    /// Given up by the application before a SYN was sent again.
    Abandoned,
    /// Opened, then reset by the backend before its first byte.
    Reset,
}

impl ConnectFailure {
    /// Each failure at its own number.
    pub const ALL: [Self; 5] =
        [Self::Refused, Self::TimedOut, Self::Unreachable, Self::Abandoned, Self::Reset];

    /// The metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Abandoned => "abandoned",
            Self::Reset => "reset",
        }
    }

    /// What the failure says about the backend; nothing if the application gave up.
    #[inline(always)]
    pub const fn fault(self) -> Option<HealthFault> {
        match self {
            Self::Refused => Some(HealthFault::Refused),
            Self::TimedOut => Some(HealthFault::Silent),
            Self::Unreachable => Some(HealthFault::Unreachable),
            Self::Abandoned => None,
            Self::Reset => Some(HealthFault::Reset),
        }
    }

    /// The failure of a connect whose socket has this error, after so many retransmissions of the SYN. `was_told`: an ICMP error is
    /// queued for the application.
    #[inline(always)]
    pub const fn of_connect(errno: u32, was_told: bool, retransmissions: u32) -> Self {
        const ECONNABORTED: u32 = 103;
        const ETIMEDOUT: u32 = 110;
        const ECONNREFUSED: u32 = 111;
        match errno {
            ECONNREFUSED => Self::Refused,
            ETIMEDOUT => Self::TimedOut,
            // No error: the application closed the socket. ECONNABORTED: SOCK_DESTROY closed it.
            0 | ECONNABORTED if was_told => Self::Unreachable,
            0 | ECONNABORTED if retransmissions == 0 => Self::Abandoned,
            0 | ECONNABORTED => Self::TimedOut,
            _ => Self::Unreachable,
        }
    }
}

/// Packets and bytes of flows in one direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub packets: u64,
    /// From the IP header on.
    pub bytes: u64,
}
map_type!(Traffic, 8 + 8);

/// Value of `SERVICE_CONNECTIONS`: of a service port. Bytes and retransmissions are those of closed connections, and of open ones as of
/// the last reading of their sockets; round-trip times are those of closed connections.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceConnections {
    /// Tells the uses of one index apart, so that a socket of an earlier service port is not counted for a later one.
    pub generation: u64,
    pub closed: u64,
    /// By `ConnectFailure`.
    pub failures: [u64; ConnectFailure::ALL.len()],
    /// Bytes that the backends acknowledged. Of a connection that either side closed, its FIN counts as one.
    pub sent: u64,
    /// Bytes from the backends, likewise.
    pub received: u64,
    /// Segments sent again.
    pub retransmissions: u64,
    /// Sum of the smoothed round-trip times at the close, in microseconds, and their number.
    pub round_trips: u64,
    pub round_trip_samples: u64,
    /// Sum of the times to connect of opened connections, in nanoseconds.
    pub connect_time: u64,
    /// Opened connections by time to connect, see `CONNECT_BOUNDS`.
    pub connect_times: [u64; CONNECT_BUCKETS],
    /// Of the flows of the packet plane, to the backends and from them: as of the last sweep, and to the end of those that ended.
    pub forwarded: [Traffic; 2],
}
map_type!(ServiceConnections, 8 + 8 + 5 * 8 + 6 * 8 + CONNECT_BUCKETS * 8 + 2 * 16);

impl ServiceConnections {
    /// Connections opened.
    pub fn opened(&self) -> u64 {
        self.connect_times.iter().fold(0, |sum, count| sum.wrapping_add(*count))
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.opened().saturating_sub(self.closed)
    }

    /// The failures of each kind.
    pub fn failures(&self) -> impl Iterator<Item = (ConnectFailure, u64)> {
        ConnectFailure::ALL.into_iter().zip(self.failures)
    }

    /// Whether nothing was counted.
    pub fn is_unused(&self) -> bool {
        *self == Self { generation: self.generation, ..Self::default() }
    }
}

/// Value of `BACKEND_CONNECTIONS_*`: of a backend; one cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendConnections {
    pub opened: u64,
    pub closed: u64,
    /// As in `ServiceConnections`.
    pub sent: u64,
    pub received: u64,
    /// By `ConnectFailure`.
    pub failures: [u32; ConnectFailure::ALL.len()],
    pub retransmissions: u32,
    /// The smoothed round-trip time at the close of connections, smoothed once more by an eighth; microseconds, 0 if none has closed.
    pub round_trip: u32,
    /// That of the backend. Only references with it are counted.
    pub generation: u32,
}
map_type!(BackendConnections, 4 * 8 + 5 * 4 + 3 * 4);

impl BackendConnections {
    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.opened.saturating_sub(self.closed)
    }

    /// The failures of each kind.
    pub fn failures(&self) -> impl Iterator<Item = (ConnectFailure, u32)> {
        ConnectFailure::ALL.into_iter().zip(self.failures)
    }

    /// `round_trip` after another connection closed.
    #[inline(always)]
    pub const fn smoothed(before: u32, sample: u32) -> u32 {
        if before == 0 { sample } else { before - before / 8 + sample / 8 }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    #[test]
    fn a_time_to_connect_is_in_the_bucket_of_the_first_bound_that_holds_it() {
        for (nanoseconds, want) in [
            (0, 0),
            (100_000, 0),
            (100_001, 1),
            (999_999, 2),
            (1_000_001, 3),
            (1_000_000_001, 9),
            (3_000_000_001, 10),
            (u64::MAX, 10),
        ] {
            assert_eq!(connect_bucket(nanoseconds), want, "{nanoseconds}");
        }
        assert!(CONNECT_BOUNDS.is_sorted());
    }

    #[test]
    fn a_failure_is_the_error_of_the_socket() {
        for (errno, was_told, retransmissions, want) in [
            (111, false, 0, ConnectFailure::Refused),
            (111, true, 3, ConnectFailure::Refused),
            (110, false, 6, ConnectFailure::TimedOut),
            (113, false, 0, ConnectFailure::Unreachable),
            (101, true, 2, ConnectFailure::Unreachable),
            (0, false, 0, ConnectFailure::Abandoned),
            (0, true, 0, ConnectFailure::Unreachable),
            (0, false, 1, ConnectFailure::TimedOut),
            (103, false, 0, ConnectFailure::Abandoned),
        ] {
            let failure = ConnectFailure::of_connect(errno, was_told, retransmissions);
            assert_eq!(failure, want, "{errno} {was_told} {retransmissions}");
        }
    }

    #[test]
    fn a_round_trip_time_follows_its_samples() {
        assert_eq!(BackendConnections::smoothed(0, 800), 800);
        let mut smoothed = 800;
        (0..60).for_each(|_| smoothed = BackendConnections::smoothed(smoothed, 80));
        assert!((80..96).contains(&smoothed), "{smoothed}");
        assert_eq!(BackendConnections::smoothed(u32::MAX, u32::MAX), u32::MAX);
    }
}
