//! Names in wire format, and the kinds of names in the cluster domain.

use hickory_server::proto::rr;

mod classify;

pub use classify::{NameKind, Reverse, ServiceName, classify, is_reverse, reverse};

/// The maximum length of a name, with length octets and the root (RFC 1035, section 2.3.4).
const MAX_OCTETS: usize = 255;

/// Parses a domain name; lower-case and absolute.
pub fn domain(text: &str) -> Option<rr::LowerName> {
    let mut name = Name::from_text(text)?.to_hickory();
    name.set_fqdn(true);
    Some(name.into())
}

/// A stored name, in uncompressed wire format.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    pub fn root() -> Self {
        Self([0].into())
    }

    /// Returns `None` for a label that is empty or above 63 octets, or a name above 255 octets.
    pub fn from_text(text: &str) -> Option<Self> {
        let labels = text.trim_end_matches('.').split('.').map(str::as_bytes);
        Self::from_labels(labels)
    }

    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut octets = Vec::new();
        for label in labels {
            octets.push(u8::try_from(label.len()).ok().filter(|len| (1..=63).contains(len))?);
            octets.extend_from_slice(label);
        }
        octets.push(0);
        (octets.len() <= MAX_OCTETS).then(|| Self(octets.into()))
    }

    pub fn octets(&self) -> &[u8] {
        &self.0
    }

    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        labels(&self.0)
    }

    /// The name as a queried one.
    pub fn to_query(&self) -> QueryName {
        // Every stored name is a valid query name.
        QueryName::parse(&self.0).unwrap_or_default()
    }

    pub fn to_hickory(&self) -> rr::Name {
        rr::Name::from_labels(self.labels()).unwrap_or_default()
    }
}

impl From<&rr::Name> for Name {
    fn from(name: &rr::Name) -> Self {
        Self::from_labels(name.iter()).unwrap_or_else(Self::root)
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for label in self.labels() {
            write!(f, "{}.", String::from_utf8_lossy(label))?;
        }
        if self.0.len() == 1 { f.write_str(".") } else { Ok(()) }
    }
}

fn labels(octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = octets;
    std::iter::from_fn(move || {
        let (len, after) = rest.split_first().filter(|(len, _)| **len != 0)?;
        let (label, following) = after.split_at_checked(usize::from(*len))?;
        rest = following;
        Some(label)
    })
}

/// A queried name, lower-case, with the offsets of its labels. It is on the stack: parsing does not allocate.
#[derive(Clone)]
pub struct QueryName {
    octets: [u8; MAX_OCTETS],
    len: u8,
    /// The offset of each label's length octet.
    starts: [u8; MAX_OCTETS / 2 + 1],
    labels: u8,
}

impl Default for QueryName {
    /// The root.
    fn default() -> Self {
        Self { octets: [0; MAX_OCTETS], len: 1, starts: [0; MAX_OCTETS / 2 + 1], labels: 0 }
    }
}

impl QueryName {
    /// Parses an uncompressed name at the start of `octets`.
    pub fn parse(octets: &[u8]) -> Option<Self> {
        let mut name = Self::default();
        let mut at = 0;
        loop {
            let len = usize::from(*octets.get(at)?);
            if len == 0 {
                break;
            }
            let end = at + 1 + len;
            if len > 63 || end >= MAX_OCTETS {
                return None;
            }
            let label = octets.get(at + 1..end)?;
            name.octets[at] = octets[at];
            for (lower, octet) in name.octets[at + 1..end].iter_mut().zip(label) {
                *lower = octet.to_ascii_lowercase();
            }
            name.starts[usize::from(name.labels)] = u8::try_from(at).ok()?;
            name.labels += 1;
            at = end;
        }
        name.len = u8::try_from(at + 1).ok()?;
        Some(name)
    }

    /// The wire format, with the root's zero.
    pub fn octets(&self) -> &[u8] {
        &self.octets[..usize::from(self.len)]
    }

    pub fn label_count(&self) -> usize {
        usize::from(self.labels)
    }

    pub fn label(&self, n: usize) -> &[u8] {
        let Some(start) = self.starts[..self.label_count()].get(n) else { return &[] };
        let start = usize::from(*start);
        let len = usize::from(self.octets[start]);
        &self.octets[start + 1..=start + len]
    }

    /// The wire format without the first `n` labels.
    pub fn below(&self, n: usize) -> &[u8] {
        let last = self.len.saturating_sub(1);
        let start = self.starts[..self.label_count()].get(n).copied().unwrap_or(last);
        &self.octets[usize::from(start)..usize::from(self.len)]
    }

    /// The wire format of the first `n` labels, without a final zero.
    pub fn first(&self, n: usize) -> &[u8] {
        &self.octets[..usize::from(self.len) - self.below(n).len()]
    }

    /// Whether the name is `zone` or below it, by labels.
    pub fn is_in(&self, zone: &Name) -> bool {
        let labels = zone.labels().count();
        self.label_count() >= labels && self.below(self.label_count() - labels) == zone.octets()
    }
}

impl From<&rr::Name> for QueryName {
    fn from(name: &rr::Name) -> Self {
        Name::from(name).to_query()
    }
}

impl std::fmt::Debug for QueryName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for label in labels(self.octets()) {
            write!(f, "{}.", String::from_utf8_lossy(label))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> QueryName {
        Name::from_text(text).unwrap().to_query()
    }

    #[test]
    fn names_are_cut_into_lower_case_labels() {
        let name = query("WWW.Example.org.");
        assert_eq!(name.label_count(), 3);
        assert_eq!(name.label(0), b"www");
        assert_eq!(name.label(2), b"org");
        assert_eq!(name.label(3), b"");
        assert_eq!(name.below(1), b"\x07example\x03org\0");
        assert_eq!(name.below(9), b"\0");
        assert_eq!(name.first(1), b"\x03www");
        assert_eq!(name.first(0), b"");
    }

    #[test]
    fn hostile_names_are_refused() {
        let too_long = [[63; 64].as_slice(); 4].concat();
        for (name, octets) in [
            ("nothing", &b""[..]),
            ("no end", b"\x03www"),
            ("a label that is cut", b"\x05www"),
            ("a pointer", b"\xc0\x0c"),
            ("a long label", b"\x40aaaa"),
            ("256 octets", &too_long),
        ] {
            assert!(QueryName::parse(octets).is_none(), "{name}");
        }
        assert!(QueryName::parse(b"\0").is_some_and(|root| root.label_count() == 0));
    }

    #[test]
    fn a_zone_is_matched_by_label() {
        let zone = Name::from_text("cluster.local").unwrap();
        for (text, want) in [
            ("cluster.local", true),
            ("a.CLUSTER.local", true),
            ("notcluster.local", false),
            ("x.notcluster.local", false),
            ("local", false),
        ] {
            assert_eq!(query(text).is_in(&zone), want, "{text}");
        }
        assert!(query("a.b").is_in(&Name::root()));
    }
}
