//! What makes two questions the same.

use std::borrow::Borrow;

use hickory_server::proto::op::Query;

use crate::resolve::reply::Wants;

/// The name in lower case, type, class, DO and CD, as bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key(Box<[u8]>);

/// A key that is only looked for.
pub(super) struct Buffer {
    bytes: [u8; MOST],
    length: usize,
}

/// A name of 255 octets, type, class and flags.
const MOST: usize = 255 + 2 + 2 + 1;

impl Key {
    pub(crate) fn new(question: &Query, wants: Wants) -> Self {
        Self(Buffer::new(question, wants).bytes().into())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn size(&self) -> usize {
        size_of::<Self>() + self.0.len()
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl Buffer {
    pub(super) fn new(question: &Query, wants: Wants) -> Self {
        let mut buffer = Self { bytes: [0; MOST], length: 0 };
        for label in question.name().iter() {
            buffer.push(&[u8::try_from(label.len()).unwrap_or(u8::MAX)]);
            buffer.push(label);
        }
        buffer.bytes[..buffer.length].make_ascii_lowercase();
        buffer.push(&u16::from(question.query_type()).to_be_bytes());
        buffer.push(&u16::from(question.query_class()).to_be_bytes());
        buffer.push(&[u8::from(wants.dnssec_ok) << 1 | u8::from(wants.checking_disabled)]);
        buffer
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Names that were parsed have no more than 255 octets, so everything fits.
    fn push(&mut self, bytes: &[u8]) {
        let end = (self.length + bytes.len()).min(MOST);
        self.bytes[self.length..end].copy_from_slice(&bytes[..end - self.length]);
        self.length = end;
    }
}

#[cfg(test)]
mod tests {
    use hickory_server::proto::rr::{DNSClass, Name, RecordType};

    use super::*;

    #[test]
    fn questions_are_the_same_whatever_the_letters() {
        let key = |name: &str, change: &dyn Fn(&mut Query, &mut Wants)| {
            let mut question = Query::query(Name::from_ascii(name).unwrap(), RecordType::A);
            let mut wants = Wants::default();
            change(&mut question, &mut wants);
            Key::new(&question, wants)
        };
        let plain = key("www.example.org.", &|_, _| ());
        assert_eq!(plain, key("WWW.Example.ORG.", &|_, _| ()));
        assert_eq!(plain, key("www.example.org.", &|_, wants| wants.authentic_data = true));
        assert_ne!(plain, key("www.example.net.", &|_, _| ()));
        assert_ne!(plain, key("wwwexample.org.", &|_, _| ()));
        assert_ne!(plain, key("www.example.org.", &|question, _| question.query_type = RecordType::AAAA));
        assert_ne!(plain, key("www.example.org.", &|question, _| question.query_class = DNSClass::CH));
        assert_ne!(plain, key("www.example.org.", &|_, wants| wants.dnssec_ok = true));
        assert_ne!(plain, key("www.example.org.", &|_, wants| wants.checking_disabled = true));
        let longest = [["a"; 63].join("").as_str(); 3].join(".") + "." + &"b".repeat(61) + ".";
        assert_eq!(key(&longest, &|_, _| ()).0.len(), MOST - 1, "{longest}");
    }
}
