//! Packets and bytes of flows, as fields of a row: `{"packets": 9, "bytes": 1270}`.

use proxy_ebpf::abi::Traffic;
use serde::{Deserialize, Serialize};

/// Of one direction. Counted as nf_conntrack does, from the IP header on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficCount {
    pub packets: u64,
    pub bytes: u64,
}

impl From<Traffic> for TrafficCount {
    fn from(Traffic { packets, bytes }: Traffic) -> Self {
        Self { packets, bytes }
    }
}

/// Of all flows of a service port: `{"sent": {..}, "received": {..}}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardedCounts {
    /// To the backends.
    sent: TrafficCount,
    received: TrafficCount,
}

impl From<[Traffic; 2]> for ForwardedCounts {
    fn from([sent, received]: [Traffic; 2]) -> Self {
        Self { sent: sent.into(), received: received.into() }
    }
}
