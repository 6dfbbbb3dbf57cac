//! The kind of a name, from its labels alone, without a lookup.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Name, QueryName};

/// The kind of a name in the cluster domain, as in the specification of DNS-based service discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind<'q> {
    Apex,
    DnsVersion,
    /// `dns`, the empty non-terminal above the name of the name server.
    Dns,
    NameServer,
    Services,
    Pods,
    ServiceNamespace(&'q [u8]),
    PodNamespace(&'q [u8]),
    Service(ServiceName<'q>),
    /// One label below a Service: an endpoint, or the protocol of a named port.
    BelowService {
        service: ServiceName<'q>,
        label: &'q [u8],
    },
    /// `_port._protocol`, with the underscores.
    Port {
        service: ServiceName<'q>,
        port: &'q [u8],
        protocol: &'q [u8],
    },
    /// `_zone`, below it the choice, and below that the topology zone: labels in wire format, as a zone may contain
    /// dots.
    Zonal {
        service: ServiceName<'q>,
        choice: Option<&'q [u8]>,
        zone: Option<&'q [u8]>,
    },
    Pod {
        namespace: &'q [u8],
        address: &'q [u8],
    },
    /// A name that cannot exist.
    Invalid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceName<'q> {
    pub namespace: &'q [u8],
    pub name: &'q [u8],
}

/// Classifies a name. `zone_labels`: the number of labels of the cluster domain.
pub fn classify(name: &QueryName, zone_labels: usize) -> NameKind<'_> {
    let own = name.label_count().saturating_sub(zone_labels);
    // Counted from the cluster domain downwards.
    let label = |n: usize| name.label(own - 1 - n);
    if own == 0 {
        return NameKind::Apex;
    }
    let service = (own >= 3).then(|| ServiceName { namespace: label(1), name: label(2) });
    match (label(0), own, service) {
        (b"dns-version", 1, _) => NameKind::DnsVersion,
        (b"dns", 1, _) => NameKind::Dns,
        (b"dns", 2, _) if label(1) == b"ns" => NameKind::NameServer,
        (b"svc", 1, _) => NameKind::Services,
        (b"pod", 1, _) => NameKind::Pods,
        (b"svc", 2, _) => NameKind::ServiceNamespace(label(1)),
        (b"pod", 2, _) => NameKind::PodNamespace(label(1)),
        (b"svc", 3, Some(service)) => NameKind::Service(service),
        (b"svc", 4.., Some(service)) if label(3) == b"_zone" => {
            let (choice, zone) = ((own > 4).then(|| label(4)), (own > 5).then(|| name.first(own - 5)));
            NameKind::Zonal { service, choice, zone }
        }
        (b"svc", 4, Some(service)) => NameKind::BelowService { service, label: label(3) },
        (b"svc", 5, Some(service)) => NameKind::Port { service, protocol: label(3), port: label(4) },
        (b"pod", 3, _) => NameKind::Pod { namespace: label(1), address: label(2) },
        _ => NameKind::Invalid,
    }
}

/// The kind of a name in a reverse zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reverse {
    Address(IpAddr),
    /// The first and the last address below the name.
    Network(IpAddr, IpAddr),
    /// No address can be below the name.
    Malformed,
}

pub fn is_reverse(zone: &Name) -> bool {
    let zone = zone.to_query();
    let parents = [["in-addr", "arpa"], ["ip6", "arpa"]];
    parents
        .into_iter()
        .any(|labels| Name::from_labels(labels.map(str::as_bytes)).is_some_and(|parent| zone.is_in(&parent)))
}

pub fn reverse(name: &QueryName) -> Reverse {
    let count = name.label_count();
    if count < 2 || name.label(count - 1) != b"arpa" {
        return Reverse::Malformed;
    }
    // From the least specific label to the most specific.
    let labels = (0..count - 2).rev().map(|n| name.label(n));
    match name.label(count - 2) {
        b"in-addr" if count - 2 <= 4 => v4(labels, count - 2),
        b"ip6" if count - 2 <= 32 => v6(labels, count - 2),
        _ => Reverse::Malformed,
    }
}

fn v4<'q>(labels: impl Iterator<Item = &'q [u8]>, count: usize) -> Reverse {
    let (mut first, mut last) = ([0; 4], [255; 4]);
    for (n, label) in labels.enumerate() {
        let Some(octet) = decimal(label) else { return Reverse::Malformed };
        (first[n], last[n]) = (octet, octet);
    }
    range(Ipv4Addr::from(first).into(), Ipv4Addr::from(last).into(), count == 4)
}

