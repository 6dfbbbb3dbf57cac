//! ClientIP affinity: the backend a client had last, while it may still have it.
//!
//! Functions with keys and entries are not inlined, so that these are not on the stack of those who need no affinity.

use aya_ebpf::{btf_maps::LruHashMap, macros::btf_map};
use proxy_ebpf::abi::{AffinityEntry, AffinityKey, BackendFlags, BackendRef, Descriptor, map};

use crate::{
    backend::{packed, unpacked},
    clock::now,
    decide::Client,
    family::{Family, V4, V6},
};

#[btf_map]
static AFFINITY_V4: LruHashMap<AffinityKey, AffinityEntry, { map::MAX_AFFINITY as usize }> =
    LruHashMap::new();
#[btf_map]
static AFFINITY_V6: LruHashMap<AffinityKey, AffinityEntry, { map::MAX_AFFINITY as usize }> =
    LruHashMap::new();

const NANOSECONDS: u64 = 1_000_000_000;

/// The remembered choice, if it has not expired and `offered`, the set of the client's scope, holds it still; else
/// generation 0. Using it restarts its time.
#[inline(never)]
pub fn remembered<F: Family, C: Client<F>>(
    client: &C,
    descriptor: &Descriptor,
    offered: BackendFlags,
) -> BackendRef {
    let key = client.affinity_key(descriptor.service);
    unpacked(F::remembered(&key, descriptor.affinity_seconds, offered))
}

/// Remembers a choice from now on.
#[inline(never)]
pub fn remember<F: Family, C: Client<F>>(client: &C, service: u32, backend: BackendRef) {
    let key = client.affinity_key(service);
    F::set_affinity(&key, &AffinityEntry { backend, last_used: now() });
}

#[inline(always)]
fn used<F: Family>(key: &AffinityKey, seconds: u32, offered: BackendFlags) -> Option<BackendRef> {
    let entry = F::affinity(key)?;
    let age = now().wrapping_sub(entry.last_used);
    if age > u64::from(seconds) * NANOSECONDS {
        return None;
    }
    // The service also unmasks an element that was recycled for another client under us; for a client of the same
    // service port the worst is one flow that follows that client's choice, which the scope permits.
    let backend = F::backend(entry.backend)?;
    if backend.service != key.service || !backend.flags.contains(offered) {
        return None;
    }
    F::set_affinity(key, &AffinityEntry { backend: entry.backend, last_used: now() });
    Some(entry.backend)
}

macro_rules! table {
    ($name:ident, $table:ident, $family:ident, $used:ident) => {
        /// With external linkage: the verifier looks at it once, however many ways lead to it, and takes what it returns
        /// for any number. Generation 0 is none.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $used(key: *const AffinityKey, seconds: u32, offered: u32) -> u64 {
            // SAFETY: a key of the caller's, which the verifier makes sure of; it wants to see the question.
            let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
            // A copy: Linux 6.1 takes keys from this function's own stack, and not from where its arguments lead.
            let key = *key;
            used::<$family>(&key, seconds, BackendFlags(offered as u8)).map_or(0, packed)
        }

        pub mod $name {
            use super::{AffinityEntry, AffinityKey, BackendFlags};

            #[inline(always)]
            pub fn remembered(key: &AffinityKey, seconds: u32, offered: BackendFlags) -> u64 {
                super::$used(key, seconds, offered.0.into())
            }

            #[inline(always)]
            pub fn get(key: &AffinityKey) -> Option<AffinityEntry> {
                // SAFETY: copied at once. The element may be recycled under us, which `used` allows for.
                unsafe { super::$table.get(key).copied() }
            }

            #[inline(always)]
            pub fn set(key: &AffinityKey, entry: &AffinityEntry) {
                // An LRU table refuses only when its memory is in use on other CPUs: the flow goes on, unremembered.
                let _ = super::$table.insert(key, entry, 0);
            }
        }
    };
}

table!(v4, AFFINITY_V4, V4, affinity_used_v4);
table!(v6, AFFINITY_V6, V6, affinity_used_v6);
