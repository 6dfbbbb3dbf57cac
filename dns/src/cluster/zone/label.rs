//! The first label of an endpoint's name: its hostname, or its address with dashes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The label of an endpoint below its Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Label<'s> {
    Named(&'s str),
    Dashed(IpAddr),
}

impl Label<'_> {
    /// `scratch` is the buffer for a dashed address.
    pub fn octets<'a>(&'a self, scratch: &'a mut Dashed) -> &'a [u8] {
        match self {
            Self::Named(name) => name.as_bytes(),
            Self::Dashed(address) => {
                *scratch = dashed(*address);
                scratch.as_bytes()
            }
        }
    }
}

/// An address as a label, on the stack.
#[derive(Clone, Copy, Debug)]
pub struct Dashed {
    octets: [u8; 48],
    len: u8,
}

impl Dashed {
    pub fn as_bytes(&self) -> &[u8] {
        &self.octets[..usize::from(self.len)]
    }

    fn push(&mut self, octet: u8) {
        if let Some(slot) = self.octets.get_mut(usize::from(self.len)) {
            *slot = octet;
            self.len += 1;
        }
    }

    /// Writes a number without leading zeros.
    fn push_number(&mut self, number: u8) {
        for (digit, least) in [(number / 100, 100), (number / 10 % 10, 10), (number % 10, 0)] {
            if number >= least {
                self.push(b'0' + digit);
            }
        }
    }
}

impl Default for Dashed {
    fn default() -> Self {
        Self { octets: [0; 48], len: 0 }
    }
}

impl std::io::Write for Dashed {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        text.iter().for_each(|octet| self.push(if matches!(octet, b'.' | b':') { b'-' } else { *octet }));
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The address with dashes. A label must not end in a dash, so `::` at the end is followed by a zero.
pub fn dashed(address: IpAddr) -> Dashed {
    let mut label = Dashed::default();
    match address {
        // Large answers contain many of these, and number formatting would take most of their time.
        IpAddr::V4(address) => {
            for (n, octet) in address.octets().into_iter().enumerate() {
                if n > 0 {
                    label.push(b'-');
                }
                label.push_number(octet);
            }
        }
        IpAddr::V6(address) => {
            // The longest address has 45 characters, and writing into memory does not fail.
            let _ = std::io::Write::write_fmt(&mut label, format_args!("{address}"));
            if label.as_bytes().last() == Some(&b'-') {
                label.push(b'0');
            }
        }
    }
    label
}

/// The address of a dashed label, in any spelling. Exactly three single dashes mean IPv4.
pub fn parse_dashed(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label).ok().filter(|text| text.len() < 48)?;
    if text.matches('-').count() == 3 && !text.contains("--") {
        text.replace('-', ".").parse::<Ipv4Addr>().ok().map(Into::into)
    } else {
        text.replace('-', ":").parse::<Ipv6Addr>().ok().map(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_labels() {
        for (text, want) in [
            ("10.1.0.5", "10-1-0-5"),
            ("255.100.99.0", "255-100-99-0"),
            ("1.20.202.210", "1-20-202-210"),
            ("fd00:1::a", "fd00-1--a"),
            ("fd00:1::", "fd00-1--0"),
            ("::", "--0"),
            ("1111:2222:3333:4444:5555:6666:7777:8888", "1111-2222-3333-4444-5555-6666-7777-8888"),
        ] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(dashed(address).as_bytes(), want.as_bytes(), "{text}");
            assert_eq!(parse_dashed(want.as_bytes()), Some(address), "{want}");
        }
    }

    #[test]
    fn labels_that_are_no_address() {
        for text in ["blah", "300-1-1-1", "10-0-0-01", "10-0-0", "10-0-0-1-1", "", "-", "x--1"] {
            assert_eq!(parse_dashed(text.as_bytes()), None, "{text}");
        }
    }
}
