//! The data of LOC records (RFC 1876).

use super::lexer::Word;

/// The equator and the prime meridian, in thousandths of a second of arc.
const ORIGIN: i64 = 1 << 31;
const DEGREE: i64 = 3_600_000;
const MINUTE: i64 = 60_000;
/// What is added to an altitude, in centimetres.
const DEPTH: i64 = 10_000_000;
/// Size, horizontal and vertical precision where they are not stated, in centimetres.
const DEFAULTS: [i64; 3] = [100, 1_000_000, 1_000];
/// The largest of these: 90,000 km.
const MAX_SIZE: i64 = 9_000_000_000;

/// `D [M [S]] N|S D [M [S]] E|W ALTITUDE [SIZE [PRECISION [PRECISION]]]`
pub(super) fn octets(words: &[Word]) -> Option<Vec<u8>> {
    let (latitude, rest) = angle(words, 90, ["N", "S"])?;
    let (longitude, rest) = angle(rest, 180, ["E", "W"])?;
    let (altitude, sizes) = rest.split_first()?;
    if sizes.len() > DEFAULTS.len() {
        return None;
    }
    let mut octets = vec![0];
    for (at, default) in DEFAULTS.into_iter().enumerate() {
        octets.push(exponential(sizes.get(at).map_or(Some(default), centimetres)?)?);
    }
    for number in [ORIGIN + latitude, ORIGIN + longitude, DEPTH + centimetres(altitude)?] {
        octets.extend(u32::try_from(number).ok()?.to_be_bytes());
    }
    Some(octets)
}

/// An angle in thousandths of a second, and the words behind it.
fn angle<'w>(words: &'w [Word], most: i64, directions: [&str; 2]) -> Option<(i64, &'w [Word])> {
    let at =
        words.iter().position(|word| directions.iter().any(|name| word.text.eq_ignore_ascii_case(name)))?;
    let (numbers, rest) = words.split_at(at);
    let (direction, rest) = rest.split_first()?;
    let part = |at: usize| numbers.get(at).map_or(Some(0), |word: &Word| decimal(&word.text, 3));
    let [degrees, minutes, seconds] = [part(0)?, part(1)?, part(2)?];
    let is_whole = degrees % 1000 == 0 && minutes % 1000 == 0;
    let is_valid = is_whole
        && (1..=3).contains(&numbers.len())
        && [degrees, minutes, seconds].iter().all(|part| *part >= 0)
        && minutes < 60_000
        && seconds < 60_000;
    let angle = degrees / 1000 * DEGREE + minutes / 1000 * MINUTE + seconds;
    let is_negative = direction.text.eq_ignore_ascii_case(directions[1]);
    (is_valid && angle <= most * DEGREE).then_some((if is_negative { -angle } else { angle }, rest))
}

/// A length in metres, with or without the unit.
fn centimetres(word: &Word) -> Option<i64> {
    decimal(word.text.strip_suffix(['m', 'M']).unwrap_or(&word.text), 2)
}

/// A number with so many decimal places at most, in units of the last place.
fn decimal(text: &str, places: usize) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = !whole.is_empty() && whole.len() <= 12 && part.len() <= places;
    let all = format!("{whole}{part:0<places$}");
    let is_number = is_number && all.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| all.parse::<i64>().ok().map(|number| sign * number)).flatten()
}

/// A digit and the power of ten that it is multiplied by, four bits each.
fn exponential(mut number: i64) -> Option<u8> {
    if !(0..=MAX_SIZE).contains(&number) {
        return None;
    }
    let mut power = 0;
    while number >= 10 {
        number /= 10;
        power += 1;
    }
    u8::try_from(number << 4 | power).ok()
}
