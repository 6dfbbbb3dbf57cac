//! The index of flows by tuple: buckets of references to flow records, found by a keyed hash.

use super::{Direction, Tuple, TupleKind, TupleV4, TupleV6, map_type};

/// References of a bucket: two cache lines. A tuple's reference is in the line that its hash prefers, or, if that was full, in the
/// other one, and nowhere else.
pub const BUCKET: usize = 16;

/// References in a cache line.
pub const LINE: u32 = 8;

/// Flows for each bucket. A flow has two references, or four if it is masqueraded: in a full table of such flows one reference in a
/// million finds no room; with half as many buckets it would be one in 250.
pub const FLOWS_PER_BUCKET: u32 = 1;

/// Value of `CONNTRACK_V4` and `CONNTRACK_V6`.
pub type Bucket = [FlowRef; BUCKET];

/// A reference from a tuple to a flow record, 0 for none:
/// `fingerprint of the tuple (12 bits) | 1 | tentative (1) | TupleKind (2) | tag of the record's FlowState (24) | slot (24)`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowRef(pub u64);
map_type!(FlowRef, 8);
const _: () = assert!(size_of::<Bucket>() == 2 * 64);

impl FlowRef {
    pub const NONE: Self = Self(0);
    /// Flow records of a family, at most.
    pub const MAX_SLOTS: u32 = 1 << 24;

    const SLOT_MASK: u64 = (1 << 24) - 1;
    const TAG_SHIFT: u32 = 24;
    const KIND_SHIFT: u32 = 48;
    const TENTATIVE: u64 = 1 << 50;
    const PRESENT: u64 = 1 << 51;
    const FINGERPRINT_SHIFT: u32 = 52;
    const KEY_SHIFT: u32 = 50;

    /// Not tentative.
    #[inline(always)]
    pub const fn new(slot: u32, tag: u32, kind: TupleKind, hash: TupleHash) -> Self {
        Self(
            (hash.fingerprint() as u64) << Self::FINGERPRINT_SHIFT
                | Self::PRESENT
                | (kind as u64) << Self::KIND_SHIFT
                | (tag as u64 & Self::SLOT_MASK) << Self::TAG_SHIFT
                | slot as u64 & Self::SLOT_MASK,
        )
    }

    #[inline(always)]
    pub const fn slot(self) -> u32 {
        (self.0 & Self::SLOT_MASK) as u32
    }

    #[inline(always)]
    pub const fn tag(self) -> u32 {
        (self.0 >> Self::TAG_SHIFT & Self::SLOT_MASK) as u32
    }

    #[inline(always)]
    pub const fn kind(self) -> TupleKind {
        TupleKind::of((self.0 >> Self::KIND_SHIFT) as u32)
    }

    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The reference while its insertion may still be undone. Lookups do not see it.
    #[inline(always)]
    pub const fn tentative(self) -> Self {
        Self(self.0 | Self::TENTATIVE)
    }

    #[inline(always)]
    pub const fn is_tentative(self) -> bool {
        self.0 & Self::TENTATIVE != 0
    }

    #[inline(always)]
    pub const fn confirmed(self) -> Self {
        Self(self.0 & !Self::TENTATIVE)
    }

    /// Whether the tuples of both may be the same.
    #[inline(always)]
    pub const fn has_fingerprint_of(self, other: Self) -> bool {
        (self.0 ^ other.0) >> Self::FINGERPRINT_SHIFT == 0
    }

    /// 1 if this is a confirmed reference from a tuple with the fingerprint, else 0. Without a branch.
    #[inline(always)]
    pub const fn is_confirmed_for(self, hash: TupleHash) -> u64 {
        let want = (hash.fingerprint() as u64) << 2 | 0b10;
        // At most 14 bits, so only a difference of 0 borrows.
        ((self.0 >> Self::KEY_SHIFT) ^ want).wrapping_sub(1) >> 63
    }
}

/// The keyed hash of a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TupleHash(pub u32);

impl TupleHash {
    /// The bucket among a number of them, by the upper bits.
    #[inline(always)]
    pub const fn bucket(self, buckets: u32) -> u32 {
        ((self.0 as u64 * buckets as u64) >> 32) as u32
    }

