//! The table of backends, and the check that a reference is not stale.

use aya_ebpf::{bindings::BPF_F_MMAPABLE, btf_maps::Array, macros::btf_map};
use proxy_ebpf::abi::{BackendFlags, BackendRef, BackendV4, BackendV6, map};

use super::name_server;
use crate::family::{Family, V4, V6, Words, words};

// No BPF_F_RDONLY_PROG: the kernel then refuses to map the array writable.
const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

#[btf_map]
static BACKENDS_V4: Array<BackendV4, { map::MAX_BACKENDS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static BACKENDS_V6: Array<BackendV6, { map::MAX_BACKENDS as usize }, MMAPABLE> = Array::new();

/// A backend that was alive when it was read.
#[derive(Clone, Copy)]
pub struct Backend<A> {
    pub address: A,
    pub port: [u8; 2],
    pub flags: BackendFlags,
    pub service: u32,
}

pub trait Backends: Family {
    /// The backend of a reference. Returns `None` if the reference is stale.
    fn backend(reference: BackendRef) -> Option<Backend<Self::Address>>;

    /// As `backend`, also of this node's name server when it is down: which `sock_ops` cannot ask.
    fn known(reference: BackendRef) -> Option<Backend<Self::Address>>;

    /// The service port of a backend. Returns `None` if the reference is stale.
    fn service(reference: BackendRef) -> Option<u32>;
}

macro_rules! backends {
    ($family:ty, $table:ident, $address:ty, $words:expr) => {
        impl Backends for $family {
            #[inline(always)]
            fn backend(reference: BackendRef) -> Option<Backend<$address>> {
                let entry = $table.get_ptr(reference.index)?;
                // SAFETY: `entry` points into an array map, whose memory lives as long as the program. An entry is
                // rewritten only after its generation was raised and a grace period passed, so a reader that sees its
                // reference's generation reads a consistent entry; volatile because user space raises it through its own mapping.
                let entry = unsafe { entry.read_volatile() };
                // The end of this node's name server changes no generation, so its heartbeat is checked here. One branch for both.
                let is_stale = entry.generation ^ reference.generation;
                ((is_stale | name_server::is_gone(entry.flags)) == 0).then_some(Backend {
                    address: $words(entry.address),
                    port: entry.port,
                    flags: entry.flags,
                    service: entry.service,
                })
            }

            #[inline(always)]
            fn known(reference: BackendRef) -> Option<Backend<$address>> {
                let entry = $table.get_ptr(reference.index)?;
                // SAFETY: as in `backend`.
                let entry = unsafe { entry.read_volatile() };
                (entry.generation == reference.generation).then_some(Backend {
                    address: $words(entry.address),
                    port: entry.port,
                    flags: entry.flags,
                    service: entry.service,
                })
            }

            #[inline(always)]
            fn service(reference: BackendRef) -> Option<u32> {
                let entry = $table.get_ptr(reference.index)?;
                // SAFETY: as in `backend`.
                let entry = unsafe { entry.read_volatile() };
                (entry.generation == reference.generation).then_some(entry.service)
            }
        }
    };
}

backends!(V4, BACKENDS_V4, u32, u32::from_ne_bytes);
backends!(V6, BACKENDS_V6, Words, words);
