//! Numbers in few characters.

use super::rates::Bounds;

/// The text of a value that is unknown.
pub const UNKNOWN: &str = "-";

/// A rate, or a number of bytes: three digits, and a unit of thousands.
pub fn short(value: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")];
    match UNITS.into_iter().find(|(least, _)| value >= *least) {
        Some((1e4, unit)) => digits(value / 1e3, unit),
        Some((least, unit)) => digits(value / least, unit),
        None if value == 0.0 => "0".to_owned(),
        None if value < 1.0 => format!("{value:.2}"),
        None => digits(value, ""),
    }
}

fn digits(value: f64, unit: &str) -> String {
    if value < 100.0 && (value.fract() != 0.0 || !unit.is_empty()) {
        format!("{value:.1}{unit}")
    } else {
        format!("{value:.0}{unit}")
    }
}

pub fn rate(value: Option<f64>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), short)
}

pub fn percent(part: Option<f64>) -> String {
    part.map_or_else(|| UNKNOWN.to_owned(), |part| format!("{:.0}%", part * 100.0))
}

/// A time of a round trip in seconds.
pub fn milliseconds(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| UNKNOWN.to_owned(), |seconds| format!("{:.2}ms", seconds * 1e3))
}

/// The bucket of a quantile.
pub fn bounds(bounds: Option<Bounds>) -> String {
    match bounds {
        None => UNKNOWN.to_owned(),
        Some(Bounds { at_most: Some(most), .. }) => format!("<={}", time(most)),
        Some(Bounds { above, at_most: None }) => format!(">{}", time(above)),
    }
}

/// A bound of the histogram, in nanoseconds.
fn time(nanoseconds: u64) -> String {
    let (value, unit) = match nanoseconds {
        ..1_000_000 => (nanoseconds as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (nanoseconds as f64 / 1e6, "ms"),
        1_000_000_000.. => (nanoseconds as f64 / 1e9, "s"),
    };
    format!("{value}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, want) in [
            (0.0, "0"),
            (0.005, "0.01"),
            (0.5, "0.50"),
            (1.0, "1"),
            (12.25, "12.2"),
            (123.4, "123"),
            (9_999.0, "9999"),
            (10_000.0, "10.0k"),
            (999_999.0, "1000k"),
            (1_000_000.0, "1.0M"),
            (123e9, "123G"),
            (4e12, "4.0T"),
        ] {
            assert_eq!(short(value), want, "{value}");
        }
    }

    #[test]
    fn a_quantile_is_shown_by_its_bucket() {
        let of = |above, at_most| bounds(Some(Bounds { above, at_most }));
        assert_eq!(of(0, Some(100_000)), "<=100us");
        assert_eq!(of(1_000_000, Some(2_500_000)), "<=2.5ms");
        assert_eq!(of(3_000_000_000, None), ">3s");
        assert_eq!(bounds(None), "-");
    }
}
