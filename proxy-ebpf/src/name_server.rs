//! Whether this node's own name server lives.
//!
//! A process leaves a socket in a map, from which the kernel takes it when the process ends, in whatever way. Clients' hooks
//! could not look for the sockets it listens at: they are in other network namespaces.

use core::ptr::from_ref;

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, SockMap},
    helpers::{bpf_sk_release, generated::bpf_map_lookup_elem},
    macros::btf_map,
};
use proxy_ebpf::abi::{BackendFlags, map};

use crate::clock;

#[btf_map]
static NAME_SERVER: SockMap<1> = SockMap::new();
#[btf_map]
static NAME_SERVER_BEAT: Array<u64, { map::NAME_SERVER_BEATS as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();

/// Not 0 if a backend is the name server, and that does not live.
#[inline(always)]
pub fn is_gone(flags: BackendFlags) -> u32 {
    name_server_is_gone(flags.0.into())
}

/// A function of its own, at which the verifier looks once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn name_server_is_gone(flags: u32) -> u32 {
    let is_name_server = BackendFlags(flags as u8).contains(BackendFlags::NAME_SERVER);
    (is_name_server && !(is_at_work() && is_there())).into()
}

/// A beat from the future is one of this instant: the clock of another CPU.
#[inline(always)]
fn is_at_work() -> bool {
    let Some(beat) = NAME_SERVER_BEAT.get_ptr(0) else { return false };
    // SAFETY: `beat` points into an array map, whose memory lives as long as the program; volatile because user space
    // stores to it through its own mapping.
    let beat = unsafe { beat.read_volatile() };
    clock::now() < beat.wrapping_add(map::NAME_SERVER_TIMEOUT)
}

#[inline(always)]
fn is_there() -> bool {
    let place: u32 = 0;
    // SAFETY: the map is a map, and what is found in it is released at once.
    unsafe {
        let socket = bpf_map_lookup_elem((&raw const NAME_SERVER).cast_mut().cast(), from_ref(&place).cast());
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket);
    }
    true
}
