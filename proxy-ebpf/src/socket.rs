//! Whether a socket of the node has a pair of ends.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{
        bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1 as Ends,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as EndsV4,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as EndsV6,
    },
    helpers::{
        bpf_sk_release,
        generated::{bpf_sk_lookup_udp, bpf_skc_lookup_tcp},
    },
};

use crate::{
    family::Words,
    packet::{TCP, UDP},
};

/// The network namespace the packet is in.
const HERE: u64 = -1_i64 as u64;

/// The far end and the near end of a packet that comes in.
pub struct Pair<A> {
    pub far: A,
    pub near: A,
    pub far_port: [u8; 2],
    pub near_port: [u8; 2],
}

#[inline(always)]
pub fn exists_v4(ctx: *mut c_void, protocol: u8, pair: &Pair<u32>) -> bool {
    let ends = EndsV4 {
        saddr: pair.far,
        daddr: pair.near,
        sport: u16::from_ne_bytes(pair.far_port),
        dport: u16::from_ne_bytes(pair.near_port),
    };
    let mut tuple = bpf_sock_tuple { __bindgen_anon_1: Ends { ipv4: ends } };
    exists(ctx, protocol, &mut tuple, size_of::<EndsV4>())
}

#[inline(always)]
pub fn exists_v6(ctx: *mut c_void, protocol: u8, pair: &Pair<Words>) -> bool {
    let ends = EndsV6 {
        saddr: pair.far,
        daddr: pair.near,
        sport: u16::from_ne_bytes(pair.far_port),
        dport: u16::from_ne_bytes(pair.near_port),
    };
    let mut tuple = bpf_sock_tuple { __bindgen_anon_1: Ends { ipv6: ends } };
    exists(ctx, protocol, &mut tuple, size_of::<EndsV6>())
}

#[inline(always)]
fn exists(ctx: *mut c_void, protocol: u8, tuple: &mut bpf_sock_tuple, size: usize) -> bool {
    // SAFETY: the context is the program's own, the tuple is whole, and what is found is released at once.
    unsafe {
        let socket = match protocol {
            TCP => bpf_skc_lookup_tcp(ctx, tuple, size as u32, HERE, 0),
            UDP => bpf_sk_lookup_udp(ctx, tuple, size as u32, HERE, 0),
            _ => return false,
        };
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket.cast());
    }
    true
}
