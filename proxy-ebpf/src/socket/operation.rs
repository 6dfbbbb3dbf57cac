//! Access to `struct bpf_sock_ops`, the context of `sock_ops` programs. The verifier permits whole fields only.

use core::{mem::offset_of, ptr};

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_ops},
    helpers::{bpf_sock_ops_cb_flags_set, generated::bpf_skc_to_tcp_sock},
    programs::SockOpsContext,
};

use crate::{
    config,
    family::{Words, bytes, mapped},
};

/// A full TCP socket. The kernel runs the operations that are used here with the socket locked.
#[derive(Clone, Copy)]
pub struct LockedSocket(*mut bpf_sock);

impl LockedSocket {
    pub fn pointer(self) -> *mut bpf_sock {
        self.0
    }

    /// The error that ended the connection (`sk_err`), as an errno. The kernel sets it before it changes the state. 0: none, as the
    /// application closed the socket.
    #[inline(always)]
    pub fn error(self) -> u32 {
        self.word(config::socket_error())
    }

    /// Whether an ICMP error is queued. One that arrives while the system call still has the socket does not end the connect: an
    /// application that polls is told (SO_ERROR clears it) and closes the socket, without an error in it. IPv4 only (`tcp_v4_err`).
    #[inline(always)]
    pub fn has_queued_error(self) -> bool {
        self.word(config::socket_error_queue()) != 0
    }

    /// A word of `struct sock`; 0 if its offset is unknown.
    #[inline(always)]
    fn word(self, offset: u32) -> u32 {
        if offset == 0 {
            return 0;
        }
        // SAFETY: the helper accepts each kind of socket and returns null for another one than TCP's. The offset is that of a field
        // in `struct sock`, with which `struct tcp_sock` begins, as the verifier checks.
        unsafe {
            let socket = bpf_skc_to_tcp_sock(self.0.cast());
            if socket.is_null() { 0 } else { ptr::read_volatile(socket.byte_add(offset as usize).cast()) }
        }
    }
}

/// What a connection has carried since it was opened.
pub struct Totals {
    /// Bytes that the peer acknowledged; the SYN, which the kernel counts, is none.
    pub sent: u64,
    pub received: u64,
    /// Segments sent again.
    pub retransmissions: u32,
}

impl Totals {
    #[inline(always)]
    pub fn of(ctx: &SockOpsContext) -> Self {
        Self {
            sent: read_long(ctx, offset_of!(bpf_sock_ops, bytes_acked)).saturating_sub(1),
            received: read_long(ctx, offset_of!(bpf_sock_ops, bytes_received)),
            retransmissions: retransmissions(ctx),
        }
    }
}

/// A socket that an iterator has found. It is not locked.
pub struct IteratedSocket(pub *mut bpf_sock);

impl IteratedSocket {
    /// `None` if it is no TCP socket, or if its fields are unknown.
    #[inline(always)]
    pub fn totals(&self) -> Option<Totals> {
        let [sent, received, retransmissions] = config::tcp_totals();
        if sent == 0 {
            return None;
        }
        // SAFETY: as in `LockedSocket::word`; the offsets are those of fields in `struct tcp_sock`.
        unsafe {
            let socket = bpf_skc_to_tcp_sock(self.0.cast());
            if socket.is_null() {
                return None;
            }
            let long = |offset: u32| ptr::read_volatile(socket.byte_add(offset as usize).cast::<u64>());
            Some(Totals {
                sent: long(sent).saturating_sub(1),
                received: long(received),
                retransmissions: ptr::read_volatile(socket.byte_add(retransmissions as usize).cast()),
            })
        }
    }
}

/// The own end of a connection, and its positions in both streams.
pub struct Position {
    /// IPv4 as IPv4-mapped.
    pub local: [u8; 16],
    pub port: [u8; 2],
    pub receive_next: u32,
    pub send_next: u32,
}

/// Offsets of `skc_rcv_saddr` and `skc_num` in `struct sock_common`. They are in nameless structures; the agent checks the field behind
/// them.
const LOCAL4: u32 = 4;
const LOCAL_PORT: u32 = 14;

