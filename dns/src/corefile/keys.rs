//! The keys of a server block: zones and ports.

use std::net::IpAddr;

use hickory_server::proto::rr::{LowerName, Name};

use super::{CorefileError, lexer::Word};
use crate::config::{Listen, ServerProtocol};

/// The zones of a key; a network may have several.
pub(crate) fn listens(word: &Word) -> Result<Vec<Listen>, CorefileError> {
    let text = word.text.trim_end_matches(',');
    let (protocol, rest) = match text.split_once("://") {
        None => (ServerProtocol::Dns, text),
        Some((scheme, rest)) => {
            let known = ServerProtocol::ALL.into_iter().find(|protocol| protocol.name() == scheme);
            let refuse = || {
                word.refuse(format!(
                    "serving over `{scheme}://` is not supported; serve plain DNS, `tls://` or `https://`"
                ))
            };
            (known.ok_or_else(refuse)?, rest)
        }
    };
    let (zone, port) = split_port(rest);
    let port = match port {
        None => protocol.port(),
        Some(port) => port.parse().map_err(|_| word.refuse(format!("`{port}` is no port")))?,
    };
    let zones =
        zones(zone).ok_or_else(|| word.refuse(format!("`{zone}` is neither a zone nor a network")))?;
    Ok(zones.into_iter().map(|zone| Listen { zone, protocol, port }).collect())
}

/// Splits off the port. An IPv6 network contains colons itself.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((zone, port)) if !zone.contains(':') => (if zone.is_empty() { "." } else { zone }, Some(port)),
        _ => (text, None),
    }
}

/// A name, or the reverse zones of a network.
pub(crate) fn zones(text: &str) -> Option<Vec<LowerName>> {
    if let Some((address, length)) = text.split_once('/') {
        return reverse_zones(address.parse().ok()?, length.parse().ok()?);
    }
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(vec![name.into()])
}

/// Reverse zones are delimited at octets (IPv4) or nibbles (IPv6), so a network with another prefix length
/// consists of several.
fn reverse_zones(address: IpAddr, length: usize) -> Option<Vec<LowerName>> {
    let (digits, bits, suffix): (Vec<u8>, usize, &str) = match address {
        IpAddr::V4(v4) => (v4.octets().into(), 8, "in-addr.arpa."),
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().flat_map(|octet| [octet >> 4, octet & 0xf]);
            (nibbles.collect(), 4, "ip6.arpa.")
        }
    };
    if length > digits.len() * bits {
        return None;
    }
    let (whole, part) = (length / bits, length % bits);
    let label = |digit: u8| if bits == 8 { digit.to_string() } else { format!("{digit:x}") };
    let upper: Vec<String> = digits[..whole].iter().map(|digit| label(*digit)).collect();
    let zone = |last: Option<u8>| {
        let labels: Vec<String> = upper.iter().cloned().chain(last.map(label)).collect();
        let text: String = labels.iter().rev().map(|label| format!("{label}.")).collect();
        Name::from_ascii(text + suffix).ok().map(LowerName::from)
    };
    if part == 0 {
        return Some(vec![zone(None)?]);
    }
    let free = bits - part;
    let first = digits.get(whole)? >> free << free;
    (0..1_u16 << free).map(|offset| zone(u8::try_from(u16::from(first) + offset).ok())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_reverse_zones() {
        for (text, want) in [
            ("Example.ORG", Some("example.org.")),
            (".", Some(".")),
            ("10.0.0.0/8", Some("10.in-addr.arpa.")),
            ("10.0.0.0/24", Some("0.0.10.in-addr.arpa.")),
            ("10.9.0.0/15", Some("8.10.in-addr.arpa. 9.10.in-addr.arpa.")),
            ("10.0.0.7/32", Some("7.0.0.10.in-addr.arpa.")),
            ("0.0.0.0/0", Some("in-addr.arpa.")),
            ("fd00::/8", Some("d.f.ip6.arpa.")),
            ("2001:db8::/31", Some("8.b.d.0.1.0.0.2.ip6.arpa. 9.b.d.0.1.0.0.2.ip6.arpa.")),
            ("10.0.0.0/33", None),
            ("10.0/8", None),
            ("a..b", None),
        ] {
            let got = zones(text).map(|zones| {
                let zones: Vec<String> = zones.iter().map(ToString::to_string).collect();
                zones.join(" ")
            });
            assert_eq!(got.as_deref(), want, "{text}");
        }
    }
}
