//! Liveness of this node's name server: by a socket, and by a heartbeat.
//!
//! The process stores one of its sockets in a SOCKMAP, and the kernel removes it when the process ends, also by SIGKILL. Hooks
//! cannot look up its listening sockets, as they run in the netns of the client.

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

/// Not 0 if the backend is this node's name server and that is down.
#[inline(always)]
pub fn is_gone(flags: BackendFlags) -> u32 {
    name_server_is_gone(flags.0.into())
}

/// With external linkage: verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn name_server_is_gone(flags: u32) -> u32 {
    let is_name_server = BackendFlags(flags as u8).contains(BackendFlags::NAME_SERVER);
    (is_name_server && !(has_heartbeat() && has_socket())).into()
}

/// The hung process keeps its socket, so the heartbeat has to be current as well. A heartbeat in the future is the clock of
/// another CPU.
#[inline(always)]
fn has_heartbeat() -> bool {
    let Some(beat) = NAME_SERVER_BEAT.get_ptr(0) else { return false };
    // SAFETY: `beat` points into an array map, whose memory lives as long as the program; volatile because user space
    // stores to it through its own mapping.
    let beat = unsafe { beat.read_volatile() };
    clock::now() < beat.wrapping_add(map::NAME_SERVER_TIMEOUT)
}

#[inline(always)]
fn has_socket() -> bool {
    let index: u32 = 0;
    // SAFETY: the first argument is a map, and a socket that is found is released at once.
    unsafe {
        let socket = bpf_map_lookup_elem((&raw const NAME_SERVER).cast_mut().cast(), from_ref(&index).cast());
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket);
    }
    true
}
