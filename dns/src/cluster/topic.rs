//! Topics of queries: a few words for operators who look for the source of a load.

use crate::cluster::name::QueryName;

named_enum! {
    /// The subject of a query, for query statistics.
    pub enum Topic {
        /// A Service with a cluster IP, its ports and endpoints.
        Service = "service",
        /// A headless Service, its ports and endpoints.
        Headless = "headless",
        /// A Service of type ExternalName.
        Alias = "alias",
        /// A pod, by its address.
        Pod = "pod",
        /// The name of an address.
        Reverse = "reverse",
        /// The cluster domain: its namespaces and fixed names, and all names in it before the first sync.
        Domain = "domain",
        /// A missing name in an existing namespace, or below an existing Service.
        Absent = "absent",
        /// A name below the cluster domain that cannot exist: an expansion of the search list.
        Search = "search",
        /// A name answered by a local plugin.
        Local = "local",
        /// A name of another zone.
        External = "external",
        /// A request that is not answered: malformed, of another class, a zone transfer.
        Invalid = "invalid",
    }
}

impl Topic {
    /// The topic of a name outside the cluster's data.
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
    fn other_names_are_external_or_reverse() {
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
