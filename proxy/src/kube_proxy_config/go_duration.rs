//! Durations in Go's syntax: `1h30m`, `250ms`, `-5s`. A number without a unit must be `0`.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Signed, so that validation can report negative values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration {
    nanoseconds: i64,
}

const NANOSECOND: i64 = 1;
const MICROSECOND: i64 = 1_000;
const MILLISECOND: i64 = 1_000_000;
const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

impl GoDuration {
    pub const ZERO: Self = Self { nanoseconds: 0 };

    pub const fn seconds(seconds: i64) -> Self {
        Self { nanoseconds: seconds * SECOND }
    }

    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    pub fn is_negative(self) -> bool {
        self.nanoseconds < 0
    }

    /// Returns zero for a negative duration.
    pub fn to_std(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.nanoseconds).unwrap_or_default())
    }

    pub fn parse(text: &str) -> Option<Self> {
        let (sign, rest) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Some(Self::ZERO);
        }
        let mut rest = (!rest.is_empty()).then_some(rest)?;
        let mut nanoseconds = 0_i64;
        while !rest.is_empty() {
            let (part, remaining) = leading_part(rest)?;
            nanoseconds = nanoseconds.checked_add(part)?;
            rest = remaining;
        }
        Some(Self { nanoseconds: sign * nanoseconds })
    }
}

/// Parses the first number with its unit. Returns nanoseconds and the remaining text.
fn leading_part(text: &str) -> Option<(i64, &str)> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, rest) = text.split_at(unit_at);
    let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    Some((scaled(number, unit_of(unit)?)?, rest))
}

fn unit_of(name: &str) -> Option<i64> {
    Some(match name {
        "ns" => NANOSECOND,
        "us" | "\u{b5}s" | "\u{3bc}s" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => return None,
    })
}

/// Multiplies a decimal number such as `1.5` with a unit. Digits below a nanosecond are dropped.
fn scaled(number: &str, unit: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let mut nanoseconds = if whole.is_empty() { 0 } else { whole.parse::<i64>().ok()?.checked_mul(unit)? };
    let mut digit_value = unit;
    for digit in fraction.bytes() {
        digit_value /= 10;
        nanoseconds = nanoseconds.checked_add(i64::from(digit - b'0') * digit_value)?;
    }
    Some(nanoseconds)
}

/// As Go prints durations.
impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_negative() {
            f.write_str("-")?;
        }
        let rest = self.nanoseconds.unsigned_abs();
        let [second, minute, hour] = [SECOND, MINUTE, HOUR].map(i64::unsigned_abs);
        if rest != 0 && rest < second {
            return sub_second(f, rest);
        }
        if rest >= hour {
            write!(f, "{}h", rest / hour)?;
        }
        if rest >= minute {
            write!(f, "{}m", rest % hour / minute)?;
        }
        fractional(f, rest % minute, second, 9)?;
        f.write_str("s")
    }
}

fn sub_second(f: &mut fmt::Formatter<'_>, nanoseconds: u64) -> fmt::Result {
    let (unit, digits, name) = match nanoseconds {
        ..1_000 => (1, 0, "ns"),
        1_000..1_000_000 => (1_000, 3, "\u{b5}s"),
        _ => (1_000_000, 6, "ms"),
    };
    fractional(f, nanoseconds, unit, digits)?;
    f.write_str(name)
}

fn fractional(f: &mut fmt::Formatter<'_>, value: u64, unit: u64, digits: usize) -> fmt::Result {
    write!(f, "{}", value / unit)?;
    match value % unit {
        0 => Ok(()),
        rest => write!(f, ".{}", format!("{rest:0digits$}").trim_end_matches('0')),
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| de::Error::custom(format_args!("`{text}` is not a duration such as 30s or 1h30m")))
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_and_printed_as_in_go() {
        for (text, want) in [
            ("0", Some("0s")),
            ("0s", Some("0s")),
            ("-0", Some("0s")),
            ("30s", Some("30s")),
            ("15m", Some("15m0s")),
            ("24h0m0s", Some("24h0m0s")),
            ("1h30m", Some("1h30m0s")),
            ("90m", Some("1h30m0s")),
            ("1.5h", Some("1h30m0s")),
            (".5s", Some("500ms")),
            ("1.s", Some("1s")),
            ("250ms", Some("250ms")),
            ("1500ms", Some("1.5s")),
            ("1us", Some("1\u{b5}s")),
            ("1\u{b5}s", Some("1\u{b5}s")),
            ("7ns", Some("7ns")),
            ("-5s", Some("-5s")),
            ("+5s", Some("5s")),
            ("2s100ms", Some("2.1s")),
            ("", None),
            ("-", None),
            ("30", None),
            ("s", None),
            (".s", None),
            ("1d", None),
            ("1 s", None),
            ("1..5s", None),
            ("--5s", None),
            ("99999999999h", None),
        ] {
            let got = GoDuration::parse(text).map(|duration| duration.to_string());
            assert_eq!(got.as_deref(), want, "{text:?}");
        }
    }
}