    /// The preferred line of the bucket, 0 or 1.
    #[inline(always)]
    pub const fn line(self) -> u32 {
        self.0 >> 12 & 1
    }

    #[inline(always)]
    pub const fn fingerprint(self) -> u32 {
        self.0 & 0xfff
    }
}

/// Value of `HASH_KEYS`: the keys of the hash, random per node, so that nobody can choose tuples of one bucket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashKeys {
    /// One more than the 32-bit words of a `TupleV6`. All zero: not chosen yet.
    pub keys: [u64; 11],
}
map_type!(HashKeys, 11 * 8);

/// Multilinear hashing: the upper half of a sum of products with random 64-bit keys is strongly universal over 32-bit words
/// (Lemire and Kaser, "Strongly universal string hashing is fast", 2014), and remains so when its bits are mixed. `key` returns a
/// key by its position.
#[inline(always)]
fn multilinear<const WORDS: usize>(words: [u32; WORDS], key: impl Fn(usize) -> u64) -> TupleHash {
    let (mut sum, mut at) = (key(0), 0);
    while at < WORDS {
        sum = sum.wrapping_add(key(at + 1).wrapping_mul(words[at] as u64));
        at += 1;
    }
    TupleHash(mixed((sum >> 32) as u32))
}

/// A bijection that depends on all bits. The sum is linear: with some keys it maps the ports that a client takes one after the other
/// to few buckets.
#[inline(always)]
const fn mixed(mut sum: u32) -> u32 {
    // Odd, and without a pattern of bits: the golden ratio and the square root of 3, less their integer parts, by 2^32.
    const FACTORS: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
    sum ^= sum >> 16;
    sum = sum.wrapping_mul(FACTORS[0]);
    sum ^= sum >> 15;
    sum = sum.wrapping_mul(FACTORS[1]);
    sum ^ sum >> 16
}

/// The hash of a tuple by its parts; `ends` as `Tuple::ends`.
#[inline(always)]
pub fn hash_v4(source: u32, destination: u32, ends: u64, key: impl Fn(usize) -> u64) -> TupleHash {
    multilinear([source, destination, (ends >> 32) as u32, ends as u32], key)
}

#[inline(always)]
pub fn hash_v6(source: [u32; 4], destination: [u32; 4], ends: u64, key: impl Fn(usize) -> u64) -> TupleHash {
    let ([a, b, c, d], [e, f, g, h]) = (source, destination);
    multilinear([a, b, c, d, e, f, g, h, (ends >> 32) as u32, ends as u32], key)
}

impl TupleV4 {
    pub fn hash(&self, keys: &HashKeys) -> TupleHash {
        let word = u32::from_ne_bytes;
        hash_v4(word(self.source), word(self.destination), self.ends(), |at| keys.keys[at])
    }
}

impl TupleV6 {
    pub fn hash(&self, keys: &HashKeys) -> TupleHash {
        let words = |bytes: [u8; 16]| {
            let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
            [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
        };
        hash_v6(words(self.source), words(self.destination), self.ends(), |at| keys.keys[at])
    }
}

impl<A: Copy> Tuple<A> {
    /// Ports, protocol and direction in one word.
    #[inline(always)]
    pub const fn ends(&self) -> u64 {
        let (from, to) = (self.source_port, self.destination_port);
        ends(from, to, self.protocol, self.direction)
    }

