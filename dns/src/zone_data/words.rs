//! What single words of a record mean.

use hickory_server::proto::rr::Name;

use super::lexer::Word;

/// A name, relative to the origin unless it ends with a dot.
pub(super) fn name(word: &Word, origin: &Name) -> Option<Name> {
    if word.text == "@" && !word.quoted {
        return Some(origin.clone());
    }
    let mut name = Name::from_ascii(&word.text).ok()?;
    if !name.is_fqdn() {
        name = name.append_domain(origin).ok()?;
    }
    name.set_fqdn(true);
    Some(name)
}

/// The name in the wire format, not compressed (RFC 3597, section 4).
pub(super) fn labels(name: &Name, octets: &mut Vec<u8>) -> Option<()> {
    for label in name.iter() {
        octets.push(u8::try_from(label.len()).ok()?);
        octets.extend_from_slice(label);
    }
    octets.push(0);
    Some(())
}

/// The octets of hexadecimal digits, which may be several words.
pub(super) fn hexadecimal(words: &[Word]) -> Option<Vec<u8>> {
    let digits: String = words.iter().map(|word| word.text.as_str()).collect();
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) || !digits.len().is_multiple_of(2) {
        return None;
    }
    let octet = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).ok();
    (0..digits.len()).step_by(2).map(octet).collect()
}

/// Replaces `\DDD` and `\X`.
pub(super) fn unescaped(text: &str) -> Option<Vec<u8>> {
    let (mut out, mut octets) = (Vec::new(), text.bytes());
    while let Some(octet) = octets.next() {
        if octet != b'\\' {
            out.push(octet);
            continue;
        }
        let first = octets.next()?;
        if !first.is_ascii_digit() {
            out.push(first);
            continue;
        }
        let digits = [first, octets.next()?, octets.next()?];
        out.push(std::str::from_utf8(&digits).ok()?.parse().ok()?);
    }
    Some(out)
}
