//! ClientIP affinity: the backend a client had last, while it may still have it.

use aya_ebpf::{btf_maps::LruHashMap, helpers::bpf_ktime_get_ns, macros::btf_map};
use proxy_ebpf::abi::{AffinityEntry, AffinityKey, BackendRef, Descriptor, map};

use crate::{
    decide::{Choice, Scope},
    family::Family,
};

#[btf_map]
static AFFINITY_V4: LruHashMap<AffinityKey, AffinityEntry, { map::MAX_AFFINITY as usize }> =
    LruHashMap::new();
#[btf_map]
static AFFINITY_V6: LruHashMap<AffinityKey, AffinityEntry, { map::MAX_AFFINITY as usize }> =
    LruHashMap::new();

const NANOSECONDS: u64 = 1_000_000_000;

/// The remembered choice, if it has not expired and the scope offers it still. Using it restarts its time.
#[inline(always)]
pub fn remembered<F: Family>(
    key: &AffinityKey,
    descriptor: &Descriptor,
    scope: Scope,
) -> Option<Choice<F::Address>> {
    let entry = F::affinity(key)?;
    let age = now().wrapping_sub(entry.last_used);
    if age > u64::from(descriptor.affinity_seconds) * NANOSECONDS {
        return None;
    }
    let backend = F::backend(entry.backend)?;
    // The service also unmasks an element that was recycled for another client under us; for a client of the same
    // service port the worst is one flow that follows that client's choice, which the scope permits.
    let is_offered = backend.service == descriptor.service && backend.flags.contains(scope.set(descriptor));
    if !is_offered {
        return None;
    }
    remember::<F>(key, entry.backend);
    Some(Choice { backend, reference: entry.backend })
}

/// Remembers a choice from now on.
#[inline(always)]
pub fn remember<F: Family>(key: &AffinityKey, backend: BackendRef) {
    F::set_affinity(key, &AffinityEntry { backend, last_used: now() });
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: takes no argument and has no precondition.
    unsafe { bpf_ktime_get_ns() }
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