fn v6<'q>(labels: impl Iterator<Item = &'q [u8]>, count: usize) -> Reverse {
    let (mut first, mut last) = (0_u128, u128::MAX);
    for (n, label) in labels.enumerate() {
        let Some(nibble) = hexadecimal(label) else { return Reverse::Malformed };
        let shift = 124 - 4 * n;
        first |= u128::from(nibble) << shift;
        last &= !(0xf << shift) | (u128::from(nibble) << shift);
    }
    range(Ipv6Addr::from(first).into(), Ipv6Addr::from(last).into(), count == 32)
}

fn range(first: IpAddr, last: IpAddr, is_whole: bool) -> Reverse {
    if is_whole { Reverse::Address(first) } else { Reverse::Network(first, last) }
}

/// A number without leading zeros: `01` is another label than `1`.
fn decimal(label: &[u8]) -> Option<u8> {
    let is_plain = matches!(label, [b'0'] | [b'1'..=b'9', ..]) && label.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(label).ok().filter(|_| is_plain)?.parse().ok()
}

fn hexadecimal(label: &[u8]) -> Option<u8> {
    let [digit] = label else { return None };
    char::from(*digit).to_digit(16).and_then(|nibble| u8::try_from(nibble).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> QueryName {
        Name::from_text(text).unwrap().to_query()
    }

    #[test]
    fn kinds_follow_from_labels() {
        let service = ServiceName { namespace: b"shop", name: b"web" };
        for (text, want) in [
            ("", NameKind::Apex),
            ("dns-version.", NameKind::DnsVersion),
            ("dns.", NameKind::Dns),
            ("ns.dns.", NameKind::NameServer),
            ("a.ns.dns.", NameKind::Invalid),
            ("svc.", NameKind::Services),
            ("pod.", NameKind::Pods),
            ("other.", NameKind::Invalid),
            ("shop.other.", NameKind::Invalid),
            ("Shop.svc.", NameKind::ServiceNamespace(b"shop")),
            ("shop.pod.", NameKind::PodNamespace(b"shop")),
            ("web.shop.svc.", NameKind::Service(service)),
            ("web-0.web.shop.svc.", NameKind::BelowService { service, label: b"web-0" }),
            ("_http._tcp.web.shop.svc.", NameKind::Port { service, port: b"_http", protocol: b"_tcp" }),
            ("a._http._tcp.web.shop.svc.", NameKind::Invalid),
            ("_zone.web.shop.svc.", NameKind::Zonal { service, choice: None, zone: None }),
            (
                "a.pin._zone.web.shop.svc.",
                NameKind::Zonal { service, choice: Some(b"pin"), zone: Some(b"\x01a") },
            ),
            (
                "B.a.pin._zone.web.shop.svc.",
                NameKind::Zonal { service, choice: Some(b"pin"), zone: Some(b"\x01b\x01a") },
            ),
            ("10-0-0-1.shop.pod.", NameKind::Pod { namespace: b"shop", address: b"10-0-0-1" }),
            ("a.10-0-0-1.shop.pod.", NameKind::Invalid),
        ] {
            assert_eq!(classify(&query(&format!("{text}cluster.local")), 2), want, "{text}");
        }
    }

    #[test]
    fn reverse_names_are_addresses_or_networks() {
        let network =
            |first: &str, last: &str| Reverse::Network(first.parse().unwrap(), last.parse().unwrap());
        for (text, want) in [
            ("1.0.96.10.in-addr.arpa", Reverse::Address("10.96.0.1".parse().unwrap())),
            ("96.10.in-addr.arpa", network("10.96.0.0", "10.96.255.255")),
            ("in-addr.arpa", network("0.0.0.0", "255.255.255.255")),
            ("01.0.96.10.in-addr.arpa", Reverse::Malformed),
            ("256.in-addr.arpa", Reverse::Malformed),
            ("x.in-addr.arpa", Reverse::Malformed),
            ("1.1.0.96.10.in-addr.arpa", Reverse::Malformed),
            ("8.b.d.0.1.0.0.2.ip6.arpa", network("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff")),
            ("10.ip6.arpa", Reverse::Malformed),
            ("arpa", Reverse::Malformed),
            ("example.org", Reverse::Malformed),
            (
                "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.B.d.0.1.0.0.2.ip6.arpa",
                Reverse::Address("2001:db8::1".parse().unwrap()),
            ),
        ] {
            assert_eq!(reverse(&query(text)), want, "{text}");
        }
    }
}
