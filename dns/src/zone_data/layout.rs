//! Types of records that the library does not parse: the layout of their data, which is kept as octets.

use std::{collections::BTreeMap, net::Ipv4Addr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use data_encoding::BASE32_DNSSEC;
use hickory_server::proto::rr::{Name, RData, RecordType, rdata::NULL};

use super::{
    lexer::Word,
    location, timestamp,
    words::{hexadecimal, labels, name, unescaped},
};

/// A part of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    U8,
    U16,
    U32,
    Name,
    /// A string of at most 255 octets, after its length.
    Text,
    /// One string or more.
    Texts,
    /// All other octets, without a length, as a string.
    Octets,
    Hexadecimal,
    Base64,
    /// Octets in hexadecimal, with dashes between them.
    Dashed(usize),
    /// Four groups of up to four hexadecimal digits, with colons between them.
    Groups,
    V4,
    /// Address prefixes (RFC 3123).
    Prefixes,
    /// A place on the earth (RFC 1876).
    Location,
    /// The name of a type.
    Type,
    /// Types of records (RFC 4034, section 4.1.2).
    Types,
    /// A number, or the mnemonic of an algorithm (RFC 4034, appendix A.1).
    Algorithm,
    /// Seconds since 1970, or `YYYYMMDDHHmmSS` (RFC 4034, section 3.2).
    Timestamp,
    /// Octets in hexadecimal, after their number; `-` for none (RFC 5155, section 3.3).
    Salt,
    /// Octets in base 32, after their number.
    Hash,
}

use Field::{
    Algorithm, Base64, Dashed, Groups, Hash, Hexadecimal, Location, Name as Domain, Octets, Prefixes, Salt,
    Text, Texts, Timestamp, Type, Types, U8, U16, U32, V4,
};

/// Mnemonics of algorithms (IANA).
const ALGORITHMS: &[(&str, u8)] = &[
    ("RSASHA1", 5),
    ("NSEC3RSASHA1", 7),
    ("RSASHA256", 8),
    ("RSASHA512", 10),
    ("ECDSAP256SHA256", 13),
    ("ECDSAP384SHA384", 14),
    ("ED25519", 15),
    ("ED448", 16),
];

/// Name and number (IANA), and the fields.
const TYPES: &[(&str, u16, &[Field])] = &[
    ("MB", 7, &[Domain]),
    ("MG", 8, &[Domain]),
    ("MR", 9, &[Domain]),
    ("MINFO", 14, &[Domain, Domain]),
    ("RP", 17, &[Domain, Domain]),
    ("AFSDB", 18, &[U16, Domain]),
    ("X25", 19, &[Text]),
    ("ISDN", 20, &[Texts]),
    ("RT", 21, &[U16, Domain]),
    ("PX", 26, &[U16, Domain, Domain]),
    ("GPOS", 27, &[Text, Text, Text]),
    ("LOC", 29, &[Location]),
    ("KX", 36, &[U16, Domain]),
    ("APL", 42, &[Prefixes]),
    ("DS", 43, &[U16, Algorithm, U8, Hexadecimal]),
    ("RRSIG", 46, &[Type, Algorithm, U8, U32, Timestamp, Timestamp, U16, Domain, Base64]),
    ("NSEC", 47, &[Domain, Types]),
    ("DNSKEY", 48, &[U16, U8, Algorithm, Base64]),
    ("DHCID", 49, &[Base64]),
    ("NSEC3", 50, &[U8, U8, U16, Salt, Hash, Types]),
    ("NSEC3PARAM", 51, &[U8, U8, U16, Salt]),
    ("TALINK", 58, &[Domain, Domain]),
    ("CDS", 59, &[U16, Algorithm, U8, Hexadecimal]),
    ("CDNSKEY", 60, &[U16, U8, Algorithm, Base64]),
    ("ZONEMD", 63, &[U32, U8, U8, Hexadecimal]),
    ("SPF", 99, &[Texts]),
    ("NID", 104, &[U16, Groups]),
    ("L32", 105, &[U16, V4]),
    ("L64", 106, &[U16, Groups]),
    ("LP", 107, &[U16, Domain]),
    ("EUI48", 108, &[Dashed(6)]),
    ("EUI64", 109, &[Dashed(8)]),
    ("URI", 256, &[U16, U16, Octets]),
    ("AVC", 258, &[Texts]),
];

