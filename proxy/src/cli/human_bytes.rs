//! Amounts of bytes in a few characters, as `ls -h` and `free -h` print them.

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Three digits at most, or four of 1000 to 1023: `512B`, `1.5KiB`, `90MiB`.
pub fn human_bytes(bytes: u64) -> String {
    let mut unit = 0;
    let mut amount = bytes as f64;
    // What would be rounded to 1024 is 1.0 of the next unit.
    while amount >= 1023.5 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && amount < 9.95);
    format!("{amount:.digits$}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::human_bytes;

    #[test]
    fn amounts_are_short() {
        for (bytes, want) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0KiB"),
            (1536, "1.5KiB"),
            (10_188, "9.9KiB"),
            (10_189, "10KiB"),
            ((1 << 20) - 1, "1.0MiB"),
            (90 << 20, "90MiB"),
            (u64::MAX, "16EiB"),
        ] {
            assert_eq!(human_bytes(bytes), want, "{bytes}");
        }
    }
}
