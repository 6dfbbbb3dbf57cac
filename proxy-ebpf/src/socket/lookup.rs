//! Lookup of the node's own sockets by 5-tuple.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{
        bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1 as TupleUnion,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as TupleV4,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as TupleV6,
    },
    helpers::{
        bpf_sk_release,
        generated::{bpf_sk_lookup_udp, bpf_skc_lookup_tcp},
    },
};

use crate::{
    family::{Family, V4, V6, Words},
    packet::header::{TCP, UDP},
};

/// `BPF_F_CURRENT_NETNS`: the netns of the packet.
const CURRENT_NETNS: u64 = -1_i64 as u64;

/// The 5-tuple of an incoming packet without its protocol.
pub struct Incoming<A> {
    pub source: A,
    pub destination: A,
    pub source_port: [u8; 2],
    pub destination_port: [u8; 2],
}

pub trait SocketLookup: Family {
    /// Whether a socket of the current netns would receive such a packet. `ctx` is the program's own context.
    fn has_socket(ctx: *mut c_void, protocol: u8, packet: &Incoming<Self::Address>) -> bool;
}

impl SocketLookup for V4 {
    #[inline(always)]
    fn has_socket(ctx: *mut c_void, protocol: u8, packet: &Incoming<u32>) -> bool {
        let ipv4 = TupleV4 {
            saddr: packet.source,
            daddr: packet.destination,
            sport: u16::from_ne_bytes(packet.source_port),
            dport: u16::from_ne_bytes(packet.destination_port),
        };
        let mut tuple = bpf_sock_tuple { __bindgen_anon_1: TupleUnion { ipv4 } };
        exists(ctx, protocol, &mut tuple, size_of::<TupleV4>())
    }
}

impl SocketLookup for V6 {
    #[inline(always)]
    fn has_socket(ctx: *mut c_void, protocol: u8, packet: &Incoming<Words>) -> bool {
        let ipv6 = TupleV6 {
            saddr: packet.source,
            daddr: packet.destination,
            sport: u16::from_ne_bytes(packet.source_port),
            dport: u16::from_ne_bytes(packet.destination_port),
        };
        let mut tuple = bpf_sock_tuple { __bindgen_anon_1: TupleUnion { ipv6 } };
        exists(ctx, protocol, &mut tuple, size_of::<TupleV6>())
    }
}

#[inline(always)]
fn exists(ctx: *mut c_void, protocol: u8, tuple: &mut bpf_sock_tuple, size: usize) -> bool {
    // SAFETY: the context is the program's own, the tuple has `size` bytes, and a socket that is found is released at once.
    unsafe {
        let socket = match protocol {
            TCP => bpf_skc_lookup_tcp(ctx, tuple, size as u32, CURRENT_NETNS, 0),
            UDP => bpf_sk_lookup_udp(ctx, tuple, size as u32, CURRENT_NETNS, 0),
            _ => return false,
        };
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket.cast());
    }
    true
}