/// A type by its name, or as `TYPE123` (RFC 3597).
pub(super) fn any_type(text: &str) -> Option<RecordType> {
    let text = text.to_ascii_uppercase();
    let number = text.strip_prefix("TYPE").and_then(|number| number.parse::<u16>().ok());
    number.map(RecordType::from).or_else(|| record_type(&text)).or_else(|| text.parse().ok())
}

/// A type by its name in upper case.
fn record_type(text: &str) -> Option<RecordType> {
    let (_, number, _) = TYPES.iter().find(|(name, ..)| *name == text)?;
    Some(RecordType::from(*number))
}

/// Whether the type is one of these.
pub(super) fn knows(record_type: RecordType) -> bool {
    TYPES.iter().any(|(_, number, _)| *number == u16::from(record_type))
}

/// The data of a record of one of these types.
pub(super) fn rdata(record_type: RecordType, words: &[Word], origin: &Name) -> Option<RData> {
    let (.., fields) = TYPES.iter().find(|(_, number, _)| *number == u16::from(record_type))?;
    let (mut octets, mut rest) = (Vec::new(), words);
    for field in *fields {
        let taken = if field.takes_the_rest() { rest.len() } else { rest.len().min(1) };
        let (own, others) = rest.split_at(taken);
        field.append(own, origin, &mut octets)?;
        rest = others;
    }
    let is_whole = rest.is_empty() && u16::try_from(octets.len()).is_ok();
    is_whole.then(|| unparsed(record_type, octets))
}

/// Data that are kept as octets.
pub(super) fn unparsed(code: RecordType, octets: Vec<u8>) -> RData {
    let rdata = if octets.is_empty() { NULL::new() } else { NULL::with(octets) };
    RData::Unknown { code, rdata }
}

impl Field {
    fn takes_the_rest(self) -> bool {
        matches!(self, Texts | Hexadecimal | Base64 | Prefixes | Location | Types)
    }

    fn append(self, words: &[Word], origin: &Name, octets: &mut Vec<u8>) -> Option<()> {
        // Only lists of prefixes and of types may be empty.
        if self == Prefixes {
            return words.iter().try_for_each(|word| prefix(&word.text, octets));
        }
        if self == Types {
            return types(words, octets);
        }
        let word = words.first()?;
        match self {
            U8 => octets.push(word.text.parse().ok()?),
            U16 => octets.extend(word.text.parse::<u16>().ok()?.to_be_bytes()),
            U32 => octets.extend(word.text.parse::<u32>().ok()?.to_be_bytes()),
            V4 => octets.extend(word.text.parse::<Ipv4Addr>().ok()?.octets()),
            Domain => labels(&name(word, origin)?, octets)?,
            Text | Texts => {
                for word in words {
                    let text = unescaped(&word.text)?;
                    octets.push(u8::try_from(text.len()).ok()?);
                    octets.extend(text);
                }
            }
            Octets => octets.extend(unescaped(&word.text)?),
            Hexadecimal => octets.extend(hexadecimal(words)?),
            Base64 => {
                let text: String = words.iter().map(|word| word.text.as_str()).collect();
                octets.extend(STANDARD.decode(text).ok()?);
            }
            Dashed(count) => octets.extend(parts(&word.text, '-', count, 2, 2)?.map(|part| part as u8)),
            Groups => octets.extend(parts(&word.text, ':', 4, 1, 4)?.flat_map(u16::to_be_bytes)),
            Location => octets.extend(location::octets(words)?),
            Type => octets.extend(u16::from(any_type(&word.text)?).to_be_bytes()),
            Algorithm => octets.push(algorithm(&word.text)?),
            Timestamp => octets.extend(timestamp::seconds(&word.text)?.to_be_bytes()),
            Salt if word.text == "-" => octets.push(0),
            Salt => counted(&hexadecimal(std::slice::from_ref(word))?, octets)?,
            Hash => counted(&BASE32_DNSSEC.decode(word.text.as_bytes()).ok()?, octets)?,
            Prefixes | Types => {}
        }
        Some(())
    }
}

