//! Answers made from the words of the question.

use hickory_server::proto::{
    op::ResponseCode,
    rr::{DNSClass, RecordType},
};
use regex::Regex;

use super::Zones;

#[derive(Debug, Clone)]
pub struct Template {
    pub class: DNSClass,
    /// None: every type.
    pub qtype: Option<RecordType>,
    pub zones: Zones,
    /// The first of these that matches counts.
    pub matches: Vec<Regex>,
    /// Records in the presentation form, with `{{ .Name }}` and the like in them.
    pub answers: Vec<String>,
    pub additionals: Vec<String>,
    pub authorities: Vec<String>,
    pub rcode: ResponseCode,
    /// Names of these zones that no expression matches are handed on. Empty: they are SERVFAIL, as in CoreDNS.
    pub fallthrough: Zones,
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        let patterns = |template: &Self| -> Vec<String> {
            template.matches.iter().map(|pattern| pattern.as_str().to_owned()).collect()
        };
        self.class == other.class
            && self.qtype == other.qtype
            && self.zones == other.zones
            && patterns(self) == patterns(other)
            && self.answers == other.answers
            && self.additionals == other.additionals
            && self.authorities == other.authorities
            && self.rcode == other.rcode
            && self.fallthrough == other.fallthrough
    }
}
