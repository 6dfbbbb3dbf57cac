//! ClientIP affinity: the backend a client had last, while it may still have it.
//!
//! Functions with keys and entries are not inlined, so that these are not on the stack of those who need no affinity.

use aya_ebpf::{btf_maps::LruHashMap, macros::btf_map};
use proxy_ebpf::abi::{AffinityEntry, AffinityKey, BackendFlags, BackendRef, Descriptor, map};

use crate::{clock::now, decide::Client, family::Family};

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
    let Some(entry) = F::affinity(&key) else { return BackendRef::default() };
    let age = now().wrapping_sub(entry.last_used);
    if age > u64::from(descriptor.affinity_seconds) * NANOSECONDS {
        return BackendRef::default();
    }
    // The service also unmasks an element that was recycled for another client under us; for a client of the same
    // service port the worst is one flow that follows that client's choice, which the scope permits.
    let is_offered = F::backend(entry.backend)
        .is_some_and(|backend| backend.service == descriptor.service && backend.flags.contains(offered));
    if !is_offered {
        return BackendRef::default();
    }
    F::set_affinity(&key, &AffinityEntry { backend: entry.backend, last_used: now() });
    entry.backend
}

/// Remembers a choice from now on.
#[inline(never)]
pub fn remember<F: Family, C: Client<F>>(client: &C, service: u32, backend: BackendRef) {
    let key = client.affinity_key(service);
    F::set_affinity(&key, &AffinityEntry { backend, last_used: now() });
}

macro_rules! table {
    ($name:ident, $table:ident) => {
        pub mod $name {
            use super::{AffinityEntry, AffinityKey};

            #[inline(always)]
            pub fn get(key: &AffinityKey) -> Option<AffinityEntry> {
                // SAFETY: copied at once. The element may be recycled under us, which `remembered` allows for.
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

table!(v4, AFFINITY_V4);
table!(v6, AFFINITY_V6);
