//! `explain --dns NAME`: the names that the resolver of a pod asks for in turn, the answer to each, and the reason if it has
//! no address.
//!
//! The resolver is as the kubelet configures it: three search domains below the cluster domain, and `ndots:5`.

use std::{fmt, net::IpAddr};

use anyhow::{Context as _, Result};
use dns::{
    cluster::{
        answer::{Answer, AnswerData, Resolution, answer},
        authority::Authority,
        name::{Name, NameKind, QueryName, ServiceName, classify, domain},
        selection::Selection,
        snapshot::{Index, Snapshot, View},
        zone::{ReadOptions, ServiceKind},
    },
    config::Kubernetes,
};
use hickory_server::proto::rr::RecordType;
use serde::Serialize;

use crate::{cli::output, k8s, manifests::Manifests};

/// `options ndots:5` of the kubelet: a name with fewer dots is searched for before it is taken as it is.
const NDOTS: usize = 5;
/// Limit of the Services that are listed beside a missing one.
const MAX_NAMES: usize = 10;

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct NameExplanation {
    name: String,
    result: NameResult,
    addresses: Vec<IpAddr>,
    reason_code: &'static str,
    reason: String,
    /// In the order of the resolver, up to the first with an address.
    queries: Vec<NameQuery>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct NameQuery {
    name: String,
    #[serde(rename = "answer")]
    result: NameResult,
    addresses: Vec<IpAddr>,
    reason_code: &'static str,
    reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum NameResult {
    Addresses,
    /// The name exists, without addresses.
    NoData,
    NoName,
    /// The name, or the end of its chain of aliases, is not of the cluster.
    Upstream,
}

/// The server of the cluster's names, with the objects of the manifests.
struct Server {
    snapshot: Snapshot,
    authority: Authority,
    domain: Name,
}

/// Explains a name as a pod in the namespace uses it.
pub fn explain(
    manifests: &Manifests,
    name: &str,
    namespace: &str,
    cluster_domain: &str,
) -> Result<NameExplanation> {
    let invalid = |text: &str| format!("`{text}` is not a domain name");
    let domain_name = Name::from_text(cluster_domain).with_context(|| invalid(cluster_domain))?;
    let zone = domain(cluster_domain).with_context(|| invalid(cluster_domain))?;
    let mut index = Index::default();
    let objects = manifests.objects.iter().map(|found| &found.object);
    let changes = objects.filter_map(|object| k8s::dns::change(object, &ReadOptions::default()));
    changes.for_each(|change| index.apply(change));
    let server = Server {
        snapshot: index.snapshot(0),
        authority: Authority::new(&Kubernetes::shipped(&zone), &[]),
        domain: domain_name,
    };
    let mut queries = Vec::new();
    for candidate in candidates(name, namespace, cluster_domain) {
        let query = server.query(&candidate).with_context(|| invalid(&candidate))?;
        let is_last = matches!(query.result, NameResult::Addresses | NameResult::Upstream);
        queries.push(query);
        if is_last {
            break;
        }
    }
    Ok(NameExplanation::new(name, queries))
}

/// The names that a resolver asks for in turn, each with its final dot.
fn candidates(name: &str, namespace: &str, cluster_domain: &str) -> Vec<String> {
    let absolute = format!("{}.", name.trim_end_matches('.'));
    if name.ends_with('.') {
        return vec![absolute];
    }
    let domains = [
        format!("{namespace}.svc.{cluster_domain}"),
        format!("svc.{cluster_domain}"),
        cluster_domain.to_owned(),
    ];
    let searched = domains.map(|domain| format!("{name}.{}.", domain.trim_end_matches('.')));
    let dots = name.bytes().filter(|byte| *byte == b'.').count();
    if dots < NDOTS {
        searched.into_iter().chain([absolute]).collect()
    } else {
        [absolute].into_iter().chain(searched).collect()
    }
}

impl NameExplanation {
    fn new(name: &str, queries: Vec<NameQuery>) -> Self {
        let answered = queries.iter().find(|query| query.result == NameResult::Addresses);
        // Without an address, the query that says most: the last one goes to an upstream, which nobody meant.
        let telling = answered.or_else(|| queries.iter().max_by_key(|query| weight(query.reason_code)));
        let result = queries.last().map_or(NameResult::NoName, |query| query.result);
        Self {
            name: name.to_owned(),
            result,
            addresses: answered.map(|query| query.addresses.clone()).unwrap_or_default(),
            reason_code: telling.map_or("", |query| query.reason_code),
            reason: telling.map(|query| query.reason.clone()).unwrap_or_default(),
            queries,
        }
    }

    pub fn text(&self) -> String {
        let mut table = output::table();
        table.add_row(["RESULT", &self.result.to_string()]);
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        if !addresses.is_empty() {
            table.add_row(["ADDRESSES", &addresses.join(",")]);
        }
        table.add_row(["REASON", &self.reason]);
        let mut queries = output::table();
        queries.set_header(["QUERY", "ANSWER", "REASON"]);
        for query in &self.queries {
            queries.add_row([&query.name, query.result.short(), &query.reason]);
        }
        format!("{}\n{}", output::text(table), output::text(queries))
    }
}

/// How much a reason says about the name that was meant.
fn weight(reason_code: &str) -> u8 {
    match reason_code {
        ALIAS => 4,
        NO_READY_ENDPOINT | NO_ADDRESS | NO_SUCH_ENDPOINT | NO_SUCH_PORT => 3,
        NO_SUCH_SERVICE => 2,
        NO_SUCH_NAMESPACE => 1,
        _ => 0,
    }
}

const ALIAS: &str = "alias";
const NO_READY_ENDPOINT: &str = "no_ready_endpoint";
const NO_ADDRESS: &str = "no_address";
const NO_SUCH_ENDPOINT: &str = "no_such_endpoint";
const NO_SUCH_PORT: &str = "no_such_port";
const NO_SUCH_SERVICE: &str = "no_such_service";
const NO_SUCH_NAMESPACE: &str = "no_such_namespace";

impl Server {
    /// `None`: not a domain name.
    fn query(&self, name: &str) -> Option<NameQuery> {
        let queried = Name::from_text(name)?.to_query();
        let [v4, v6] = [RecordType::A, RecordType::AAAA]
            .map(|qtype| answer(&queried, qtype, &self.authority, &self.snapshot, Selection::default()));
        let (result, addresses) = outcome(&v4, &v6);
        let (reason_code, reason) = match result {
            NameResult::Addresses => ("answered", "a name of the cluster".to_owned()),
            NameResult::Upstream => self.foreign(&v4),
            NameResult::NoData | NameResult::NoName => self.reason(&queried),
        };
        Some(NameQuery { name: name.to_owned(), result, addresses, reason_code, reason })
    }

    fn foreign(&self, found: &Resolution<'_>) -> (&'static str, String) {
        match found {
            Resolution::Answered(Answer { target: Some(target), .. }) => {
                (ALIAS, format!("an alias of {}, which an upstream resolves", plain(target)))
            }
            Resolution::Answered(_) | Resolution::Fallthrough | Resolution::NotSynced => {
                ("upstream", format!("not below {}", plain(&self.domain)))
            }
        }
    }

    /// Why a name below the cluster domain has no address.
    fn reason(&self, name: &QueryName) -> (&'static str, String) {
        let kind = classify(name, self.domain.labels().count());
        match kind {
            NameKind::Service(service) => self.unnamed(service).unwrap_or_else(|| no_address("it")),
            NameKind::BelowService { service, label } => self.unnamed(service).unwrap_or_else(|| {
                (
                    NO_SUCH_ENDPOINT,
                    format!("{service} has no endpoint {}", text(label), service = full(service)),
                )
            }),
            NameKind::Port { service, port, protocol } => self.unnamed(service).unwrap_or_else(|| {
                let (port, protocol) = (text(port), text(protocol));
                (NO_SUCH_PORT, format!("{} has no port {port} of {protocol} with an address", full(service)))
            }),
            NameKind::Zonal { service, .. } => {
                self.unnamed(service).unwrap_or_else(|| no_address("a topology zone"))
            }
            NameKind::Pod { .. } => ("no_such_pod", "not the dashed address of a pod".to_owned()),
            NameKind::ServiceNamespace(namespace) | NameKind::PodNamespace(namespace)
                if !self.has_namespace(namespace) =>
            {
                missing_namespace(namespace)
            }
            NameKind::Apex
            | NameKind::DnsVersion
            | NameKind::Dns
            | NameKind::NameServer
            | NameKind::Services
            | NameKind::Pods
            | NameKind::ServiceNamespace(_)
            | NameKind::PodNamespace(_) => {
                ("no_service", "a name above the names of Services, which has no address".to_owned())
            }
            NameKind::Invalid => ("no_such_form", "no name of the cluster has this form".to_owned()),
        }
    }

    /// Why a Service has no name at all, if so.
    fn unnamed(&self, service: ServiceName<'_>) -> Option<(&'static str, String)> {
        let Some(view) = self.snapshot.service(service.namespace, service.name) else {
            return Some(self.missing(service));
        };
        match view.kind() {
            ServiceKind::Headless if !view.has_endpoints() => {
                let reason = "is headless and none of its endpoints is ready: it has no name until one is";
                Some((NO_READY_ENDPOINT, format!("Service {} {reason}", view.key)))
            }
            ServiceKind::Nothing => Some((
                NO_ADDRESS,
                format!("Service {} has no cluster IP, nor a valid external name", view.key),
            )),
            ServiceKind::Headless | ServiceKind::ClusterIp { .. } | ServiceKind::ExternalName(_) => None,
        }
    }

    /// Objects may lack the Namespace of a Service.
    fn has_namespace(&self, namespace: &[u8]) -> bool {
        let is_of_service =
            || self.snapshot.services().any(|view| view.key.namespace().as_bytes() == namespace);
        self.snapshot.has_namespace(namespace) || is_of_service()
    }

    fn missing(&self, service: ServiceName<'_>) -> (&'static str, String) {
        let (namespace, name) = (text(service.namespace), text(service.name));
        let of_namespace = |view: &&View| view.key.namespace().as_bytes() == service.namespace;
        let mut others: Vec<_> = self
            .snapshot
            .services()
            .filter(of_namespace)
            .filter(|view| view.service.is_some())
            .map(|view| view.key.name())
            .collect();
        if others.is_empty() && !self.has_namespace(service.namespace) {
            return missing_namespace(service.namespace);
        }
        others.sort_unstable();
        let more = others.len().checked_sub(MAX_NAMES).filter(|more| *more > 0);
        others.truncate(MAX_NAMES);
        let listed = match (others.is_empty(), more) {
            (true, _) => "none".to_owned(),
            (false, None) => others.join(", "),
            (false, Some(more)) => format!("{} and {more} more", others.join(", ")),
        };
        (NO_SUCH_SERVICE, format!("namespace {namespace} has no Service {name}; it has {listed}"))
    }
}

fn missing_namespace(namespace: &[u8]) -> (&'static str, String) {
    (NO_SUCH_NAMESPACE, format!("there is no namespace {}, or it has no Service", text(namespace)))
}

fn no_address(subject: &str) -> (&'static str, String) {
    (NO_ADDRESS, format!("{subject} has no address"))
}

/// Without the final dot.
fn plain(name: &Name) -> String {
    name.to_hickory().to_string().trim_end_matches('.').to_owned()
}

fn full(service: ServiceName<'_>) -> String {
    format!("Service {}/{}", text(service.namespace), text(service.name))
}

/// A label as text: it comes from the command line.
fn text(label: &[u8]) -> String {
    String::from_utf8_lossy(label).into_owned()
}

/// The result of both families together.
fn outcome(v4: &Resolution<'_>, v6: &Resolution<'_>) -> (NameResult, Vec<IpAddr>) {
    let (Resolution::Answered(v4), Resolution::Answered(v6)) = (v4, v6) else {
        return (NameResult::Upstream, Vec::new());
    };
    let addresses: Vec<_> =
        v4.records.iter().chain(&v6.records).filter_map(|one| address(&one.data)).collect();
    let result = if !addresses.is_empty() {
        NameResult::Addresses
    } else if v4.target.is_some() {
        NameResult::Upstream
    } else if v4.is_missing {
        NameResult::NoName
    } else {
        NameResult::NoData
    };
    (result, addresses)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "no other record is an address")]
fn address(data: &AnswerData<'_>) -> Option<IpAddr> {
    match data {
        AnswerData::A(address) => Some((*address).into()),
        AnswerData::Aaaa(address) => Some((*address).into()),
        _ => None,
    }
}

impl NameResult {
    fn short(self) -> &'static str {
        match self {
            Self::Addresses => "addresses",
            Self::NoData => "NOERROR",
            Self::NoName => "NXDOMAIN",
            Self::Upstream => "upstream",
        }
    }
}

