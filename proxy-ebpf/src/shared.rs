//! Entries of arrays that programs on all CPUs write. Each begins with its version: 0 if it was never written, odd while a CPU writes
//! it.
//!
//! A table of such entries is divided into shares by the source of the entries, so that no source evicts those of all others, as it
//! would in an LRU hash. Entries are replaced, never removed.

use crate::{atomic, family::Words};

/// Writes an entry, unless another CPU is writing it. Its first field is its version.
#[inline(always)]
pub fn write<T>(entry: *mut T, write: impl FnOnce(&mut T)) {
    let (word, before) = (entry.cast::<u64>(), version(entry));
    if before & 1 != 0 || atomic::compare_exchange(word, before, before | 1) != before {
        return;
    }
    // SAFETY: this CPU owns the entry while its version is odd. Readers discard their copies when the version has changed.
    write(unsafe { &mut *entry });
    // Atomic, so that the stores come before it.
    atomic::compare_exchange(word, before | 1, before.wrapping_add(2));
}

/// Reads from an entry. Returns `None` if it was never written, or is being written. Its first field is its version.
#[inline(always)]
pub fn read<T, R>(entry: *mut T, read: impl FnOnce(&T) -> Option<R>) -> Option<R> {
    let before = version(entry);
    if before == 0 || before & 1 != 0 {
        return None;
    }
    // SAFETY: every pattern of the entry's plain values is valid; a torn read is discarded below.
    let value = read(unsafe { &*entry });
    if version(entry) == before { value } else { None }
}

/// The version of an entry, which counts how often it was written.
#[inline(always)]
pub fn version<T>(entry: *mut T) -> u64 {
    // SAFETY: an aligned word of an array map, which lives as long as the program.
    unsafe { entry.cast::<u64>().read_volatile() }
}

/// A hash of an address, for the choice of a place. It need not resist collisions: they cost the colliding sources their places, which
/// they share anyway.
#[inline(always)]
pub fn hash([a, b, c, d]: Words) -> u32 {
    let folded = (a.rotate_left(7) ^ b).rotate_left(7) ^ c.rotate_left(7) ^ d;
    // The finaliser of MurmurHash3: each bit of the address has a part in each of the hash.
    let mixed = (folded ^ folded >> 16).wrapping_mul(0x85eb_ca6b);
    let mixed = (mixed ^ mixed >> 13).wrapping_mul(0xc2b2_ae35);
    mixed ^ mixed >> 16
}
