//! Counters, always on: per service port, per backend, per drop reason, per outcome at XDP.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, PerCpuArray},
    macros::btf_map,
};
use proxy_ebpf::abi::{
    BackendConnections, ConnectFailure, DropReason, FlowDirection, ServiceConnections, ServiceStats,
    SocketStage, Steering, TcpSocket, Traffic, XdpOutcome, connect_bucket, map,
};

use crate::atomic::{add_u32, add_u64};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

#[btf_map]
static SERVICE_STATS: PerCpuArray<ServiceStats, { map::MAX_SERVICES as usize }> = PerCpuArray::new();
#[btf_map]
static DROPS: PerCpuArray<u64, { DropReason::ALL.len() }> = PerCpuArray::new();
#[btf_map]
static XDP_OUTCOMES: PerCpuArray<u64, { XdpOutcome::ALL.len() }> = PerCpuArray::new();

#[btf_map]
static SERVICE_CONNECTIONS: Array<ServiceConnections, { map::MAX_SERVICES as usize }, MMAPABLE> =
    Array::new();
#[btf_map]
static BACKEND_CONNECTIONS_V4: Array<BackendConnections, { map::MAX_BACKENDS as usize }, MMAPABLE> =
    Array::new();
#[btf_map]
static BACKEND_CONNECTIONS_V6: Array<BackendConnections, { map::MAX_BACKENDS as usize }, MMAPABLE> =
    Array::new();

/// Counts a new connection to a backend.
#[inline(always)]
pub fn translated(service: u32) {
    if let Some(stats) = SERVICE_STATS.get_ptr_mut(service) {
        // SAFETY: the element is this CPU's own and programs do not migrate. A program that preempts this one on the
        // same CPU may lose one count, which is the worst outcome.
        unsafe { (*stats).translated = (*stats).translated.wrapping_add(1) };
    }
}

/// Counts a refusal by reason and, if known, by service port.
#[inline(always)]
pub fn refused(reason: DropReason, service: Option<u32>) {
    if let Some(stats) = service.and_then(|service| SERVICE_STATS.get_ptr_mut(service)) {
        // SAFETY: as in `translated`.
        unsafe { (*stats).refused = (*stats).refused.wrapping_add(1) };
    }
    if let Some(count) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: as in `translated`.
        unsafe { *count = (*count).wrapping_add(1) };
    }
}

/// Counts an outcome at XDP.
#[inline(always)]
pub fn xdp(outcome: XdpOutcome) {
    if let Some(count) = XDP_OUTCOMES.get_ptr_mut(outcome as u32) {
        // SAFETY: as in `translated`.
        unsafe { *count = (*count).wrapping_add(1) };
    }
}

/// Adds packets and bytes of a flow to those of its service port. `generation`: as in `FlowCounters`.
#[inline(always)]
pub fn forwarded(service: u32, generation: u32, direction: FlowDirection, more: &Traffic) {
    let Some(stats) = SERVICE_CONNECTIONS.get_ptr_mut(service) else { return };
    if Counters::generation(service).is_none_or(|present| present as u32 != generation) {
        return;
    }
    let at = usize::from(matches!(direction, FlowDirection::Reply));
    // SAFETY: in the memory of an array map, as in `Counters::generation`.
    if let Some(traffic) = element(unsafe { &raw mut (*stats).forwarded }, at) {
        // SAFETY: as above.
        unsafe {
            add_u64(&raw mut (*traffic).packets, more.packets);
            add_u64(&raw mut (*traffic).bytes, more.bytes);
        }
    }
}

/// The counters of the connections of a socket: of its service port and its backend, as far as they still exist.
pub struct Counters {
    service: Option<*mut ServiceConnections>,
    backend: Option<*mut BackendConnections>,
}

/// What a connection has carried since it was counted last.
pub struct Carried {
    pub sent: u64,
    pub received: u64,
    pub retransmissions: u64,
}

impl Counters {
    /// The present use of the index of a service port.
    #[inline(always)]
    pub fn generation(service: u32) -> Option<u64> {
        // SAFETY: a pointer into an array map, which lives as long as the program; volatile because the agent writes it.
        SERVICE_CONNECTIONS
            .get_ptr(service)
            .map(|stats| unsafe { (&raw const (*stats).generation).read_volatile() })
    }

