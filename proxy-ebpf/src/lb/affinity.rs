//! ClientIP affinity: the last backend of a client, while it is eligible.
//!
//! A first packet's source address may be forged, so what it chooses is kept apart, in `NEW_AFFINITY_*`, until the client has
//! answered: a flood of forged addresses evicts no entry of a client that ever had an assured flow.
//!
//! Functions with keys and entries are not inlined, to keep them off the stack of flows without affinity.

use aya_ebpf::{btf_maps::LruHashMap, macros::btf_map};
use proxy_ebpf::abi::{AffinityEntry, AffinityKey, BackendFlags, BackendRef, Descriptor, map};

use super::{Access as _, Backends, Client, health};
use crate::{
    clock::now,
    family::{V4, V6, bytes},
};

#[btf_map]
static AFFINITY_V4: LruHashMap<AffinityKey, AffinityEntry, { map::MAX_AFFINITY as usize }> =
    LruHashMap::new();
#[btf_map]
static AFFINITY_V6: LruHashMap<AffinityKey, AffinityEntry, { map::MAX_AFFINITY as usize }> =
    LruHashMap::new();

#[btf_map]
static NEW_AFFINITY_V4: LruHashMap<AffinityKey, AffinityEntry, { map::MAX_NEW_AFFINITY as usize }> =
    LruHashMap::new();
#[btf_map]
static NEW_AFFINITY_V6: LruHashMap<AffinityKey, AffinityEntry, { map::MAX_NEW_AFFINITY as usize }> =
    LruHashMap::new();

const NANOSECONDS: u64 = 1_000_000_000;

pub trait AffinityTable: Backends {
    fn entry(key: &AffinityKey, is_proven: bool) -> Option<AffinityEntry>;

    fn store(key: &AffinityKey, entry: &AffinityEntry, is_proven: bool);

    /// The bits of the backend reference of a valid entry, whose timeout restarts; 0 if none. See `used_entry`.
    fn lookup(key: &AffinityKey, seconds: u32, set: BackendFlags) -> u64;

    /// As `lookup`, without a restart.
    fn find(key: &AffinityKey, seconds: u32, set: BackendFlags) -> u64;
}

/// The stored backend, if its timeout has not expired, it is not left out, and it is in `set`, the endpoint set of the client's scope; else generation
/// 0. What a hit changes is up to the client's access.
#[inline(never)]
pub fn lookup<F: AffinityTable, C: Client<F>>(
    client: &C,
    descriptor: &Descriptor,
    set: BackendFlags,
) -> BackendRef {
    let key = client.affinity_key(descriptor.service);
    let seconds = descriptor.affinity_seconds;
    let found = if C::Access::WRITES { F::lookup(&key, seconds, set) } else { F::find(&key, seconds, set) };
    BackendRef::from_bits(found)
}

/// Stores a choice.
#[inline(never)]
pub fn store<F: AffinityTable, C: Client<F>>(client: &C, service: u32, backend: BackendRef) {
    let key = client.affinity_key(service);
    F::store(&key, &AffinityEntry { backend, last_used: now() }, client.is_proven());
}

/// Stores the choice of a client that has shown that its address is its own. Inlined: its caller is the last but one frame of
/// the deepest call chain, and two frames are rounded up to more than one.
#[inline(always)]
pub fn keep<F: AffinityTable>(address: F::Address, service: u32, backend: BackendRef) {
    let key = AffinityKey::new(bytes(F::mapped(address)), service);
    F::store(&key, &AffinityEntry { backend, last_used: now() }, true);
}

#[inline(always)]
fn valid_entry<F: AffinityTable>(
    key: &AffinityKey,
    seconds: u32,
    set: BackendFlags,
    is_proven: bool,
) -> Option<BackendRef> {
    let entry = F::entry(key, is_proven)?;
    let age = now().wrapping_sub(entry.last_used);
    if age > u64::from(seconds) * NANOSECONDS {
        return None;
    }
    // The check of the service also detects an element that was recycled for another client meanwhile. For a client of the
    // same service port the worst outcome is one flow to that client's backend, which the scope permits.
    let backend = F::backend(entry.backend)?;
    (backend.service == key.service && backend.flags.contains(set)).then_some(entry.backend)
}

/// A valid entry, whose timeout restarts.
#[inline(always)]
fn used_entry<F: AffinityTable>(
    key: &AffinityKey,
    seconds: u32,
    set: BackendFlags,
    is_proven: bool,
) -> Option<BackendRef> {
    let backend = valid_entry::<F>(key, seconds, set, is_proven)?;
    F::store(key, &AffinityEntry { backend, last_used: now() }, is_proven);
    Some(backend)
}

macro_rules! table {
    ($family:ident, $table:ident, $new:ident, $used:ident, $found:ident) => {
        table!(@entry $family, $used, used_entry, true);
        table!(@entry $family, $found, valid_entry, false);

        impl AffinityTable for $family {
            #[inline(always)]
            fn lookup(key: &AffinityKey, seconds: u32, set: BackendFlags) -> u64 {
                $used(key, seconds, set.0.into())
            }

            #[inline(always)]
            fn find(key: &AffinityKey, seconds: u32, set: BackendFlags) -> u64 {
                $found(key, seconds, set.0.into())
            }

            #[inline(always)]
            fn entry(key: &AffinityKey, is_proven: bool) -> Option<AffinityEntry> {
                // SAFETY: copied at once. The element may be recycled meanwhile, which `valid_entry` detects.
                unsafe { if is_proven { $table.get(key).copied() } else { $new.get(key).copied() } }
            }

            #[inline(always)]
            fn store(key: &AffinityKey, entry: &AffinityEntry, is_proven: bool) {
                // An LRU table refuses only when its free lists are in use on other CPUs: the flow continues without affinity.
                let _ = if is_proven { $table.insert(key, entry, 0) } else { $new.insert(key, entry, 0) };
            }
        }
    };
    (@entry $family:ident, $name:ident, $entry:ident, $writes:expr) => {
        /// With external linkage: verified once, not for each call, with an unknown result. 0 is none.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $name(key: *const AffinityKey, seconds: u32, set: u32) -> u64 {
            // SAFETY: a key on the caller's stack, as the verifier checks; it requires the null check.
            let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
            // A copy: Linux 6.1 accepts map keys from this function's own stack only, not through a pointer argument.
            let key = *key;
            let set = BackendFlags(set as u8);
            $entry::<$family>(&key, seconds, set, true)
                .or_else(|| $entry::<$family>(&key, seconds, set, false))
                .filter(|backend| !health::leaves_out::<$family>(*backend, $writes))
                .map_or(0, BackendRef::to_bits)
        }
    };
}

table!(V4, AFFINITY_V4, NEW_AFFINITY_V4, affinity_used_v4, affinity_found_v4);
table!(V6, AFFINITY_V6, NEW_AFFINITY_V6, affinity_used_v6, affinity_found_v6);
