//! Configuration that is fixed at load time. The verifier removes the dead branches.

use super::{Timeouts, flags, map_type};

/// The read-only global `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Cookie of the host netns, in which the agent runs.
    pub host_netns: u64,
    pub flags: ConfigFlags,
    /// Records in `FLOWS_V4` and in `FLOWS_V6`.
    pub flows: u32,
    pub timeouts: Timeouts,
    /// First and last port for masqueraded flows, in host byte order, both included: outside the node's ephemeral ports.
    pub first_port: u16,
    pub last_port: u16,
    /// Limit of ICMP errors per CPU and tick (0.27 s).
    pub icmp_errors: u32,
    /// Nanoseconds of a jiffy; 0: unknown, and the monotonic clock is read instead.
    pub jiffy: u32,
    /// Nanoseconds of the monotonic clock at jiffy 0, modulo 2^64.
    pub jiffies_origin: u64,
    /// Offset of `sk_err` in the kernel's `struct sock`, from its BTF; 0: unknown.
    pub socket_error: u32,
    /// Offset of the length of `sk_error_queue` in `struct sock`; 0: unknown.
    pub socket_error_queue: u32,
    /// Offsets of `bytes_acked`, `bytes_received` and `total_retrans` in `struct tcp_sock`; all 0: unknown.
    pub tcp_sent: u32,
    pub tcp_received: u32,
    pub tcp_retransmissions: u32,
    /// Offsets of `rcv_nxt` and `snd_nxt` in `struct tcp_sock`; both 0: unknown.
    pub tcp_receive_next: u32,
    pub tcp_send_next: u32,
    /// Offset of `skc_v6_rcv_saddr` in `struct sock_common`; 0: unknown, or that structure does not begin as it always has.
    pub socket_local6: u32,
}
map_type!(Config, 8 + 4 + 4 + 36 + 2 + 2 + 4 + 4 + 8 + 8 * 4);

impl Config {
    /// The configuration of a program that is loaded without the agent's values.
    pub const DEFAULT: Self = Self {
        host_netns: 0,
        flags: ConfigFlags(0),
        flows: super::map::MAX_FLOWS,
        timeouts: Timeouts::DEFAULT,
        first_port: 1024,
        last_port: 32_767,
        // About a thousand per second, Linux's own limit (`net.ipv4.icmp_msgs_per_sec`).
        icmp_errors: 268,
        jiffy: 0,
        jiffies_origin: 0,
        socket_error: 0,
        socket_error_queue: 0,
        tcp_sent: 0,
        tcp_received: 0,
        tcp_retransmissions: 0,
        tcp_receive_next: 0,
        tcp_send_next: 0,
        socket_local6: 0,
    };
}

impl Default for Config {
    fn default() -> Self {
        Self::DEFAULT
    }
}

flags! {
    /// The switches of the configuration.
    ConfigFlags(u32) {
        /// Only sockets in the host netns are translated (`--socket-lb host-only`).
        HOST_ONLY = 0;
        /// No pod range is configured, so pods get the external view (rule E6).
        PODS_ARE_EXTERNAL_V4 = 1;
        PODS_ARE_EXTERNAL_V6 = 2;
        /// tc programs are attached: socket hooks leave to them the decisions that need a source address.
        PACKET_PLANE = 3;
        /// Pods are recognised by ingress device, not by address.
        PODS_BY_DEVICE = 4;
        /// Packets between other machines bypass the node's stack (`--forwarding redirect`).
        BYPASS_STACK = 5;
        /// tc programs are attached to external devices, so all packets that leave the node pass them.
        EXTERNAL_DEVICES = 6;
        /// Only sockets in the host netns are translated, to the node's own addresses, as packets to these pass no device
        /// (`--socket-lb off`).
        OWN_ADDRESSES_ONLY = 7;
        /// Packets of flows are not counted: the other side of a measurement.
        UNCOUNTED_FLOWS = 8;
        /// The health of backends is recorded (`--passive-health on` and `observe`).
        RECORDS_HEALTH = 9;
        /// It decides about new connections, and those that are not answered go on at another backend (`--passive-health on`).
        ACTS_ON_HEALTH = 10;
    }
}