fn algorithm(text: &str) -> Option<u8> {
    let known = ALGORITHMS.iter().find(|(mnemonic, _)| mnemonic.eq_ignore_ascii_case(text));
    known.map(|(_, number)| *number).or_else(|| text.parse().ok())
}

/// Appends octets after their number.
fn counted(data: &[u8], octets: &mut Vec<u8>) -> Option<()> {
    octets.push(u8::try_from(data.len()).ok()?);
    octets.extend(data);
    Some(())
}

/// Appends the windows of a set of types: number, length, and a bit for each type.
fn types(words: &[Word], octets: &mut Vec<u8>) -> Option<()> {
    let mut windows = BTreeMap::<u8, Vec<u8>>::new();
    for word in words {
        let [window, low] = u16::from(any_type(&word.text)?).to_be_bytes();
        let (bits, at) = (windows.entry(window).or_default(), usize::from(low / 8));
        bits.resize(bits.len().max(at + 1), 0);
        bits[at] |= 0x80 >> (low % 8);
    }
    for (window, bits) in windows {
        octets.push(window);
        counted(&bits, octets)?;
    }
    Some(())
}

/// So many hexadecimal numbers, each of so many digits at least and at most.
fn parts(
    text: &str,
    between: char,
    count: usize,
    least: usize,
    most: usize,
) -> Option<impl Iterator<Item = u16> + use<>> {
    let part = |part: &str| {
        let is_of_digits = part.bytes().all(|digit| digit.is_ascii_hexdigit());
        let is_valid = is_of_digits && (least..=most).contains(&part.len());
        is_valid.then(|| u16::from_str_radix(part, 16).ok()).flatten()
    };
    let parts: Vec<u16> = text.split(between).map(part).collect::<Option<_>>()?;
    (parts.len() == count).then(|| parts.into_iter())
}

