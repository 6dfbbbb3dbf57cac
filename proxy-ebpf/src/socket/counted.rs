//! What was counted of a socket, in socket-local storage, so that each connection is counted as open and as closed once: also if the
//! program was attached or replaced while it was open.

use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE, btf_maps::SkStorage, helpers::generated::bpf_sk_storage_get,
    macros::btf_map,
};
use proxy_ebpf::abi::{CountedSocket, SocketStage};

use super::operation::LockedSocket;

#[btf_map]
static COUNTED_SOCKETS: SkStorage<CountedSocket> = SkStorage::new();

/// The state of a socket, if there is one.
#[inline(always)]
pub fn get(socket: LockedSocket) -> Option<&'static mut CountedSocket> {
    storage(socket, core::ptr::null_mut(), 0)
}

/// Begins to count a socket. Returns `false` without memory: the connection is not counted at all.
#[inline(always)]
pub fn begin(socket: LockedSocket, mut counted: CountedSocket) -> bool {
    match storage(socket, &raw mut counted, BPF_SK_STORAGE_GET_F_CREATE.into()) {
        Some(stored) => {
            *stored = counted;
            true
        }
        None => false,
    }
}

/// Ends it: the socket connects to something else than a frontend.
#[inline(always)]
pub fn forget(socket: LockedSocket) {
    if let Some(counted) = get(socket) {
        counted.stage = SocketStage::NONE;
    }
}

#[inline(always)]
fn storage(
    socket: LockedSocket,
    initial: *mut CountedSocket,
    flags: u64,
) -> Option<&'static mut CountedSocket> {
    // SAFETY: the storage lives as long as the socket, which the kernel has locked: no other program writes it. `initial` is null or
    // points to a value on the stack.
    unsafe {
        let map = (&raw const COUNTED_SOCKETS).cast_mut().cast();
        bpf_sk_storage_get(map, socket.pointer().cast(), initial.cast(), flags)
            .cast::<CountedSocket>()
            .as_mut()
    }
}
