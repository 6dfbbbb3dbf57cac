//! What questions are about, in the few words that somebody wants to hear who looks for where they come from.

use crate::cluster::name::QueryName;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// A Service with an address of its own, its ports and endpoints.
    Service,
    /// A headless Service, its ports and endpoints.
    Headless,
    /// A Service that stands for another name.
    Alias,
    /// A pod, by its address.
    Pod,
    /// The name of an address.
    Reverse,
    /// The cluster's domain: its namespaces and fixed names, and everything in it before it is known what there is.
    Domain,
    /// What could be there and is not: in a namespace that there is, or below a Service that there is.
    Absent,
    /// Below the cluster's domain, and nothing that could be there: what search lists make of other names.
    Search,
    /// What the server knows by itself or by its configuration.
    Local,
    /// What others know.
    External,
    /// No question that is answered: malformed, of another class, a transfer.
    Invalid,
}

pub const TOPIC_COUNT: usize = 11;

impl Topic {
    pub const ALL: [Self; TOPIC_COUNT] = [
        Self::Service,
        Self::Headless,
        Self::Alias,
        Self::Pod,
        Self::Reverse,
        Self::Domain,
        Self::Absent,
        Self::Search,
        Self::Local,
        Self::External,
        Self::Invalid,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Headless => "headless",
            Self::Alias => "alias",
            Self::Pod => "pod",
            Self::Reverse => "reverse",
            Self::Domain => "domain",
            Self::Absent => "absent",
            Self::Search => "search",
            Self::Local => "local",
            Self::External => "external",
            Self::Invalid => "invalid",
        }
    }

    /// Of a name that is not answered from the cluster.
    pub fn of_foreign_name(name: &QueryName) -> Self {
        let end = name.label_count();
        let is_reverse =
            end >= 2 && name.label(end - 1) == b"arpa" && matches!(name.label(end - 2), b"in-addr" | b"ip6");
        if is_reverse { Self::Reverse } else { Self::External }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::name::Name;

    #[test]
    fn every_topic_has_its_place() {
        for (at, topic) in Topic::ALL.into_iter().enumerate() {
            assert_eq!(topic as usize, at, "{topic:?}");
        }
    }

    #[test]
    fn what_others_know_is_a_name_or_an_address() {
        for (name, want) in [
            ("www.example.org", Topic::External),
            ("9.9.9.9.in-addr.arpa", Topic::Reverse),
            ("1.0.0.2.IP6.ARPA", Topic::Reverse),
            ("arpa", Topic::External),
            ("in-addr.arpa.example.org", Topic::External),
        ] {
            assert_eq!(Topic::of_foreign_name(&Name::from_text(name).unwrap().to_query()), want, "{name}");
        }
    }
}