impl fmt::Display for NameResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Addresses => "addresses",
            Self::NoData => "no address (NOERROR without records)",
            Self::NoName => "no such name (NXDOMAIN)",
            Self::Upstream => "not of the cluster: an upstream answers",
        })
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::manifests;

    const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web}
spec: {clusterIP: 10.96.0.10, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: db}
spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: db-1, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 5432}]
endpoints: [{addresses: [10.244.1.4], hostname: db-0, conditions: {ready: READY}}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: bank}
spec: {type: ExternalName, externalName: bank.example.org}
---
apiVersion: v1
kind: Service
metadata: {namespace: default, name: kubernetes}
spec: {clusterIP: 10.96.0.1, ports: [{name: https, port: 443}]}
";

    fn explained(name: &str, ready: bool) -> NameExplanation {
        let text = OBJECTS.replace("READY", if ready { "true" } else { "false" });
        explain(&manifests::parse("objects.yaml", &text), name, "default", "cluster.local").unwrap()
    }

    #[test]
    fn a_name_is_searched_for_as_a_pods_resolver_does() {
        for (name, want) in [
            ("web.", vec!["web."]),
            (
                "web.shop",
                vec![
                    "web.shop.default.svc.cluster.local.",
                    "web.shop.svc.cluster.local.",
                    "web.shop.cluster.local.",
                    "web.shop.",
                ],
            ),
            (
                "a.b.c.d.e.f",
                vec![
                    "a.b.c.d.e.f.",
                    "a.b.c.d.e.f.default.svc.cluster.local.",
                    "a.b.c.d.e.f.svc.cluster.local.",
                    "a.b.c.d.e.f.cluster.local.",
                ],
            ),
        ] {
            assert_eq!(candidates(name, "default", "cluster.local"), want);
        }
    }

    #[test]
    fn each_name_without_an_address_has_a_reason() {
        for (name, ready, code, words) in [
            ("web.shop", true, "answered", "10.96.0.10"),
            ("kubernetes", true, "answered", "10.96.0.1"),
            ("db.shop", true, "answered", "10.244.1.4"),
            ("db-0.db.shop", true, "answered", "10.244.1.4"),
            (
                "db.shop",
                false,
                "no_ready_endpoint",
                "Service shop/db is headless and none of its endpoints is ready",
            ),
            ("db-0.db.shop", false, "no_ready_endpoint", "Service shop/db is headless"),
            ("db-7.db.shop", true, "no_such_endpoint", "Service shop/db has no endpoint db-7"),
            ("wbe.shop", true, "no_such_service", "namespace shop has no Service wbe; it has bank, db, web"),
            ("web", true, "no_such_service", "namespace default has no Service web; it has kubernetes"),
            ("web.shpo.svc.cluster.local.", true, "no_such_namespace", "there is no namespace shpo"),
            ("bank.shop", true, "alias", "an alias of bank.example.org"),
            ("www.example.org.", true, "upstream", "not below cluster.local"),
            ("shop.svc.cluster.local.", true, "no_service", "a name above the names of Services"),
            ("shpo.svc.cluster.local.", true, "no_such_namespace", "there is no namespace shpo"),
        ] {
            let explained = explained(name, ready);
            assert_eq!(explained.reason_code, code, "{name}: {explained:#?}");
            assert!(explained.text().contains(words), "{name}: {}", explained.text());
        }
    }

    #[test]
    fn the_screen_lists_the_queries() {
        expect![[r#"
            RESULT  not of the cluster: an upstream answers
            REASON  namespace shop has no Service wbe; it has bank, db, web

            QUERY                                ANSWER    REASON
            wbe.shop.default.svc.cluster.local.  NXDOMAIN  namespace default has no Service shop; it has kubernetes
            wbe.shop.svc.cluster.local.          NXDOMAIN  namespace shop has no Service wbe; it has bank, db, web
            wbe.shop.cluster.local.              NXDOMAIN  no name of the cluster has this form
            wbe.shop.                            upstream  not below cluster.local
        "#]]
        .assert_eq(&explained("wbe.shop", true).text());
    }
}
