//! `autopath [ZONES...] RESOLV-CONF|@kubernetes`: the search list of the client is walked by the server, and the first
//! name that exists is answered at once.

use std::fs;

use hickory_server::proto::{
    op::{Query, ResponseCode},
    rr::{LowerName, Name, RData, Record, rdata::CNAME},
};

use super::directive::Directive;
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement, Word, zones_or},
    observe::metrics::Plugin,
    resolve::reply::Reply,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Autopath {
    zones: Zones,
    search: Search,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Search {
    /// That of the pod that asks, and the search list of the node. Pods are known with `pods verified`.
    Kubernetes(Vec<Name>),
    /// That of a file.
    File(Vec<Name>),
}

const NODE_FILE: &str = "/etc/resolv.conf";
/// Limit of the domains of a search list, as in resolvers of clients.
const MAX_DOMAINS: usize = 32;

impl Directive for Autopath {
    const NAME: &'static str = "autopath";
    const SUMMARY: &'static str = "the search list is walked by the server; of `@` plugins only `@kubernetes`, which needs \
                                   `pods verified`";
    type Setting = Option<Self>;

    fn read(setting: &mut Option<Self>, statement: &Statement, zones: &Zones) -> Result<(), CorefileError> {
        statement.no_body()?;
        let Some((source, named)) = statement.words.split_last() else {
            return Err(statement.misused("autopath [ZONES...] RESOLV-CONF|@kubernetes"));
        };
        let search = match source.text.strip_prefix('@') {
            Some("kubernetes") => Search::Kubernetes(
                fs::read_to_string(NODE_FILE).map(|text| domains(&text)).unwrap_or_default(),
            ),
            Some(other) => {
                return Err(
                    source.refuse(format!("`{other}` has no search list; write `@kubernetes` or a file"))
                );
            }
            None => Search::File(of_file(source)?),
        };
        *setting = Some(Self { zones: zones_or(named, zones.clone())?, search });
        Ok(())
    }

    fn is_enabled(setting: &Option<Self>) -> bool {
        setting.is_some()
    }
}

fn of_file(file: &Word) -> Result<Vec<Name>, CorefileError> {
    match fs::read_to_string(file.path()) {
        Ok(text) => Ok(domains(&text)),
        Err(error) => Err(file.refuse(format!("`{}` cannot be read: {error}", file.text))),
    }
}

/// The domains of the last `search` line.
fn domains(text: &str) -> Vec<Name> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut lines = text.lines().map(words);
    let last = lines.rfind(|words| words.first().is_some_and(|word| word == "search"));
    let names = last.unwrap_or_default().into_iter().skip(1).take(MAX_DOMAINS);
    names.filter_map(|text| absolute(&text)).collect()
}

fn absolute(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// The pod that asks: its namespace, and the zone of the cluster that contains the question.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub namespace: String,
    pub zone: Name,
}

impl Autopath {
    /// The names to look up in order, if the question is the first of a search list. `pod`: the client, if it is known.
    pub(crate) fn names(&self, question: &Query, pod: impl FnOnce() -> Option<Pod>) -> Option<Vec<Name>> {
        if !self.zones.contains(&LowerName::new(question.name())) {
            return None;
        }
        let search = match &self.search {
            Search::File(domains) => domains.clone(),
            Search::Kubernetes(of_node) => {
                let Pod { namespace, zone } = pod()?;
                let services = Name::from_ascii("svc").ok()?.append_domain(&zone).ok()?;
                let own = Name::from_ascii(namespace).ok()?.append_domain(&services).ok()?;
                [&[own, services, zone], of_node.as_slice()].concat()
            }
        };
        let first = search.first().filter(|first| first.zone_of(question.name()))?;
        let own = question.name().iter().count() - first.iter().count();
        let base = Name::from_labels(question.name().iter().take(own)).ok().filter(|_| own > 0)?;
        let mut relative = base.clone();
        relative.set_fqdn(false);
        let absolute = std::iter::once(Name::root());
        // A name that is too long does not exist.
        Some(
            search
                .iter()
                .cloned()
                .chain(absolute)
                .filter_map(|domain| relative.clone().append_domain(&domain).ok())
                .collect(),
        )
    }

    /// Whether a later name of the list may exist.
    pub(crate) fn goes_on(reply: &Reply) -> bool {
        reply.rcode == ResponseCode::NXDomain
    }

    /// The reply to the question from that for a name of the list: as an alias, unless it is the name itself.
    pub(crate) fn as_alias(question: &Query, mut reply: Reply) -> Reply {
        reply.plugin = Plugin::Autopath;
        if let Some(first) = reply.answers.first().filter(|first| first.name != *question.name()) {
            let target = RData::CNAME(CNAME(first.name.clone()));
            let alias = Record::from_rdata(question.name().clone(), first.ttl, target);
            reply.answers.insert(0, alias);
        }
        reply
    }
}

#[cfg(test)]
mod tests {
    use hickory_server::proto::rr::RecordType;

    use super::*;

    fn names(autopath: &Autopath, asked: &str, pod: Option<Pod>) -> Option<Vec<String>> {
        let question = Query::query(Name::from_ascii(asked).unwrap(), RecordType::A);
        let names = autopath.names(&question, || pod)?;
        Some(names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_search_list_follows_from_the_pod_or_a_file() {
        let list = domains("search old\nnameserver 10.0.0.1\nsearch corp.example example.\n");
        let zones = Zones::all();
        let kubernetes = Autopath { zones: zones.clone(), search: Search::Kubernetes(list.clone()) };
        let pod =
            || Some(Pod { namespace: "shop".to_owned(), zone: Name::from_ascii("cluster.local.").unwrap() });
        let want = [
            "www.example.org.shop.svc.cluster.local.",
            "www.example.org.svc.cluster.local.",
            "www.example.org.cluster.local.",
            "www.example.org.corp.example.",
            "www.example.org.example.",
            "www.example.org.",
        ];
        let want: Vec<String> = want.map(str::to_owned).to_vec();
        assert_eq!(names(&kubernetes, "www.example.org.Shop.svc.cluster.local.", pod()), Some(want));
        for (asked, pod) in [
            ("www.example.org.blog.svc.cluster.local.", pod()),
            ("shop.svc.cluster.local.", pod()),
            ("www.example.org.shop.svc.cluster.local.", None),
        ] {
            assert_eq!(names(&kubernetes, asked, pod), None, "{asked}");
        }
        let file = Autopath { zones, search: Search::File(list) };
        let want = ["a.corp.example.", "a.example.", "a."].map(str::to_owned).to_vec();
        assert_eq!(names(&file, "a.corp.example.", None), Some(want));
        let elsewhere = Autopath { zones: Zones(vec![Name::from_ascii("x.").unwrap().into()]), ..file };
        assert_eq!(names(&elsewhere, "a.corp.example.", None), None);
    }
}
