//! Addresses that stand for others, with their networks.
//!
//! - Loopback, link-local, multicast and unspecified addresses stay.
//! - Private addresses keep their range (RFC 1918, RFC 6598, RFC 4193). Two of a range whose first N bits are equal have the same
//!   in common afterwards, for every N, as in Crypto-PAn (Xu et al., 2002).
//! - All others move to 240.0.0.0/4, which is reserved, and 2001:db8::/32, which is for documentation. There this holds from the
//!   first 16 bits on, for IPv6 from the first 48.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ring::hmac;

pub struct Addresses {
    key: hmac::Key,
    v4: HashMap<u32, u32>,
    v6: HashMap<u128, u128>,
    /// Numbers of the /16 of public addresses, and of the /48 of those of IPv6.
    networks_v4: HashMap<u32, u32>,
    networks_v6: HashMap<u128, u128>,
}

impl Addresses {
    pub fn new(key: hmac::Key) -> Self {
        Self {
            key,
            v4: HashMap::new(),
            v6: HashMap::new(),
            networks_v4: HashMap::new(),
            networks_v6: HashMap::new(),
        }
    }

    /// The same text with other addresses and networks.
    pub fn replace(&mut self, text: &str) -> String {
        let mut replaced = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find(|c: char| c.is_ascii_hexdigit() || c == ':') {
            let (before, from) = rest.split_at(start);
            replaced += before;
            let end =
                from.find(|c: char| !c.is_ascii_hexdigit() && !matches!(c, ':' | '.')).unwrap_or(from.len());
            let (run, after) = from.split_at(end);
            let is_inside_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            let is_word = replaced.ends_with(is_inside_word)
                || after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            match Found::new(run).filter(|_| !is_word) {
                Some(found) => {
                    let prefix = prefix(&run[found.length..], after);
                    replaced += &self.address(found.address, prefix).to_string();
                    replaced += &run[found.length..];
                }
                None => replaced += run,
            }
            rest = after;
        }
        replaced + rest
    }

    /// The address for another one; of a network that begins with it, if there is a prefix length.
    fn address(&mut self, address: IpAddr, prefix: Option<u8>) -> IpAddr {
        match address {
            IpAddr::V4(v4) => {
                let mapped = self.v4(v4.to_bits());
                let mask = prefix.map_or(u32::MAX, |length| {
                    u32::MAX.checked_shl(32_u32.saturating_sub(length.into())).unwrap_or(0)
                });
                Ipv4Addr::from_bits(mapped & mask).into()
            }
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => Ipv4Addr::from_bits(self.v4(v4.to_bits())).to_ipv6_mapped().into(),
                None => {
                    let mapped = self.v6(v6.to_bits());
                    let mask = prefix.map_or(u128::MAX, |length| {
                        u128::MAX.checked_shl(128_u32.saturating_sub(length.into())).unwrap_or(0)
                    });
                    Ipv6Addr::from_bits(mapped & mask).into()
                }
            },
        }
    }

    fn v4(&mut self, bits: u32) -> u32 {
        if let Some(known) = self.v4.get(&bits) {
            return *known;
        }
        let address = Ipv4Addr::from_bits(bits);
        let [first, second, ..] = address.octets();
        let kept = match (first, second) {
            (0 | 127 | 224..=255, _) | (169, 254) => return bits,
            (10, _) => 8,
            (172, 16..=31) => 12,
            (192, 168) => 16,
            (100, 64..=127) => 10,
            _ => 0,
        };
        let mapped = match kept {
            0 => {
                let next = u32::try_from(self.networks_v4.len()).unwrap_or(u32::MAX);
                // More networks than that share the numbers again, without 255.255.0.0/16.
                let number = *self.networks_v4.entry(bits >> 16).or_insert(next) % 4095;
                let low = scrambled(&self.key, b'4', u128::from(bits) << 96, 16, 32) >> 96;
                0xf000_0000 | number << 16 | low as u32 & 0xffff
            }
            kept => (scrambled(&self.key, b'4', u128::from(bits) << 96, kept, 32) >> 96) as u32,
        };
        *self.v4.entry(bits).or_insert(mapped)
    }

    fn v6(&mut self, bits: u128) -> u128 {
        if let Some(known) = self.v6.get(&bits) {
            return *known;
        }
        let address = Ipv6Addr::from_bits(bits);
        let [first, ..] = address.octets();
        if bits < 2 || address.is_unicast_link_local() || address.is_multicast() {
            return bits;
        }
        let mapped = if first & 0xfe == 0xfc {
            scrambled(&self.key, b'6', bits, 8, 128)
        } else {
            const DOCUMENTATION: u128 = 0x2001_0db8 << 96;
            let next = self.networks_v6.len() as u128;
            let number = *self.networks_v6.entry(bits >> 80).or_insert(next) & 0xffff;
            let low = scrambled(&self.key, b'6', bits, 48, 128) & ((1 << 80) - 1);
            DOCUMENTATION | number << 80 | low
        };
        *self.v6.entry(bits).or_insert(mapped)
    }
}

/// Each bit from `first` on is inverted or not, as a keyed function of all bits before it says.
fn scrambled(key: &hmac::Key, family: u8, bits: u128, first: u32, end: u32) -> u128 {
    let flips = (first..end).map(|at| {
        let before = if at == 0 { 0 } else { bits >> (128 - at) };
        let mut context = hmac::Context::with_key(key);
        context.update(&[b'a', family, at as u8]);
        context.update(&before.to_be_bytes());
        let inverts = context.sign().as_ref().first().is_some_and(|octet| octet & 1 == 1);
        u128::from(inverts) << (127 - at)
    });
    bits ^ flips.fold(0, |all, flip| all | flip)
}

