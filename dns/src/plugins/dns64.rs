//! `dns64 [PREFIX]`: AAAA records from A records, for clients that reach IPv4 over NAT64 (RFC 6147).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_server::proto::{
    op::{Query, ResponseCode},
    rr::{
        RData, Record, RecordType,
        rdata::{A, AAAA},
    },
};
use ipnetwork::Ipv6Network;

use super::directive::Directive;
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement, Word},
    observe::metrics::Plugin,
    resolve::reply::Reply,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dns64 {
    prefix: Ipv6Network,
    /// Also if there are AAAA records (against RFC 6147, section 5.1.1).
    translate_all: bool,
    /// Also for clients over IPv4.
    allow_ipv4: bool,
}

/// The well-known prefix (RFC 6052, section 2.1).
const WELL_KNOWN: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);
const WELL_KNOWN_LENGTH: u8 = 96;
/// The highest TTL without a SOA record in the answer for AAAA (RFC 6147, section 5.1.7).
const MAX_TTL: u32 = 600;

impl Directive for Dns64 {
    const NAME: &'static str = "dns64";
    const SUMMARY: &'static str = "AAAA records from A records (RFC 6147)";
    const OPTIONS: &'static [&'static str] = &["prefix", "translate_all", "allow_ipv4"];
    type Setting = Option<Self>;

    fn read(setting: &mut Option<Self>, statement: &Statement, _zones: &Zones) -> Result<(), CorefileError> {
        let prefix = match statement.words.as_slice() {
            [] => Ipv6Network::new(WELL_KNOWN, WELL_KNOWN_LENGTH)
                .map_err(|error| statement.refuse(error.to_string()))?,
            [word] => prefix(word)?,
            [_, ..] => return Err(statement.misused("dns64 [PREFIX]")),
        };
        let mut dns64 = Self { prefix, translate_all: false, allow_ipv4: false };
        for option in &statement.body {
            option.no_body()?;
            match option.name.text.as_str() {
                "prefix" => dns64.prefix = self::prefix(&option.exactly::<1>("prefix PREFIX")?[0])?,
                "translate_all" => {
                    option.no_words()?;
                    dns64.translate_all = true;
                }
                "allow_ipv4" => {
                    option.no_words()?;
                    dns64.allow_ipv4 = true;
                }
                _ => return Err(statement.unknown_option(option)),
            }
        }
        *setting = Some(dns64);
        Ok(())
    }

    fn is_enabled(setting: &Option<Self>) -> bool {
        setting.is_some()
    }
}

fn prefix(word: &Word) -> Result<Ipv6Network, CorefileError> {
    let network: Option<Ipv6Network> = word.text.parse().ok().filter(|_| word.text.contains('/'));
    let valid = network.filter(|network| {
        let length = network.prefix();
        // RFC 6052, section 2.2; as in CoreDNS, other multiples of 8 are taken, too.
        length % 8 == 0 && (32..=96).contains(&length)
    });
    valid.ok_or_else(|| {
        word.refuse(format!("`{}` is no prefix of 32 to 96 bits, such as `64:ff9b::/96`", word.text))
    })
}

impl Dns64 {
    /// Whether the answer of a question is to be examined.
    pub(crate) fn concerns(&self, question: &Query, client: IpAddr) -> bool {
        question.query_type() == RecordType::AAAA && (self.allow_ipv4 || client.is_ipv6())
    }

    /// Whether the A records are needed, with this answer for AAAA: without AAAA records, and unless the name is
    /// missing.
    pub(crate) fn replaces(&self, answer: &Reply) -> bool {
        let has_addresses = answer.answers.iter().any(|record| record.record_type() == RecordType::AAAA);
        answer.rcode != ResponseCode::NXDomain && (self.translate_all || !has_addresses)
    }

    /// The answer for AAAA, from `original`, which has none, and from that for A.
    pub(crate) fn synthesized(&self, original: &Reply, of_a: Reply) -> Reply {
        let mut authorities = original.authorities.iter();
        let soa = authorities.rfind(|record| record.record_type() == RecordType::SOA);
        let max_ttl = soa.map_or(MAX_TTL, |soa| soa.ttl);
        let translated = |record: Record| {
            let RData::A(A(address)) = record.data else { return record };
            let data = RData::AAAA(AAAA(self.translated(address)));
            Record::from_rdata(record.name, record.ttl.min(max_ttl), data)
        };
        let answers = of_a.answers.into_iter().map(translated).collect();
        Reply { answers, authentic_data: false, plugin: Plugin::Dns64, ..of_a }
    }

    /// The address in the prefix (RFC 6052, section 2.2): octet 8 is zero.
    fn translated(&self, address: Ipv4Addr) -> Ipv6Addr {
        let mut octets = self.prefix.network().octets();
        let start = usize::from(self.prefix.prefix() / 8);
        let places = (start..octets.len()).filter(|place| *place != 8);
        for (place, octet) in places.zip(address.octets()) {
            octets[place] = octet;
        }
        octets.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_put_into_the_prefix() {
        // RFC 6052, section 2.4.
        for (prefix, want) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
            ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
        ] {
            let dns64 = Dns64 { prefix: prefix.parse().unwrap(), translate_all: false, allow_ipv4: false };
            let want: Ipv6Addr = want.parse().unwrap();
            assert_eq!(dns64.translated(Ipv4Addr::new(192, 0, 2, 33)), want, "{prefix}");
        }
    }
}
