//! Access to `struct bpf_sock_addr`, the context of cgroup socket hooks. The verifier permits whole words only.

use core::{mem::offset_of, ptr};

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    programs::SockAddrContext,
};

use crate::family::Words;

const ECONNREFUSED: i32 = 111;

#[inline(always)]
pub fn protocol(ctx: &SockAddrContext) -> u32 {
    read(ctx, offset_of!(bpf_sock_addr, protocol))
}

/// The netns cookie of the socket, unique until reboot.
#[inline(always)]
pub fn netns_cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the hook's own context is what the helper takes.
    unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) }
}

/// The socket cookie, unique until reboot.
#[inline(always)]
pub fn socket_cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: as in `netns_cookie`.
    unsafe { bpf_get_socket_cookie(ctx.sock_addr.cast()) }
}

/// Sets the errno of a refused system call to ECONNREFUSED. The default, EPERM, made kernel NFS clients retry connect without end.
#[inline(always)]
pub fn set_connection_refused(_: &SockAddrContext) {
    // SAFETY: available to connect and sendmsg hooks since Linux 5.18; the kernel keeps the value for this call only.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
}

#[inline(always)]
pub fn address4(ctx: &SockAddrContext) -> (u32, [u8; 2]) {
    (read(ctx, offset_of!(bpf_sock_addr, user_ip4)), port(ctx))
}

#[inline(always)]
pub fn address6(ctx: &SockAddrContext) -> (Words, [u8; 2]) {
    let word = |at| read(ctx, offset_of!(bpf_sock_addr, user_ip6) + at * size_of::<u32>());
    ([word(0), word(1), word(2), word(3)], port(ctx))
}

/// The IPv4 address to which the socket is bound, unspecified if it is not. Any hook.
#[inline(always)]
pub fn bound4(ctx: &SockAddrContext) -> u32 {
    read_socket(ctx, offset_of!(bpf_sock, src_ip4))
}

/// As `bound4`, of IPv6.
#[inline(always)]
pub fn bound6(ctx: &SockAddrContext) -> Words {
    let word = |at| read_socket(ctx, offset_of!(bpf_sock, src_ip6) + at * size_of::<u32>());
    [word(0), word(1), word(2), word(3)]
}

/// The port to which the socket is bound, 0 if it is not. Any hook.
#[inline(always)]
pub fn bound_port(ctx: &SockAddrContext) -> [u8; 2] {
    // In host byte order, unlike the other fields.
    (read_socket(ctx, offset_of!(bpf_sock, src_port)) as u16).to_be_bytes()
}

/// The source of a datagram: of its control message (IP_PKTINFO), else the bound address. sendmsg4 only.
#[inline(always)]
pub fn datagram_source4(ctx: &SockAddrContext) -> u32 {
    read(ctx, offset_of!(bpf_sock_addr, msg_src_ip4))
}

/// As `datagram_source4`, of IPv6. sendmsg6 only.
#[inline(always)]
pub fn datagram_source6(ctx: &SockAddrContext) -> Words {
    let word = |at| read(ctx, offset_of!(bpf_sock_addr, msg_src_ip6) + at * size_of::<u32>());
    [word(0), word(1), word(2), word(3)]
}

#[inline(always)]
pub fn set_address4(ctx: &SockAddrContext, address: u32, port: [u8; 2]) {
    write(ctx, offset_of!(bpf_sock_addr, user_ip4), address);
    set_port(ctx, port);
}

#[inline(always)]
pub fn set_address6(ctx: &SockAddrContext, address: Words, port: [u8; 2]) {
    for (at, word) in address.into_iter().enumerate() {
        write(ctx, offset_of!(bpf_sock_addr, user_ip6) + at * size_of::<u32>(), word);
    }
    set_port(ctx, port);
}

/// The port, in network byte order in the first half of its word.
#[inline(always)]
fn port(ctx: &SockAddrContext) -> [u8; 2] {
    let [high, low, _, _] = read(ctx, offset_of!(bpf_sock_addr, user_port)).to_ne_bytes();
    [high, low]
}

#[inline(always)]
fn set_port(ctx: &SockAddrContext, [high, low]: [u8; 2]) {
    write(ctx, offset_of!(bpf_sock_addr, user_port), u32::from_ne_bytes([high, low, 0, 0]));
}

/// Volatile, as the compiler would merge accesses into widths that the verifier refuses.
#[inline(always)]
fn read(ctx: &SockAddrContext, offset: usize) -> u32 {
    // SAFETY: the kernel passes a valid context, and the offset is that of a word in it.
    unsafe { ptr::read_volatile(ctx.sock_addr.byte_add(offset).cast()) }
}

/// Volatile as in `read`.
#[inline(always)]
fn read_socket(ctx: &SockAddrContext, offset: usize) -> u32 {
    // SAFETY: the context of these hooks always has a socket, and the offset is that of a word in it.
    unsafe {
        let socket = ptr::read_volatile(&raw const (*ctx.sock_addr).__bindgen_anon_1.sk);
        ptr::read_volatile(socket.byte_add(offset).cast())
    }
}

/// Volatile as in `read`.
#[inline(always)]
fn write(ctx: &SockAddrContext, offset: usize, value: u32) {
    // SAFETY: the kernel passes a valid context, and the offset is that of a word in it.
    unsafe { ptr::write_volatile(ctx.sock_addr.byte_add(offset).cast(), value) }
}
