//! Addresses in Kubernetes objects: lenient parsing, canonical values.
//!
//! The parser of addresses is the one of DNS ([`dns::address`]), so that both serve the same ones. As it, CIDRs with
//! host bits are accepted.

use std::{fmt, net::IpAddr, str::FromStr};

use dns::address::parse_decimal;
pub use dns::address::parse_ip;
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamily {
    V4,
    V6,
}

impl IpFamily {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Declares the protocols, one per line: the name in the Kubernetes API and the IANA number.
macro_rules! protocols {
    ($($protocol:ident = $name:literal, $number:literal;)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Protocol {
            $($protocol,)+
        }

        impl Protocol {
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$protocol => $name,)+
                }
            }

            fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$protocol),)+
                    _ => None,
                }
            }

            /// The IANA protocol number.
            pub const fn number(self) -> u8 {
                match self {
                    $(Self::$protocol => $number,)+
                }
            }

            /// Returns `None` if no protocol has the number.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$protocol),)+
                    _ => None,
                }
            }
        }
    };
}

protocols! {
    Tcp = "TCP", 6;
    Udp = "UDP", 17;
    Sctp = "SCTP", 132;
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not TCP, UDP or SCTP")]
pub struct UnknownProtocol(pub String);

/// Accepts the spelling of the Kubernetes API only. The command line converts to upper case before.
impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_name(text).ok_or_else(|| UnknownProtocol(text.to_owned()))
    }
}

/// One value per address family. The families share no state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PerFamily<T> {
    pub v4: T,
    pub v6: T,
}

impl<T> PerFamily<T> {
    pub fn get(&self, family: IpFamily) -> &T {
        match family {
            IpFamily::V4 => &self.v4,
            IpFamily::V6 => &self.v6,
        }
    }

    pub fn get_mut(&mut self, family: IpFamily) -> &mut T {
        match family {
            IpFamily::V4 => &mut self.v4,
            IpFamily::V6 => &mut self.v6,
        }
    }
}

impl PerFamily<Option<IpNetwork>> {
    /// The first network of each family; kube-proxy ignores the others.
    pub fn first_of(networks: impl IntoIterator<Item = IpNetwork>) -> Self {
        let mut firsts = Self::default();
        for network in networks {
            firsts.get_mut(IpFamily::of(network.ip())).get_or_insert(network);
        }
        firsts
    }
}

/// Parses a CIDR and masks off its host bits.
pub fn parse_network(text: &str) -> Option<IpNetwork> {
    let (address, length) = text.split_once('/')?;
    let length = parse_decimal(length)?;
    match parse_ip(address)? {
        IpAddr::V4(v4) => {
            // The prefix length of an IPv4-mapped network includes the 96 bits before the IPv4 address.
            let length = if address.contains(':') { length.checked_sub(96)? } else { length };
            let network = Ipv4Network::new(v4, u8::try_from(length).ok()?).ok()?;
            Some(IpNetwork::V4(Ipv4Network::new(network.network(), network.prefix()).ok()?))
        }
        IpAddr::V6(v6) => {
            let network = Ipv6Network::new(v6, u8::try_from(length).ok()?).ok()?;
            Some(IpNetwork::V6(Ipv6Network::new(network.network(), network.prefix()).ok()?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_lose_their_host_bits() {
        for (text, want) in [
            ("203.0.113.0/24", Some("203.0.113.0/24")),
            ("203.0.113.77/24", Some("203.0.113.0/24")),
            ("203.0.113.000/025", Some("203.0.113.0/25")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("10.1.2.3/32", Some("10.1.2.3/32")),
            ("::ffff:10.1.2.3/120", Some("10.1.2.0/24")),
            ("::ffff:10.1.2.3/64", None),
            ("2001:db8::1/64", Some("2001:db8::/64")),
            ("::/0", Some("::/0")),
            ("10.0.0.0/33", None),
            ("2001:db8::/129", None),
            ("10.0.0.1", None),
            ("10.0.0.0/", None),
            ("10.0.0.0/-1", None),
            ("10.0.0.0/8/8", None),
            (" 10.0.0.0/8", None),
            ("/8", None),
        ] {
            let got = parse_network(text).map(|network| network.to_string());
            assert_eq!(got.as_deref(), want, "{text:?}");
        }
    }
}