/// `[!]FAMILY:ADDRESS/PREFIX`; octets of zeros at the end are left out.
fn prefix(text: &str, octets: &mut Vec<u8>) -> Option<()> {
    let (is_negated, text) = match text.strip_prefix('!') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (family, text) = text.split_once(':')?;
    let (address, length) = text.split_once('/')?;
    let (family, mut address, most) = match family {
        "1" => (1_u16, address.parse::<Ipv4Addr>().ok()?.octets().to_vec(), 32),
        "2" => (2, address.parse::<std::net::Ipv6Addr>().ok()?.octets().to_vec(), 128),
        _ => return None,
    };
    let length = length.parse::<u8>().ok().filter(|length| *length <= most)?;
    while address.last() == Some(&0) {
        address.pop();
    }
    octets.extend(family.to_be_bytes());
    octets.push(length);
    octets.push(u8::from(is_negated) << 7 | u8::try_from(address.len()).ok()?);
    octets.extend(address);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone_data::lexer::Lexer;

    fn octets(record_type: &str, text: &str) -> Option<String> {
        let entry = Lexer::new(text).next_entry().unwrap().unwrap_or_default();
        let origin = Name::from_ascii("example.org.").unwrap();
        let data = rdata(super::record_type(record_type).unwrap(), &entry.words, &origin)?;
        let RData::Unknown { rdata, .. } = data else { return None };
        Some(rdata.anything.iter().map(|octet| format!("{octet:02x}")).collect())
    }

    /// The octets are those of dnspython.
    #[test]
    fn data_are_laid_out_as_their_type_says() {
        const EXAMPLE: &str = "076578616d706c65036f726700";
        for (record_type, text, want) in [
            ("RP", "root txt.example.org.", format!("04726f6f74{EXAMPLE}03747874{EXAMPLE}")),
            ("AFSDB", "1 @", format!("0001{EXAMPLE}")),
            ("KX", "10 .", "000a00".to_owned()),
            ("PX", "10 a. b.", "000a01610001620 0".replace(' ', "")),
            ("X25", "311061700956", "0c333131303631373030393536".to_owned()),
            ("ISDN", "1500 004", "043135303003303034".to_owned()),
            ("SPF", "\"v=spf1 -all\"", "0b763d73706631202d616c6c".to_owned()),
            ("GPOS", "-32.6 116.8 10.0", "052d33322e36053131362e380431302e30".to_owned()),
            ("APL", "1:192.168.32.0/21 !2:ff00::/8", "00011503c0a82000020881ff".to_owned()),
            ("APL", "", String::new()),
            ("DHCID", "AAIB Y2A=", "0002016360".to_owned()),
            ("ZONEMD", "2018031900 1 1 00 ff", "7848b91c010100ff".to_owned()),
            ("NID", "10 0014:4fff:ff20:ee64", "000a00144fffff20ee64".to_owned()),
            ("L64", "10 2001:db8:1140:1000", "000a20010db811401000".to_owned()),
            ("L32", "10 10.1.2.0", "000a0a010200".to_owned()),
            ("EUI48", "00-00-5e-00-53-2A", "00005e00532a".to_owned()),
            ("EUI64", "00-00-5e-ef-10-00-00-2a", "00005eef1000002a".to_owned()),
            ("URI", "10 1 \"ftp://x/\"", "000a00016674703a2f2f782f".to_owned()),
            (
                "LOC",
                "52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m",
                "000016138b3cf018810cbce0009895b8".to_owned(),
            ),
            ("LOC", "52 N 4 30 W 10", "001216138b2872007f08cec000989a68".to_owned()),
            ("DS", "12345 13 2 00ff AA", "30390d0200ffaa".to_owned()),
            (
                "RRSIG",
                "A 13 2 3600 20600101000000 1767225600 7102 @ AAEC",
                format!("00010d0200000e10a9491c006955b9001bbe{EXAMPLE}000102"),
            ),
            // The types are those of the example in RFC 4034, section 4.3.
            (
                "NSEC",
                "@ A MX RRSIG NSEC TYPE1234",
                format!("{EXAMPLE}0006400100000003041b{}20", "00".repeat(26)),
            ),
            ("DNSKEY", "257 3 ECDSAP256SHA256 AAEC", "0101030d000102".to_owned()),
            (
                "NSEC3",
                "1 1 5 aabbccdd 2T7B4G4VSA5SMI47K61MV5BV1A22BOJR A RRSIG",
                "0101000504aabbccdd14174eb2409fe28bcb4887a1836f957f0a8425e27b0006400000000002".to_owned(),
            ),
            ("NSEC3", "1 0 0 - 00", "01000000000100".to_owned()),
            ("NSEC3PARAM", "1 0 0 -", "0100000000".to_owned()),
        ] {
            assert_eq!(octets(record_type, text).as_ref(), Some(&want), "{record_type} {text}");
        }
    }

    #[test]
    fn data_of_another_layout_are_refused() {
        for (record_type, text) in [
            ("RP", "root"),
            ("RP", "root txt more"),
            ("AFSDB", "65536 a"),
            ("X25", ""),
            ("GPOS", "1 2"),
            ("EUI48", "00-00-5e-00-53"),
            ("EUI48", "00-00-5e-00-53-2a-00"),
            ("EUI48", "00-00-5e-00-53-+a"),
            ("NID", "10 0014:4fff:ff20"),
            ("NID", "10 00014:4fff:ff20:ee64"),
            ("APL", "1:192.168.32.0/33"),
            ("APL", "3:192.168.32.0/3"),
            ("DHCID", "*"),
            ("ZONEMD", "1 1 1 abc"),
            ("LOC", "91 N 4 E 0"),
        ] {
            assert_eq!(octets(record_type, text), None, "{record_type} {text}");
        }
    }
}