/// An address at the start of a run of digits, dots and colons, and its length there.
struct Found {
    address: IpAddr,
    length: usize,
}

impl Found {
    fn new(run: &str) -> Option<Self> {
        let parsed = |part: &str| Some(Self { address: part.parse().ok()?, length: part.len() });
        let whole = run.trim_end_matches('.');
        // The port of an IPv4 address, or the colon of a sentence.
        let before_colon = || run.split(':').next().filter(|part| part.contains('.'));
        parsed(whole)
            .or_else(|| before_colon().and_then(parsed))
            .or_else(|| whole.strip_suffix(':').and_then(parsed))
            .filter(|found| run[..found.length].contains(['.', ':']))
    }
}

/// The prefix length behind an address.
fn prefix(rest_of_run: &str, after: &str) -> Option<u8> {
    let digits = after.strip_prefix('/').filter(|_| rest_of_run.is_empty())?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use ipnetwork::IpNetwork;

    use super::*;

    fn addresses() -> Addresses {
        Addresses::new(hmac::Key::new(hmac::HMAC_SHA256, b"key"))
    }

    #[test]
    fn addresses_in_text_are_replaced_with_ports_and_brackets() {
        let mut addresses = addresses();
        let mut one = |text: &str| addresses.replace(text);
        let (v4, v6) = (one("10.1.2.3"), one("fd00::5"));
        assert!(v4.starts_with("10.") && v4 != "10.1.2.3" && v6.starts_with("fd") && v6 != "fd00::5");
        for (text, want) in [
            ("10.1.2.3:80", format!("{v4}:80")),
            ("[fd00::5]:80, (10.1.2.3).", format!("[{v6}]:80, ({v4}).")),
            ("to 10.1.2.3: refused", format!("to {v4}: refused")),
            // No network has such a prefix, but an error message may.
            ("10.1.2.3/99 fd00::5/200", format!("{v4}/99 {v6}/200")),
            ("at 10.1.2.3.", format!("at {v4}.")),
            (
                "127.0.0.1 ::1 fe80::1 169.254.20.10 0.0.0.0/0 :: ff02::1",
                "127.0.0.1 ::1 fe80::1 169.254.20.10 0.0.0.0/0 :: ff02::1".to_owned(),
            ),
            (
                "12:30:59.123 6.18.44 std::fs n10.1.2.3 x-10.1.2.3 1.2.3.4.5 abc: a::",
                "12:30:59.123 6.18.44 std::fs n10.1.2.3 x-10.1.2.3 1.2.3.4.5 abc: a::".to_owned(),
            ),
            ("2026-01-01T00:00:00Z a:b", "2026-01-01T00:00:00Z a:b".to_owned()),
        ] {
            let got = one(text);
            // `a::` is an address as well as the end of a word.
            assert!(
                got == want || text.ends_with("a::") && got.starts_with(&want[..want.len() - 3]),
                "{text}: {got}"
            );
        }
    }

    #[test]
    fn common_prefixes_of_private_addresses_stay() {
        let mut addresses = addresses();
        let mut map = |text: &str| addresses.replace(text).parse::<IpAddr>().unwrap();
        let common = |one: IpAddr, other: IpAddr| match (one, other) {
            (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
            (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => 0,
        };
        let all = [
            "10.0.0.1",
            "10.0.0.2",
            "10.0.1.1",
            "10.244.1.4",
            "10.244.1.5",
            "fd00::1",
            "fd00::2",
            "fd00:0:1::1",
            "fd01::1",
            "203.0.113.1",
            "203.0.113.2",
            "203.0.7.1",
            "2001:db8:1::1",
            "2001:db8:1::2",
            "2a00:1:1::1",
        ];
        for one in all {
            for other in all {
                let (a, b): (IpAddr, IpAddr) = (one.parse().unwrap(), other.parse().unwrap());
                let before = common(a, b);
                let after = common(map(one), map(other));
                let is_private = |ip: IpAddr| {
                    matches!(ip, IpAddr::V4(v4) if v4.is_private())
                        || matches!(ip, IpAddr::V6(v6) if v6.is_unique_local())
                };
                let least = if a.is_ipv4() { 16 } else { 48 };
                if is_private(a) && is_private(b) || a.is_ipv4() == b.is_ipv4() && before >= least {
                    assert_eq!(after, before, "{one} {other}");
                }
            }
        }
    }

    #[test]
    fn networks_hold_what_they_held() {
        let mut addresses = addresses();
        for (network, address) in [
            ("10.244.0.0/16", "10.244.7.9"),
            ("203.0.113.0/24", "203.0.113.77"),
            ("fd00:1::/64", "fd00:1::7"),
            ("10.96.0.10/32", "10.96.0.10"),
        ] {
            let mapped: IpNetwork = addresses.replace(network).parse().unwrap();
            assert_eq!(mapped.network(), mapped.ip(), "{network}");
            assert!(mapped.contains(addresses.replace(address).parse().unwrap()), "{network} {address}");
        }
        for public in ["203.0.113.77", "2a00:1450::1", "198.51.100.1"] {
            let mapped: IpAddr = addresses.replace(public).parse().unwrap();
            let place: IpNetwork =
                if mapped.is_ipv4() { "240.0.0.0/4" } else { "2001:db8::/32" }.parse().unwrap();
            assert!(place.contains(mapped), "{public} {mapped}");
        }
    }
}
