//! The key of a cached answer.

use std::{
    borrow::Borrow,
    hash::{BuildHasher as _, RandomState},
    sync::LazyLock,
};

use hickory_server::proto::op::Query;

use crate::resolve::reply::QueryFlags;

/// The lower-case name, qtype, class, DO and CD, as bytes, and a hash of further options.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct CacheKey(Box<[u8]>);

/// A key for lookups, on the stack.
pub(super) struct KeyBuffer {
    bytes: [u8; MAX_LEN],
    length: usize,
}

/// A name of 255 octets, type, class, flags and the hash.
const MAX_LEN: usize = 255 + 2 + 2 + 1 + 8;

/// Keyed: clients choose the data of options, and could make them collide.
static OPTIONS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl CacheKey {
    pub(crate) fn new(question: &Query, flags: &QueryFlags) -> Self {
        Self(KeyBuffer::new(question, flags).bytes().into())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn size(&self) -> usize {
        size_of::<Self>() + self.0.len()
    }
}

impl Borrow<[u8]> for CacheKey {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl KeyBuffer {
    pub(super) fn new(question: &Query, flags: &QueryFlags) -> Self {
        let mut buffer = Self { bytes: [0; MAX_LEN], length: 0 };
        for label in question.name().iter() {
            buffer.push(&[u8::try_from(label.len()).unwrap_or(u8::MAX)]);
            buffer.push(label);
        }
        buffer.bytes[..buffer.length].make_ascii_lowercase();
        buffer.push_tail(question.query_type().into(), question.query_class().into(), flags);
        buffer
    }

    /// The key of a lower-case name in wire format.
    pub(super) fn of_octets(name: &[u8], qtype: u16, flags: &QueryFlags) -> Self {
        const IN: u16 = 1;
        let mut buffer = Self { bytes: [0; MAX_LEN], length: 0 };
        buffer.push(name.strip_suffix(&[0]).unwrap_or(name));
        buffer.push_tail(qtype, IN, flags);
        buffer
    }

    fn push_tail(&mut self, qtype: u16, class: u16, flags: &QueryFlags) {
        self.push(&qtype.to_be_bytes());
        self.push(&class.to_be_bytes());
        self.push(&[u8::from(flags.dnssec_ok) << 1 | u8::from(flags.checking_disabled)]);
        if flags.options.iter().next().is_some() {
            self.push(&OPTIONS.hash_one(&flags.options).to_be_bytes());
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Appends bytes. They always fit: a parsed name has at most 255 octets.
    fn push(&mut self, bytes: &[u8]) {
        let end = (self.length + bytes.len()).min(MAX_LEN);
        self.bytes[self.length..end].copy_from_slice(&bytes[..end - self.length]);
        self.length = end;
    }
}

#[cfg(test)]
mod tests {
    use hickory_server::proto::rr::{DNSClass, Name, RecordType};

    use super::*;

    #[test]
    fn keys_ignore_case_and_ad_only() {
        let key = |name: &str, change: &dyn Fn(&mut Query, &mut QueryFlags)| {
            let mut question = Query::query(Name::from_ascii(name).unwrap(), RecordType::A);
            let mut flags = QueryFlags::default();
            change(&mut question, &mut flags);
            CacheKey::new(&question, &flags)
        };
        let plain = key("www.example.org.", &|_, _| ());
        assert_eq!(plain, key("WWW.Example.ORG.", &|_, _| ()));
        assert_eq!(plain, key("www.example.org.", &|_, flags| flags.authentic_data = true));
        assert_ne!(plain, key("www.example.net.", &|_, _| ()));
        assert_ne!(plain, key("wwwexample.org.", &|_, _| ()));
        assert_ne!(plain, key("www.example.org.", &|question, _| question.query_type = RecordType::AAAA));
        assert_ne!(plain, key("www.example.org.", &|question, _| question.query_class = DNSClass::CH));
        assert_ne!(plain, key("www.example.org.", &|_, flags| flags.dnssec_ok = true));
        assert_ne!(plain, key("www.example.org.", &|_, flags| flags.checking_disabled = true));
        assert_eq!(plain, key("www.example.org.", &|_, flags| flags.options.set(8, None)));
        let option = |data: u8| key("www.example.org.", &|_, flags| flags.options.set(8, Some(vec![data])));
        assert!(option(1) == option(1) && option(1) != option(2) && option(1) != plain);
        let longest = [["a"; 63].join("").as_str(); 3].join(".") + "." + &"b".repeat(61) + ".";
        assert_eq!(key(&longest, &|_, _| ()).0.len(), MAX_LEN - 1 - 8, "{longest}");
    }
}
