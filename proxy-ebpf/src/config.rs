//! Configuration, fixed when the agent loads the programs.

use core::ptr::read_volatile;

use proxy_ebpf::abi::{Config, ConfigFlags, Timeouts};

/// Set by the agent before loading; the verifier sees constants. Read field by field and volatile, because the loader
/// replaces the values that the compiler sees.
#[unsafe(no_mangle)]
static CONFIG: Config = Config::DEFAULT;

#[inline(always)]
pub fn flags() -> ConfigFlags {
    // SAFETY: a pointer to a field of a static is valid.
    unsafe { read_volatile(&raw const CONFIG.flags) }
}

#[inline(always)]
pub fn host_netns() -> u64 {
    // SAFETY: as in `flags`.
    unsafe { read_volatile(&raw const CONFIG.host_netns) }
}

/// Records in each of `FLOWS_*`.
#[inline(always)]
pub fn max_flows() -> u32 {
    // SAFETY: as in `flags`.
    unsafe { read_volatile(&raw const CONFIG.flows) }
}

#[inline(always)]
pub fn timeouts() -> Timeouts {
    // SAFETY: as in `flags`.
    unsafe { read_volatile(&raw const CONFIG.timeouts) }
}

/// Limit of ICMP errors per CPU and tick.
#[inline(always)]
pub fn icmp_errors() -> u32 {
    // SAFETY: as in `flags`.
    unsafe { read_volatile(&raw const CONFIG.icmp_errors) }
}

/// Length of a jiffy, and the monotonic clock at jiffy 0, both in nanoseconds.
#[inline(always)]
pub fn jiffies() -> (u32, u64) {
    // SAFETY: as in `flags`.
    unsafe { (read_volatile(&raw const CONFIG.jiffy), read_volatile(&raw const CONFIG.jiffies_origin)) }
}

/// Offset of `sk_err` in `struct sock`; 0 if it is unknown.
#[inline(always)]
pub fn socket_error() -> u32 {
    // SAFETY: as in `flags`.
    unsafe { read_volatile(&raw const CONFIG.socket_error) }
}

/// Offset of the length of `sk_error_queue` in `struct sock`; 0 if it is unknown.
#[inline(always)]
pub fn socket_error_queue() -> u32 {
    // SAFETY: as in `flags`.
    unsafe { read_volatile(&raw const CONFIG.socket_error_queue) }
}

/// Offsets of `bytes_acked`, `bytes_received` and `total_retrans` in `struct tcp_sock`; all 0 if they are unknown.
#[inline(always)]
pub fn tcp_totals() -> [u32; 3] {
    // SAFETY: as in `flags`.
    unsafe {
        [
            read_volatile(&raw const CONFIG.tcp_sent),
            read_volatile(&raw const CONFIG.tcp_received),
            read_volatile(&raw const CONFIG.tcp_retransmissions),
        ]
    }
}

/// Offsets of `rcv_nxt` and `snd_nxt` in `struct tcp_sock`, and of `skc_v6_rcv_saddr` in `struct sock_common`; all 0 if one is unknown.
#[inline(always)]
pub fn tcp_position() -> [u32; 3] {
    // SAFETY: as in `flags`.
    unsafe {
        [
            read_volatile(&raw const CONFIG.tcp_receive_next),
            read_volatile(&raw const CONFIG.tcp_send_next),
            read_volatile(&raw const CONFIG.socket_local6),
        ]
    }
}

/// First and last port for masqueraded flows, both included.
#[inline(always)]
pub fn masquerade_ports() -> (u16, u16) {
    // SAFETY: as in `flags`.
    unsafe { (read_volatile(&raw const CONFIG.first_port), read_volatile(&raw const CONFIG.last_port)) }
}
