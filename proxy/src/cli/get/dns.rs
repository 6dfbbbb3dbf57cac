//! `get dns`: one row per recent DNS client, most queries first.
//!
//! ```text
//! {"clients": [{"kind": "pod|node|address|others", "client": "shop/web-0", "addresses": ["10.244.1.9"],
//!               "queries": 1234, "topics": {"service": 800, "search": 300, "external": 134, ..},
//!               "troubles": {"refused": 0, "failed": 0, "slow": 2}}],
//!  "since": "2026-01-01T12:00:00Z",
//!  "upstreams": [{"address": "10.0.0.2:53", "answers": 134, "failed": 0, "slow": 2}]}
//! ```
//!
//! The data comes from the agent, not from the kernel. It covers the last 15 to 30 minutes. `client` is the pod with the
//! source address of the query, if it is an endpoint of this node; host network pods are the `node`; `others` is the sum
//! of the clients that the table had no room for. `upstreams` count from the agent's start.

use std::{net::IpAddr, path::Path};

use anyhow::{Context as _, Result, ensure};

use super::{
    document::{Document, Headers},
    footer::{Footer, tally},
    format::Format,
    labels::ServicePort,
    listing::{Listing, Row},
    offline::{self, OfflineArgs},
    print::PrintArgs,
};
use crate::{
    cli::{
        agents::{self, FindArgs, Place},
        control,
    },
    observe::{
        control::ControlRequest,
        query_statistics::{Client, ClientKind, QueryStatistics},
    },
};

/// Its file in a report.
pub const FILE: &str = "maps/dns.json";

/// Explanation of the columns.
const LEGEND: &str = "\
Topics of queries:
  service   a Service with an address, its ports and endpoints
  headless  a headless Service, its ports and endpoints
  alias     a Service of type ExternalName
  pod       a pod, by its address
  reverse   the name of an address
  domain    the cluster's domain: namespaces and fixed names
  absent    a Service or endpoint that does not exist
  search    a name that cannot exist, made by the search list of resolv.conf
  local     names that the server answers itself or from its configuration
  external  other names, from an upstream or from the cache
  invalid   malformed queries, zone transfers

Troubles:
  refused   answered with REFUSED, FORMERR, NOTIMP or BADVERS
  failed    answered with SERVFAIL
  slow      answered after more than 256 ms

Counts of clients cover the last 15 to 30 minutes; counts of upstreams start
with the agent.";

#[derive(Debug, clap::Args)]
#[command(after_long_help = LEGEND)]
pub struct Args {
    /// Only the pods of this name, or the client with this address
    #[arg(value_name = "[NAMESPACE/]POD|ADDRESS")]
    client: Option<String>,
    /// Only pods of this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// Clients of all namespaces and clients without one (default)
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    #[command(flatten)]
    print: PrintArgs,
    #[command(flatten)]
    find: FindArgs,
    #[command(flatten)]
    offline: OfflineArgs,
}

pub fn run(args: Args) -> Result<()> {
    let Args { client, namespace, all_namespaces: _, print, find, offline } = args;
    if let Some(report) = offline.open()? {
        return print.print(|| {
            let Listing { mut rows, footer } = offline::listing::<Client>(&report, FILE)?;
            rows.retain(|one| is_selected(one, client.as_deref(), namespace.as_deref()));
            Ok(Listing { rows, footer })
        });
    }
    let Place { bpffs, run_dir, socket, .. } = find.find()?;
    let watches = print.watch;
    print.print(|| {
        let hint = || agents::hint(&bpffs, Some(&run_dir));
        let QueryStatistics { since, mut clients, upstreams } = query_statistics(&socket, hint)?;
        clients.retain(|one| is_selected(one, client.as_deref(), namespace.as_deref()));
        if let Some(client) = &client {
            // With --watch the client may appear later.
            ensure!(watches || !clients.is_empty(), "no query of a client {client} since {since:.0}");
        }
        Ok(Listing { rows: clients, footer: Footer::Dns { since, upstreams } })
    })
}