    /// `ends` of a tuple with these parts.
    #[inline(always)]
    pub const fn ends_of(from: [u8; 2], to: [u8; 2], protocol: u8, direction: Direction) -> u64 {
        ends(from, to, protocol, direction as u8)
    }
}

#[inline(always)]
const fn ends([a, b]: [u8; 2], [c, d]: [u8; 2], protocol: u8, direction: u8) -> u64 {
    (u32::from_ne_bytes([a, b, c, d]) as u64) << 32 | (direction as u64) << 8 | protocol as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_keep_their_parts_apart() {
        for (slot, kind, tag, hash) in [
            (0, TupleKind::Original, 0, 0),
            (7, TupleKind::OriginalAfterDnat, 0xff_ffff, u32::MAX),
            (0xff_ffff, TupleKind::Reply, 1, 0x1234_5678),
            (1, TupleKind::ReplyAfterReverseSnat, 0xff_ffff, 0xfff),
        ] {
            let reference = FlowRef::new(slot, tag, kind, TupleHash(hash));
            assert_eq!((reference.slot(), reference.tag(), reference.kind()), (slot, tag, kind));
            assert!(!reference.is_none() && !reference.is_tentative());
            assert_eq!(reference.tentative().confirmed(), reference);
            assert!(reference.has_fingerprint_of(reference.tentative()));
            assert_eq!(reference.is_confirmed_for(TupleHash(hash)), 1);
            assert_eq!(reference.tentative().is_confirmed_for(TupleHash(hash)), 0);
            assert_eq!(reference.is_confirmed_for(TupleHash(hash ^ 1)), 0);
        }
        let spilling = FlowRef::new(u32::MAX, u32::MAX, TupleKind::Original, TupleHash(0));
        assert_eq!(
            (spilling.kind(), spilling.is_tentative()),
            (TupleKind::Original, false),
            "no part spills"
        );
        assert_eq!(FlowRef::NONE.is_confirmed_for(TupleHash(0)), 0);
    }

    /// Random keys, from a linear congruential generator.
    fn next_keys(seed: &mut u64) -> HashKeys {
        let keys = core::array::from_fn(|_| {
            let mut word = || {
                *seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                *seed >> 32
            };
            word() << 32 | word()
        });
        HashKeys { keys }
    }

    /// Ports and addresses that follow one another, in both orders of bytes.
    #[test]
    fn buckets_are_filled_evenly_with_any_keys() {
        const BUCKETS: u32 = 1 << 10;
        let tuple = TupleV4 {
            source: [10, 0, 0, 7],
            destination: [10, 96, 0, 1],
            source_port: [0; 2],
            destination_port: [0, 80],
            protocol: 6,
            direction: 0,
            zero: [0; 2],
        };
        let ports = |n: u32| TupleV4 { source_port: (32_768 + n as u16).to_be_bytes(), ..tuple };
        let every_second_port =
            |n: u32| TupleV4 { source_port: (32_768 + 2 * n as u16).to_be_bytes(), ..tuple };
        let addresses = |n: u32| TupleV4 { source: (10 << 24 | n).to_be_bytes(), ..tuple };
        let series: [&dyn Fn(u32) -> TupleV4; 3] = [&ports, &every_second_port, &addresses];
        let mut seed = 1_u64;
        for _ in 0..2_000 {
            let keys = next_keys(&mut seed);
            for tuples in series {
                let mut filled = [0_u8; BUCKETS as usize];
                for n in 0..BUCKETS {
                    let hash = tuples(n).hash(&keys);
                    filled[hash.bucket(BUCKETS) as usize] += 1;
                    assert!(hash.line() < 2);
                }
                let most = filled.iter().max().copied().unwrap();
                assert!(usize::from(most) <= BUCKET, "{most} tuples have one bucket with {keys:x?}");
            }
        }
    }

    #[test]
    fn each_part_of_a_tuple_counts() {
        let keys = next_keys(&mut 1);
        let v6 = TupleV6 {
            source: [1; 16],
            destination: [2; 16],
            source_port: [3; 2],
            destination_port: [4; 2],
            protocol: 17,
            direction: 1,
            zero: [0; 2],
        };
        let first = v6.hash(&keys);
        for at in 0..16 {
            let (mut source, mut destination) = (v6.source, v6.destination);
            source[at] ^= 1;
            destination[at] ^= 1;
            assert_ne!(TupleV6 { source, ..v6 }.hash(&keys), first);
            assert_ne!(TupleV6 { destination, ..v6 }.hash(&keys), first);
        }
        assert_ne!(TupleV6 { direction: 0, ..v6 }.hash(&keys), first);
        assert_ne!(TupleV6 { protocol: 6, ..v6 }.hash(&keys), first);
        assert_ne!(TupleV6 { source_port: [4; 2], ..v6 }.hash(&keys), first);
    }
}