    /// The agent changes a generation before it clears the counters, and those of a backend a grace period earlier. At worst a
    /// program that has just compared adds one to the counters of the next service port with this index.
    #[inline(always)]
    pub fn of(socket: &TcpSocket) -> Self {
        let backend = if socket.is_v6 == 0 {
            BACKEND_CONNECTIONS_V4.get_ptr_mut(socket.pair.reference.index)
        } else {
            BACKEND_CONNECTIONS_V6.get_ptr_mut(socket.pair.reference.index)
        };
        // SAFETY: as in `generation`.
        let is_current = |stats: &*mut BackendConnections| unsafe {
            (&raw const (**stats).generation).read_volatile() == socket.pair.reference.generation
        };
        let service = SERVICE_CONNECTIONS.get_ptr_mut(socket.service);
        let may_be_elsewhere = socket.steering != Steering::NONE && socket.stage == SocketStage::OPEN;
        Self {
            service: service.filter(|_| Self::generation(socket.service) == Some(socket.generation)),
            // Another one than the socket's own may have a connection that opened after its SYN was sent again.
            backend: backend.filter(|_| !may_be_elsewhere).filter(is_current),
        }
    }

    /// Counts an opened connection, which took so many nanoseconds to connect.
    #[inline(always)]
    pub fn opened(&self, nanoseconds: u64) {
        let bucket = connect_bucket(nanoseconds);
        if let Some(stats) = self.service {
            // SAFETY: in bounds, and in the memory of an array map, as in `generation`; so are all pointers below.
            unsafe {
                if let Some(count) = element(&raw mut (*stats).connect_times, bucket) {
                    add_u64(count, 1);
                }
                add_u64(&raw mut (*stats).connect_time, nanoseconds);
            }
        }
        if let Some(stats) = self.backend {
            // SAFETY: as above.
            add_u64(unsafe { &raw mut (*stats).opened }, 1);
        }
    }

    /// Counts a failure. A connection that was reset is counted as opened and closed, too.
    #[inline(always)]
    pub fn failed(&self, failure: ConnectFailure) {
        if let Some(stats) = self.service {
            // SAFETY: as in `opened`.
            if let Some(count) = element(unsafe { &raw mut (*stats).failures }, failure as usize) {
                add_u64(count, 1);
            }
        }
        if let Some(stats) = self.backend {
            // SAFETY: as in `opened`.
            if let Some(count) = element(unsafe { &raw mut (*stats).failures }, failure as usize) {
                add_u32(count, 1);
            }
        }
    }

    /// Counts what a connection has carried.
    #[inline(always)]
    pub fn carried(&self, more: &Carried) {
        if let Some(stats) = self.service {
            // SAFETY: as in `opened`.
            unsafe {
                add_u64(&raw mut (*stats).sent, more.sent);
                add_u64(&raw mut (*stats).received, more.received);
                if more.retransmissions != 0 {
                    add_u64(&raw mut (*stats).retransmissions, more.retransmissions);
                }
            }
        }
        if let Some(stats) = self.backend {
            // SAFETY: as in `opened`.
            unsafe {
                add_u64(&raw mut (*stats).sent, more.sent);
                add_u64(&raw mut (*stats).received, more.received);
                if more.retransmissions != 0 {
                    add_u32(&raw mut (*stats).retransmissions, more.retransmissions as u32);
                }
            }
        }
    }

    /// Counts the end of an opened connection. `round_trip` is in microseconds; 0 if it is unknown.
    #[inline(always)]
    pub fn closed(&self, round_trip: u32) {
        if let Some(stats) = self.service {
            // SAFETY: as in `opened`.
            unsafe {
                add_u64(&raw mut (*stats).closed, 1);
                if round_trip != 0 {
                    add_u64(&raw mut (*stats).round_trips, round_trip.into());
                    add_u64(&raw mut (*stats).round_trip_samples, 1);
                }
            }
        }
        if let Some(stats) = self.backend {
            // SAFETY: as in `opened`. Two connections that close at once may lose one sample of the round-trip time.
            unsafe {
                add_u64(&raw mut (*stats).closed, 1);
                if round_trip != 0 {
                    let before = (&raw const (*stats).round_trip).read_volatile();
                    (&raw mut (*stats).round_trip)
                        .write_volatile(BackendConnections::smoothed(before, round_trip));
                }
            }
        }
    }
}

/// A pointer to an element, without a reference to the array, which other CPUs write.
#[inline(always)]
fn element<T, const N: usize>(array: *mut [T; N], at: usize) -> Option<*mut T> {
    // SAFETY: in bounds.
    (at < N).then(|| unsafe { array.cast::<T>().add(at) })
}
