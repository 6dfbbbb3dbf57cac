//! `chaos [VERSION] [AUTHORS...]`: TXT records of class CH about the server (RFC 4892).

use hickory_server::proto::{
    op::{Query, ResponseCode},
    rr::{DNSClass, RData, Record, RecordType, rdata::TXT},
};

use super::directive::{Directive, hostname};
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement},
    observe::metrics::Plugin,
    resolve::reply::Reply,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chaos {
    version: String,
    authors: Vec<String>,
}

/// The longest string of a TXT record.
const MAX_STRING: usize = 255;

impl Chaos {
    /// Returns `None` for another class, type or name.
    pub(crate) fn answer(&self, question: &Query) -> Option<Reply> {
        if question.query_class() != DNSClass::CH || question.query_type() != RecordType::TXT {
            return None;
        }
        let texts = match question.name().to_ascii().to_lowercase().as_str() {
            "version.bind." | "version.server." => vec![self.version.clone()],
            "hostname.bind." | "id.server." => vec![hostname()],
            "authors.bind." => self.authors.clone(),
            _ => return None,
        };
        let record = |text: &String| {
            let octets = text.as_bytes();
            let text = TXT::from_bytes(vec![&octets[..octets.len().min(MAX_STRING)]]);
            let mut record = Record::from_rdata(question.name().clone(), 0, RData::TXT(text));
            record.dns_class = DNSClass::CH;
            record
        };
        let answers = texts.iter().map(record).collect();
        let reply = Reply::from_plugin(ResponseCode::NoError, Plugin::Chaos);
        Some(Reply { answers, authoritative: false, ..reply })
    }
}

impl Directive for Chaos {
    const NAME: &'static str = "chaos";
    const SUMMARY: &'static str = "version, host name and authors as TXT records of class CH; without a version, that of \
                                   this server, and no authors";
    type Setting = Option<Self>;

    fn read(setting: &mut Option<Self>, statement: &Statement, _zones: &Zones) -> Result<(), CorefileError> {
        statement.no_body()?;
        let mut words = statement.words.iter().map(|word| word.text.clone());
        let version =
            words.next().unwrap_or_else(|| concat!("portreeve-", env!("CARGO_PKG_VERSION")).to_owned());
        *setting = Some(Self { version, authors: words.collect() });
        Ok(())
    }

    fn is_enabled(setting: &Option<Self>) -> bool {
        setting.is_some()
    }
}
