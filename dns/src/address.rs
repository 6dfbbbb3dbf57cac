//! Addresses in Kubernetes objects: lenient parsing, canonical values.
//!
//! Old objects contain spellings that strict parsers refuse and Kubernetes accepts: leading zeros (decimal, not octal)
//! and IPv4-mapped IPv6 addresses (treated as IPv4).

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A host or a site usually has a /64, and any address in it.
const V6_NETWORK: u32 = 64;

/// One client, as far as limits and turns tell clients apart: the /64 of an IPv6 address, or an IPv4 address itself.
pub(crate) fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> V6_NETWORK << V6_NETWORK).into(),
    }
}

/// Returns `None` if the text is not an address, or has a zone.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') { parse_v6(text) } else { parse_v4(text).map(IpAddr::V4) }
}

fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    let mut parts = text.split('.');
    let mut octets = [0; 4];
    for octet in &mut octets {
        *octet = u8::try_from(parse_decimal(parts.next()?)?).ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

fn parse_v6(text: &str) -> Option<IpAddr> {
    let groups: Option<Vec<Cow<'_, str>>> = text.split(':').map(plain_group).collect();
    let address: Ipv6Addr = groups?.join(":").parse().ok()?;
    Some(address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4))
}

/// A group in the form that the standard parser accepts: at most four digits, or a dotted tail without leading
/// zeros.
fn plain_group(group: &str) -> Option<Cow<'_, str>> {
    if group.contains('.') {
        return Some(parse_v4(group)?.to_string().into());
    }
    let excess = group.bytes().take_while(|digit| *digit == b'0').count().min(group.len().saturating_sub(4));
    Some(group[excess..].into())
}

/// Parses a number of digits only: the standard parser would also accept a sign.
pub fn parse_decimal(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_leniently_and_printed_canonically() {
        for (text, want) in [
            ("172.30.0.41", Some("172.30.0.41")),
            ("172.30.0.041", Some("172.30.0.41")),
            ("010.0.0.0008", Some("10.0.0.8")),
            ("::ffff:10.1.2.3", Some("10.1.2.3")),
            ("::ffff:010.1.2.003", Some("10.1.2.3")),
            ("::ffff:a01:203", Some("10.1.2.3")),
            ("2001:DB8::0:1", Some("2001:db8::1")),
            ("2001:0db8:00000::1", Some("2001:db8::1")),
            ("fd00::", Some("fd00::")),
            ("::", Some("::")),
            ("64:ff9b::1.2.3.4", Some("64:ff9b::102:304")),
            ("", None),
            (" 10.0.0.1", None),
            ("10.0.0.1 ", None),
            ("10.0.0", None),
            ("10.0.0.1.2", None),
            ("10.0.0.256", None),
            ("10.0.0.+1", None),
            ("10.0.0.0x1", None),
            ("1.2.3.99999999999999999999", None),
            ("fe80::1%eth0", None),
            ("12345::1", None),
            ("1:2:3:4:5:6:7:8:9", None),
            (":::", None),
            ("10.0.0.1:80", None),
            ("example.org", None),
            ("\u{0661}0.0.0.1", None),
        ] {
            let got = parse_ip(text).map(|address| address.to_string());
            assert_eq!(got.as_deref(), want, "{text:?}");
        }
    }
}
