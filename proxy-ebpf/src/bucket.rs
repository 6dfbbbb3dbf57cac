//! Insertion and removal of references in a bucket, without locks.
//!
//! The programs run it on the words of a map, the tests on those of a model that explores all interleavings. Invariants:
//!
//! - At most one confirmed reference of live flows has a given tuple. An insertion first publishes a tentative reference, then looks
//!   for others with its tuple. Of two insertions at least one sees the other. The one at the lower position cancels the other, by
//!   compare-and-swap, as the other confirms; so one of these two fails.
//! - A reference is replaced only if it is stale, which it remains: the record's tag has changed.

use crate::abi::FlowRef;

/// The words of a bucket.
pub trait BucketWords: Copy {
    /// A power of two.
    const COUNT: u32;

    fn load(&self, at: u32) -> FlowRef;

    /// Stores `new` if the word is `old`. Returns the previous value. Ordered before and after all other accesses.
    fn compare_exchange(&self, at: u32, old: FlowRef, new: FlowRef) -> FlowRef;
}

/// The relation of a reference to the tuple that is inserted.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Of a flow that no longer exists.
    Stale,
    /// Of a flow with another tuple.
    Other,
    /// Of a flow with this tuple.
    Same,
    /// Of a flow with this tuple, which is being deleted.
    Dying,
}

impl Relation {
    /// The relation of a number.
    #[inline(always)]
    pub const fn of(number: u32) -> Self {
        match number {
            0 => Self::Stale,
            1 => Self::Other,
            2 => Self::Same,
            _ => Self::Dying,
        }
    }
}

/// The result of an insertion: a constant, or below 2^32 the slot of a flow that has the tuple. Not an enum, as it is returned in
/// one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inserted(pub u64);

impl Inserted {
    pub const NEW: Self = Self(1 << 32);
    /// A flow that is being deleted has the tuple.
    pub const DYING: Self = Self(2 << 32);
    /// Cancelled by another insertion of the tuple, whose flow is gone already.
    pub const CANCELLED: Self = Self(3 << 32);
    /// Both lines of the bucket are full of live references.
    pub const FULL: Self = Self(4 << 32);

    /// The slot of the flow that has the tuple.
    #[inline(always)]
    pub const fn duplicate(self) -> Option<u32> {
        if self.0 >> 32 == 0 { Some(self.0 as u32) } else { None }
    }
}

/// Inserts a reference at the first free position from `first` on, circularly. `relation` tells a word's relation to its tuple.
///
/// The position is not remembered, but found again by the reference, which no other insertion has: the verifier would follow the
/// rest once for each position.
#[inline(always)]
pub fn insert<W: BucketWords>(
    words: W,
    first: u32,
    reference: FlowRef,
    relation: impl Fn(FlowRef) -> Relation + Copy,
) -> Inserted {
    let tentative = reference.tentative();
    if !claim(words, first, tentative) && !claim_stale(words, first, tentative, relation) {
        return Inserted::FULL;
    }
    let found = settle(words, tentative, relation);
    if found != Inserted::NEW {
        // It may have been cancelled meanwhile.
        let _ = replace(words, tentative, FlowRef::NONE);
        return found;
    }
    if replace(words, tentative, reference) { Inserted::NEW } else { holder(words, reference, relation) }
}

/// Stores a reference at the first free position. Returns `false` if there is none. The functions of one loop are not inlined: the
/// compiler would keep the addresses of all positions on the stack.
#[inline(never)]
fn claim<W: BucketWords>(words: W, first: u32, new: FlowRef) -> bool {
    let mut step = 0;
    while step < W::COUNT {
        let at = (first + step) % W::COUNT;
        if words.load(at).is_none() && words.compare_exchange(at, FlowRef::NONE, new).is_none() {
            return true;
        }
        step += 1;
    }
    false
}

/// Stores a reference in place of a stale one. Returns `false` if there is none.
#[inline(never)]
fn claim_stale<W: BucketWords>(
    words: W,
    first: u32,
    new: FlowRef,
    relation: impl Fn(FlowRef) -> Relation,
) -> bool {
    let mut step = 0;
    while step < W::COUNT {
        let at = (first + step) % W::COUNT;
        let old = words.load(at);
        if relation(old) == Relation::Stale && words.compare_exchange(at, old, new) == old {
            return true;
        }
        step += 1;
    }
    false
}

/// Replaces a word wherever it is. Returns `false` if it is gone.
#[inline(never)]
fn replace<W: BucketWords>(words: W, old: FlowRef, new: FlowRef) -> bool {
    let mut at = 0;
    while at < W::COUNT {
        if words.load(at) == old && words.compare_exchange(at, old, new) == old {
            return true;
        }
        at += 1;
    }
    false
}

/// Compares a tentative reference with all others: `NEW` if it may be confirmed, or else the result of its insertion.
#[inline(never)]
fn settle<W: BucketWords>(words: W, tentative: FlowRef, relation: impl Fn(FlowRef) -> Relation) -> Inserted {
    let (mut at, mut is_behind) = (0, false);
    while at < W::COUNT {
        let other = words.load(at);
        if other == tentative {
            is_behind = true;
        } else if !other.is_none() && other.has_fingerprint_of(tentative) {
            let found = settle_with(words, at, other, is_behind, relation(other));
            if found != Inserted::NEW {
                return found;
            }
        }
        at += 1;
    }
    Inserted::NEW
}

#[inline(always)]
fn settle_with<W: BucketWords>(
    words: W,
    at: u32,
    other: FlowRef,
    is_behind: bool,
    relation: Relation,
) -> Inserted {
    match relation {
        Relation::Stale | Relation::Other => return Inserted::NEW,
        // The flow gave way to another one, perhaps to this one.
        Relation::Dying if other.is_tentative() => return Inserted::NEW,
        Relation::Dying => return Inserted::DYING,
        Relation::Same => {}
    }
    if other.is_tentative() && is_behind {
        let found = words.compare_exchange(at, other, FlowRef::NONE);
        if found != other.confirmed() {
            return Inserted::NEW;
        }
    }
    Inserted(other.slot() as u64)
}

/// The flow that has the tuple of a cancelled reference.
#[inline(never)]
fn holder<W: BucketWords>(words: W, reference: FlowRef, relation: impl Fn(FlowRef) -> Relation) -> Inserted {
    let mut at = 0;
    while at < W::COUNT {
        let other = words.load(at);
        if !other.is_none() && other.has_fingerprint_of(reference) && relation(other) == Relation::Same {
            return Inserted(other.slot() as u64);
        }
        at += 1;
    }
    Inserted::CANCELLED
}

/// Removes a reference, confirmed or tentative.
#[inline(never)]
pub fn remove<W: BucketWords>(words: W, reference: FlowRef) {
    let mut at = 0;
    while at < W::COUNT {
        let found = words.load(at);
        if found.confirmed() == reference {
            // If it was replaced or cancelled meanwhile, it is gone all the same.
            let _ = words.compare_exchange(at, found, FlowRef::NONE);
        }
        at += 1;
    }
}
