//! The data of a record from its words.

use hickory_server::proto::rr::{
    Name, RData, RecordType,
    rdata::{A, AAAA, CNAME, MX, NAPTR, NS, PTR, SOA, SRV, TXT},
};

use super::{
    layout::{self, unparsed},
    lexer::Word,
    words::{hexadecimal, labels, name, unescaped},
};

/// A TTL in seconds, or with units such as `1h30m` (as BIND).
pub(super) fn ttl(text: &str) -> Option<u32> {
    let (mut total, mut number) = (0_u32, None::<u32>);
    for character in text.chars() {
        if let Some(digit) = character.to_digit(10) {
            number = Some(number.unwrap_or_default().checked_mul(10)?.checked_add(digit)?);
            continue;
        }
        let unit = match character.to_ascii_lowercase() {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return None,
        };
        total = total.checked_add(number.take()?.checked_mul(unit)?)?;
    }
    let seconds = total.checked_add(number.unwrap_or_default())?;
    let has_digits = text.starts_with(|first: char| first.is_ascii_digit());
    (has_digits && i32::try_from(seconds).is_ok()).then_some(seconds)
}

/// The data of a record of class IN.
pub(super) fn rdata(record_type: RecordType, words: &[Word], origin: &Name) -> Option<RData> {
    if words.first().is_some_and(|word| word.text == "\\#" && !word.quoted) {
        return generic(record_type, &words[1..]);
    }
    let name = |word: &Word| name(word, origin);
    let data = match (record_type, words) {
        (RecordType::A, [address]) => RData::A(A(address.text.parse().ok()?)),
        (RecordType::AAAA, [address]) => RData::AAAA(AAAA(address.text.parse().ok()?)),
        (RecordType::CNAME, [target]) => RData::CNAME(CNAME(name(target)?)),
        (RecordType::NS, [server]) => RData::NS(NS(name(server)?)),
        (RecordType::PTR, [target]) => RData::PTR(PTR(name(target)?)),
        (RecordType::DNAME, [target]) => {
            let mut octets = Vec::new();
            labels(&name(target)?, &mut octets)?;
            unparsed(RecordType::DNAME, octets)
        }
        (RecordType::MX, [preference, exchange]) => {
            RData::MX(MX::new(preference.text.parse().ok()?, name(exchange)?))
        }
        (RecordType::SRV, [priority, weight, port, target]) => RData::SRV(SRV::new(
            priority.text.parse().ok()?,
            weight.text.parse().ok()?,
            port.text.parse().ok()?,
            name(target)?,
        )),
        (RecordType::NAPTR, [order, preference, flags, services, regexp, replacement]) => {
            RData::NAPTR(NAPTR::new(
                order.text.parse().ok()?,
                preference.text.parse().ok()?,
                unescaped(&flags.text)?.into(),
                unescaped(&services.text)?.into(),
                unescaped(&regexp.text)?.into(),
                name(replacement)?,
            ))
        }
        (RecordType::SOA, [server, contact, serial, timers @ ..]) => {
            let [refresh, retry, expire, minimum] = timers else { return None };
            let timer = |word: &Word| i32::try_from(ttl(&word.text)?).ok();
            let (serial, minimum) = (serial.text.parse().ok()?, ttl(&minimum.text)?);
            let [refresh, retry, expire] = [timer(refresh)?, timer(retry)?, timer(expire)?];
            RData::SOA(SOA::new(name(server)?, name(contact)?, serial, refresh, retry, expire, minimum))
        }
        (RecordType::TXT, [_, ..]) => {
            let texts: Vec<Vec<u8>> =
                words.iter().map(|word| unescaped(&word.text)).collect::<Option<_>>()?;
            if texts.iter().any(|text| text.len() > usize::from(u8::MAX)) {
                return None;
            }
            RData::TXT(TXT::from_bytes(texts.iter().map(Vec::as_slice).collect()))
        }
        (RecordType::SVCB | RecordType::HTTPS, [priority, target, parameters @ ..]) => {
            let text = format!("{} {} {}", priority.text, name(target)?.to_ascii(), joined(parameters)?);
            RData::try_from_str(record_type, &text).ok()?
        }
        (other, _) if layout::knows(other) => layout::rdata(other, words, origin)?,
        // The library knows no origin, and needs none for other types.
        (other, _) => RData::try_from_str(other, &joined(words)?).ok()?,
    };
    Some(data)
}

/// The words as a text. A quoted value behind `key=` (RFC 9460, section 2.1) is not quoted: the library takes no quotes
/// within a word. `None`: it needs them.
fn joined(words: &[Word]) -> Option<String> {
    let mut text = String::new();
    for word in words {
        if !text.is_empty() && !word.is_joined {
            text.push(' ');
        }
        if !word.quoted {
            text.push_str(&word.text);
        } else if !word.is_joined {
            text.extend(["\"", &word.text, "\""]);
        } else if word.text.contains(|character: char| character.is_whitespace() || character == '\\') {
            return None;
        } else {
            text.push_str(&word.text);
        }
    }
    Some(text)
}

/// `\# LENGTH HEX...` (RFC 3597, section 5).
fn generic(record_type: RecordType, words: &[Word]) -> Option<RData> {
    let (length, digits) = words.split_first()?;
    let octets = hexadecimal(digits)?;
    if length.text.parse() != Ok(octets.len()) || u16::try_from(octets.len()).is_err() {
        return None;
    }
    Some(unparsed(record_type, octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ttls_have_units() {
        for (text, want) in [
            ("0", Some(0)),
            ("3600", Some(3600)),
            ("1h30m", Some(5400)),
            ("1W", Some(604_800)),
            ("2147483648", None),
            ("", None),
            ("h", None),
            ("1x", None),
            ("IN", None),
            ("99999999999", None),
        ] {
            assert_eq!(ttl(text), want, "{text}");
        }
    }
}
