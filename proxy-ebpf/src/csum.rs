//! Checksum arithmetic of IP, TCP, UDP and ICMP (RFC 1071): ones' complement sums, independent of byte order.

/// The unfolded sum of words, of up to four billion.
#[inline(always)]
pub const fn sum(words: &[u32]) -> u64 {
    let (mut sum, mut at) = (0, 0);
    while at < words.len() {
        sum += words[at] as u64;
        at += 1;
    }
    sum
}

/// The summand of a changed word (RFC 1624).
#[inline(always)]
pub const fn difference(old: u32, new: u32) -> u64 {
    !old as u64 + new as u64
}

/// Folds the carries.
#[inline(always)]
pub const fn fold(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

/// The checksum of a sum, in the byte order of the words.
#[inline(always)]
pub const fn checksum(sum: u64) -> u16 {
    let sum = fold(sum);
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// A checksum, updated by a sum of differences (RFC 1624).
#[inline(always)]
pub const fn adjusted(old: u16, differences: u64) -> u16 {
    checksum(!old as u64 + fold(differences) as u64)
}

#[cfg(test)]
mod tests {
    use super::{adjusted, checksum, difference, sum};

    /// The example of RFC 1071, section 3.
    #[test]
    fn the_example_of_rfc_1071() {
        let words =
            [u32::from_be_bytes([0x00, 0x01, 0xf2, 0x03]), u32::from_be_bytes([0xf4, 0xf5, 0xf6, 0xf7])];
        assert_eq!(checksum(sum(&words)), !0xddf2);
        assert_eq!(checksum(u64::MAX), 0, "all carries are added");
    }

    #[test]
    fn an_update_equals_a_computation() {
        for (old, new) in [(0, 1), (1, 0), (u32::MAX, 7), (0x0a00_0001, 0xc0a8_0001), (5, 5)] {
            let words = [0x1234_5678, old];
            let before = checksum(sum(&words));
            let after = adjusted(before, difference(old, new));
            let want = checksum(sum(&[0x1234_5678, new]));
            // 0 and 0xffff are equal in ones' complement.
            assert!(after == want || after ^ want == 0xffff && (after == 0 || want == 0), "{old:x} {new:x}");
        }
    }
}