/// The listing as JSON, for a report.
pub fn json(socket: &Path) -> Result<String> {
    let QueryStatistics { since, clients, upstreams } = query_statistics(socket, String::new)?;
    let listing = Listing { rows: clients, footer: Footer::Dns { since, upstreams } };
    Document::full(&listing).text(&Format::Json, Headers::Shown)
}

/// The agent's statistics. `hint`: where else agents are. Errors: none listens, or its DNS server is off.
pub fn query_statistics(socket: &Path, hint: impl FnOnce() -> String) -> Result<QueryStatistics> {
    let answer: Option<Option<QueryStatistics>> = control::request(socket, ControlRequest::QueryStatistics)?;
    let asked = answer
        .with_context(|| format!("no agent runs: nothing listens on {}{}", socket.display(), hint()))?;
    asked.context("the DNS server of the agent is off (--dns) or not synced yet")
}

fn is_selected(one: &Client, client: Option<&str>, namespace: Option<&str>) -> bool {
    let pod = one.client.split_once('/').filter(|_| one.kind == ClientKind::Pod);
    let is_named = |name: &str| {
        let address = name.parse::<IpAddr>();
        one.client == name
            || pod.is_some_and(|(_, pod)| pod == name)
            || address.is_ok_and(|address| one.addresses.contains(&address))
    };
    client.is_none_or(is_named)
        && namespace.is_none_or(|wanted| pod.is_some_and(|(namespace, _)| namespace == wanted))
}

/// Columns of the topics, then of the troubles.
const COUNTS: [&str; 14] = [
    "SERVICE", "HEADLESS", "ALIAS", "POD", "REVERSE", "DOMAIN", "ABSENT", "SEARCH", "LOCAL", "EXTERNAL",
    "INVALID", "REFUSED", "FAILED", "SLOW",
];

impl Row for Client {
    const LIST: &'static str = "clients";

    fn service(&self) -> Option<&ServicePort> {
        None
    }

    fn id(&self) -> String {
        self.client.clone()
    }

    fn name(&self) -> String {
        self.client.clone()
    }

    fn header(is_wide: bool) -> Vec<&'static str> {
        if is_wide {
            [&["CLIENT", "QUERIES"], &COUNTS[..], &["ADDRESSES"]].concat()
        } else {
            vec!["CLIENT", "QUERIES", "ABOUT", "TROUBLE"]
        }
    }

    fn cells(&self, is_wide: bool) -> Vec<String> {
        let mut cells = vec![self.client.clone(), self.queries.to_string()];
        if is_wide {
            cells.extend(COUNTS.map(|column| self.count(&column.to_lowercase()).to_string()));
            cells.push(or_dash(self.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",")));
        } else {
            cells
                .extend([&self.topics, &self.troubles].map(|counts| {
                    or_dash(tally(counts.iter().map(|(name, count)| (name.as_str(), *count))))
                }));
        }
        cells
    }

    fn is_unchanged(&self, earlier: &Self) -> bool {
        self == earlier
    }
}

impl Client {
    fn count(&self, name: &str) -> u64 {
        self.topics.get(name).or_else(|| self.troubles.get(name)).copied().unwrap_or_default()
    }
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use dns::{cluster::topic::Topic, observe::clients::Trouble};
    use expect_test::expect;

    use super::*;
    use crate::observe::query_statistics::Upstream;

