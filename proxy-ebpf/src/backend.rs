//! The table of backends, and the check that a reference still means the backend it was made for.

use aya_ebpf::{bindings::BPF_F_MMAPABLE, btf_maps::Array, macros::btf_map};
use proxy_ebpf::abi::{BackendRef, BackendV4, BackendV6, map};

use crate::{
    family::{Backend, Words, words},
    name_server,
};

// No BPF_F_RDONLY_PROG: the kernel then refuses to map the array writable.
const MAPPED: usize = BPF_F_MMAPABLE as usize;

#[btf_map]
static BACKENDS_V4: Array<BackendV4, { map::MAX_BACKENDS as usize }, MAPPED> = Array::new();
#[btf_map]
static BACKENDS_V6: Array<BackendV6, { map::MAX_BACKENDS as usize }, MAPPED> = Array::new();

macro_rules! lookup {
    ($name:ident, $table:ident, $address:ty, $words:expr) => {
        /// The backend that is meant, unless it has gone.
        #[inline(always)]
        pub fn $name(reference: BackendRef) -> Option<Backend<$address>> {
            let entry = $table.get_ptr(reference.index)?;
            // SAFETY: `entry` points into an array map, whose memory lives as long as the program. An entry is
            // rewritten only after its generation was raised and a grace period passed, so a reader that sees its
            // own generation reads a whole entry; volatile because user space raises it through its own mapping.
            let entry = unsafe { entry.read_volatile() };
            // Nobody tells of the end of this node's own name server: it is looked at. One branch for both questions.
            let is_other = entry.generation ^ reference.generation;
            ((is_other | name_server::is_gone(entry.flags)) == 0).then_some(Backend {
                address: $words(entry.address),
                port: entry.port,
                flags: entry.flags,
                service: entry.service,
            })
        }
    };
}

lookup!(v4, BACKENDS_V4, u32, u32::from_ne_bytes);
lookup!(v6, BACKENDS_V6, Words, words);

/// In one register, as programs return it from a function.
#[inline(always)]
pub fn packed(reference: BackendRef) -> u64 {
    u64::from(reference.generation) << 32 | u64::from(reference.index)
}

#[inline(always)]
pub fn unpacked(packed: u64) -> BackendRef {
    BackendRef { index: packed as u32, generation: (packed >> 32) as u32 }
}
