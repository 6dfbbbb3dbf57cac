//! Times of signatures (RFC 4034, section 3.2).

/// Days of the year before each month, not in a leap year.
const BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
const LENGTHS: [u64; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// Seconds since 1970, modulo 2^32 (RFC 1982), of `YYYYMMDDHHmmSS` or of their number.
pub(super) fn seconds(text: &str) -> Option<u32> {
    if !text.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    if text.len() != 14 {
        return text.parse().ok();
    }
    let part = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    let at = usize::try_from(month.checked_sub(1)?).ok()?;
    let is_day = year >= 1970 && (1..=*LENGTHS.get(at)?).contains(&day);
    if !is_day || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let before = year - 1;
    // Leap years before this year, and before 1970.
    let leaps = before / 4 - before / 100 + before / 400 - 477;
    let days = (year - 1970) * 365 + leaps + BEFORE.get(at)? + u64::from(is_leap && month > 2) + day - 1;
    let total = ((days * 24 + hour) * 60 + minute) * 60 + second;
    u32::try_from(total % (1 << 32)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers are those of `date -u +%s`.
    #[test]
    fn dates_are_seconds() {
        for (text, want) in [
            ("19700101000000", Some(0)),
            ("20000229000000", Some(951_782_400)),
            ("20000301000000", Some(951_868_800)),
            ("20260101000000", Some(1_767_225_600)),
            ("20261231235959", Some(1_798_761_599)),
            ("20600101000000", Some(2_840_140_800)),
            ("21060207062816", Some(0)),
            ("1767225600", Some(1_767_225_600)),
            ("0", Some(0)),
            ("4294967296", None),
            ("20261301000000", None),
            ("20260001000000", None),
            ("20260100000000", None),
            ("20260132000000", None),
            ("20260101240000", None),
            ("20260101006000", None),
            ("19690101000000", None),
            ("2026010100000x", None),
            ("", None),
            ("+1", None),
        ] {
            assert_eq!(seconds(text), want, "{text}");
        }
    }
}