impl IteratedSocket {
    /// `None` if it is no TCP socket, or if its fields are unknown.
    #[inline(always)]
    pub fn position(&self, is_v6: bool) -> Option<Position> {
        let [receive_next, send_next, local6] = config::tcp_position();
        if local6 == 0 {
            return None;
        }
        // SAFETY: as in `totals`; `struct tcp_sock` begins with `struct sock`, and that with `struct sock_common`.
        unsafe {
            let socket = bpf_skc_to_tcp_sock(self.0.cast());
            if socket.is_null() {
                return None;
            }
            let word = |offset: u32| ptr::read_volatile(socket.byte_add(offset as usize).cast::<u32>());
            let words = if is_v6 {
                [word(local6), word(local6 + 4), word(local6 + 8), word(local6 + 12)]
            } else {
                mapped(word(LOCAL4))
            };
            let port = ptr::read_volatile(socket.byte_add(LOCAL_PORT as usize).cast::<u16>());
            Some(Position {
                local: bytes(words),
                port: port.to_be_bytes(),
                receive_next: word(receive_next),
                send_next: word(send_next),
            })
        }
    }
}

/// The operation, a number of `BPF_SOCK_OPS_*`.
#[inline(always)]
pub fn operation(ctx: &SockOpsContext) -> u32 {
    read(ctx, offset_of!(bpf_sock_ops, op))
}

/// The states before and after, of `BPF_SOCK_OPS_STATE_CB`.
#[inline(always)]
pub fn states(ctx: &SockOpsContext) -> (u32, u32) {
    let argument = |at| read(ctx, offset_of!(bpf_sock_ops, __bindgen_anon_1) + at * size_of::<u32>());
    (argument(0), argument(1))
}

#[inline(always)]
pub fn socket(ctx: &SockOpsContext) -> Option<LockedSocket> {
    // SAFETY: the kernel passes a valid context. The pointer is null if the socket is not a full one.
    let socket = unsafe { ptr::read_volatile(&raw const (*ctx.ops).__bindgen_anon_2.sk) };
    (!socket.is_null()).then_some(LockedSocket(socket))
}

/// Requests `BPF_SOCK_OPS_STATE_CB` for this socket, and `BPF_SOCK_OPS_RTO_CB` with `timeouts`, beside what other programs request.
/// Timeouts of a connection that is open need not run the program, so they are requested until then.
#[inline(always)]
pub fn watch(ctx: &SockOpsContext, timeouts: bool) {
    const STATE: u32 = aya_ebpf::bindings::BPF_SOCK_OPS_STATE_CB_FLAG;
    const TIMEOUTS: u32 = aya_ebpf::bindings::BPF_SOCK_OPS_RTO_CB_FLAG;
    let flags = read(ctx, offset_of!(bpf_sock_ops, bpf_sock_ops_cb_flags));
    let wanted = if timeouts { flags | STATE | TIMEOUTS } else { flags & !TIMEOUTS | STATE };
    // SAFETY: the hook's own context is what the helper takes.
    unsafe { bpf_sock_ops_cb_flags_set(ctx.ops, wanted as i32) };
}

/// Segments sent again.
#[inline(always)]
pub fn retransmissions(ctx: &SockOpsContext) -> u32 {
    read(ctx, offset_of!(bpf_sock_ops, total_retrans))
}

/// The smoothed round-trip time in microseconds; 0 if no segment was timed.
#[inline(always)]
pub fn round_trip(ctx: &SockOpsContext) -> u32 {
    // The kernel keeps eight times the value.
    read(ctx, offset_of!(bpf_sock_ops, srtt_us)) >> 3
}

#[inline(always)]
pub fn local4(ctx: &SockOpsContext) -> u32 {
    read(ctx, offset_of!(bpf_sock_ops, local_ip4))
}

#[inline(always)]
pub fn local6(ctx: &SockOpsContext) -> Words {
    let word = |at| read(ctx, offset_of!(bpf_sock_ops, local_ip6) + at * size_of::<u32>());
    [word(0), word(1), word(2), word(3)]
}

#[inline(always)]
pub fn local_port(ctx: &SockOpsContext) -> [u8; 2] {
    // In host byte order, unlike the addresses.
    (read(ctx, offset_of!(bpf_sock_ops, local_port)) as u16).to_be_bytes()
}

/// Volatile, as the compiler would merge accesses into widths that the verifier refuses.
#[inline(always)]
fn read(ctx: &SockOpsContext, offset: usize) -> u32 {
    // SAFETY: the kernel passes a valid context, and the offset is that of a word in it.
    unsafe { ptr::read_volatile(ctx.ops.byte_add(offset).cast()) }
}

/// Volatile as in `read`.
#[inline(always)]
fn read_long(ctx: &SockOpsContext, offset: usize) -> u64 {
    // SAFETY: as in `read`; the offset is that of a double word.
    unsafe { ptr::read_volatile(ctx.ops.byte_add(offset).cast()) }
}