    fn client(kind: ClientKind, name: &str, addresses: &[&str]) -> Client {
        Client {
            kind,
            client: name.to_owned(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            queries: 1,
            topics: [("service".to_owned(), 1)].into(),
            troubles: [].into(),
        }
    }

    #[test]
    fn every_count_has_a_column_and_an_explanation() {
        let topics = Topic::ALL.into_iter().map(Topic::name);
        let names = topics.chain(Trouble::ALL.into_iter().map(Trouble::name));
        assert!(names.clone().map(str::to_uppercase).eq(COUNTS));
        let explained = LEGEND.lines().filter_map(|line| line.strip_prefix("  ")?.split_once(' '));
        assert!(explained.map(|(name, _)| name).eq(names));
    }

    #[test]
    fn clients_are_selected_by_pod_namespace_and_address() {
        let clients = [
            client(ClientKind::Pod, "shop/web-0", &["10.1.0.1", "fd01::1"]),
            client(ClientKind::Pod, "blog/web-0", &["10.1.0.2"]),
            client(ClientKind::Address, "10.1.0.3", &["10.1.0.3"]),
            client(ClientKind::Node, "node", &["127.0.0.1"]),
        ];
        for (name, namespace, want) in [
            (None, None, "shop/web-0 blog/web-0 10.1.0.3 node"),
            (None, Some("shop"), "shop/web-0"),
            (None, Some("none"), ""),
            (Some("web-0"), None, "shop/web-0 blog/web-0"),
            (Some("web-0"), Some("blog"), "blog/web-0"),
            (Some("shop/web-0"), None, "shop/web-0"),
            (Some("shop/web-0"), Some("blog"), ""),
            (Some("fd01:0::1"), None, "shop/web-0"),
            (Some("10.1.0.3"), None, "10.1.0.3"),
            (Some("10.1.0.3"), Some("shop"), ""),
            (Some("node"), None, "node"),
        ] {
            let selected = clients.iter().filter(|one| is_selected(one, name, namespace));
            let selected: Vec<_> = selected.map(|one| one.client.as_str()).collect();
            assert_eq!(selected.join(" "), want, "{name:?} {namespace:?}");
        }
    }

    #[test]
    fn clients_in_all_formats() {
        let counts = |counts: &[(&str, u64)]| {
            counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        let pod = Client {
            queries: 20_514,
            topics: counts(&[("search", 15_000), ("service", 2_510), ("external", 3_004), ("pod", 0)]),
            troubles: counts(&[("slow", 12), ("refused", 0), ("failed", 3)]),
            ..client(ClientKind::Pod, "payments/checkout-7c9d8b6f5-x2x4p", &["10.244.1.9", "fd00::9"])
        };
        let upstream = Upstream { address: "10.0.0.2:53".to_owned(), answers: 2_990, failed: 2, slow: 12 };
        let others = client(ClientKind::Others, "others", &[]);
        let listing = || Listing {
            rows: vec![pod.clone(), others.clone()],
            footer: Footer::Dns {
                since: "2026-01-01T12:00:00.25Z".parse().unwrap(),
                upstreams: vec![upstream.clone()],
            },
        };
        let text = |format| Document::full(&listing()).text(&format, Headers::Shown).unwrap();
        let table = text(Format::Table);
        expect![[r#"
            CLIENT                             QUERIES  ABOUT                                      TROUBLE
            payments/checkout-7c9d8b6f5-x2x4p  20514    15000 search, 3004 external, 2510 service  12 slow, 3 failed
            others                             1        1 service                                  -

            since 2026-01-01T12:00:00Z
            upstream 10.0.0.2:53, since the start: 2990 answered, 12 slow, 2 failed
        "#]]
        .assert_eq(&table);
        expect![[r#"
            CLIENT                             QUERIES  SERVICE  HEADLESS  ALIAS  POD  REVERSE  DOMAIN  ABSENT  SEARCH  LOCAL  EXTERNAL  INVALID  REFUSED  FAILED  SLOW  ADDRESSES
            payments/checkout-7c9d8b6f5-x2x4p  20514    2510     0         0      0    0        0       0       15000   0      3004      0        0        3       12    10.244.1.9,fd00::9
            others                             1        1        0         0      0    0        0       0       0       0      0         0        0        0       0     -

            since 2026-01-01T12:00:00Z
            upstream 10.0.0.2:53, since the start: 2990 answered, 12 slow, 2 failed
        "#]].assert_eq(&text(Format::Wide));
        let json: serde_json::Value = serde_json::from_str(&text(Format::Json)).unwrap();
        assert_eq!(json["clients"][0]["topics"]["search"], 15_000);
        assert_eq!(json["upstreams"][0]["slow"], 12);
        assert_eq!(json["since"], "2026-01-01T12:00:00.25Z");
        assert_eq!(text(Format::Name), "others\npayments/checkout-7c9d8b6f5-x2x4p\n");
    }
}
