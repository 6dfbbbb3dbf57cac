//! Output for maps that the reconciler filled.

use std::{fs, time::Duration};

use expect_test::expect;
use jiff::{Timestamp, ToSpan as _};
use proxy_ebpf::abi::{
    AffinityEntry, AffinityKey, BackendConnections, BackendFlags, BackendRef, ServiceConnections,
    ServiceStats, mapped,
};

use super::{
    affinity, backends,
    document::{Document, Headers},
    footer::Footer,
    format::Format,
    frontends,
    labels::Labels,
    listing::{Listing, Row},
    selection::Selection,
};
use crate::{
    manifests,
    model::{address::IpFamily, name_server::NameServer, policy::Policy, service::ServiceKey},
    observe::objects::{EndpointDetails, ServiceDetails},
    reconcile::{Capacity, FakeMaps, LbMaps as _, MapError, Reconciler, UnclaimedNetworks},
};

const OBJECTS: &str = r#"
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web}
spec:
  type: NodePort
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd96::10"]
  ipFamilies: [IPv4, IPv6]
  externalTrafficPolicy: Local
  sessionAffinity: ClientIP
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.1.4], nodeName: node-1, conditions: {ready: true}}
- {addresses: [10.244.2.4], nodeName: node-2, conditions: {ready: true}}
- {addresses: [10.244.2.5], nodeName: node-2, conditions: {ready: false, serving: true, terminating: true}}
---
apiVersion: v1
kind: Service
metadata: {namespace: blog, name: empty}
spec: {clusterIP: "fd96::1", clusterIPs: ["fd96::1"], ipFamilies: [IPv6], ports: [{port: 80}]}
"#;

fn reconciler() -> Reconciler<FakeMaps> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("objects.yaml"), OBJECTS).unwrap();
    let policy = Policy { node_name: "node-1".into(), ..Policy::default() };
    let (index, skipped) = manifests::load(dir.path()).unwrap().to_index(policy);
    assert!(skipped.is_empty(), "{skipped:?}");
    let capacity =
        Capacity { frontends: 16, descriptors: 16, slots: 64, backends: 16, services: 16, source_ranges: 64 };
    let mut reconciler = Reconciler::adopt(FakeMaps::new(capacity)).unwrap();
    assert!(reconciler.apply_all(index.frontends()).failed.is_empty());
    let mut networks = UnclaimedNetworks::adopt(reconciler.maps()).unwrap();
    networks.set_all(index.unclaimed_networks());
    networks.write(reconciler.maps_mut()).unwrap();
    reconciler
}

fn text<R: Row>(format: Format, rows: Vec<R>) -> String {
    Document::full(&Listing { rows, footer: Footer::Empty }).text(&format, Headers::Shown).unwrap()
}

/// The connections to each backend.
#[expect(clippy::unnecessary_wraps, reason = "as a reader of maps")]
fn connections(_: IpFamily, _: BackendRef) -> Result<BackendConnections, MapError> {
    Ok(BackendConnections { opened: 6, closed: 4, round_trip: 180, ..BackendConnections::default() })
}

fn frontend_rows(maps: &FakeMaps, translated: u64) -> Vec<frontends::FrontendRow> {
    let labels = Labels::read(maps).unwrap();
    let connections = ServiceConnections {
        failures: [1, 0, 0, 0, 2],
        connect_times: [7; 11],
        ..ServiceConnections::default()
    };
    let stats = |_| Ok((ServiceStats { translated, refused: 2 }, connections));
    frontends::read(maps, &labels, &Selection::default(), true, stats).unwrap()
}

#[test]
fn frontends_as_tables() {
    let reconciler = reconciler();
    let rows = || frontend_rows(reconciler.maps(), 40);
    expect![[r#"
        SERVICE        TYPE       ADDRESS     PORT(S)    BACKENDS                   POLICY                CONNECTIONS  REFUSED  AGE
        blog/empty     ClusterIP  fd96::1     80/TCP     reject                     -                     40           2        <unknown>
        shop/web:http  ClusterIP  10.96.0.10  80/TCP     2 (1 local)                ClientIP              40           2        <unknown>
        shop/web:http  ClusterIP  fd96::10    80/TCP     reject                     ClientIP              -            -        <unknown>
        shop/web:http  NodePort   *           30080/TCP  2 (1 local), out: 1 local  out: Local, ClientIP  -            -        <unknown>
        shop/web:http  NodePort   [*]         30080/TCP  reject                     out: Local, ClientIP  -            -        <unknown>
    "#]]
    .assert_eq(&text(Format::Table, rows()));
    expect![[r#"
        SERVICE        TYPE       ADDRESS     PORT(S)    INTERNAL                         EXTERNAL                         POLICY                       CONNECTIONS  REFUSED  OPENED  OPEN  FAILED  RTT  AGE
        blog/empty     ClusterIP  fd96::1     80/TCP     reject                           reject                           -                            40           2        77      77    3       -    <unknown>
        shop/web:http  ClusterIP  10.96.0.10  80/TCP     10.244.1.4:8080,10.244.2.4:8080  10.244.1.4:8080,10.244.2.4:8080  ClientIP 10800s              40           2        77      77    3       -    <unknown>
        shop/web:http  ClusterIP  fd96::10    80/TCP     reject                           reject                           ClientIP 10800s              -            -        -       -     -       -    <unknown>
        shop/web:http  NodePort   *           30080/TCP  10.244.1.4:8080,10.244.2.4:8080  10.244.1.4:8080                  out: Local, ClientIP 10800s  -            -        -       -     -       -    <unknown>
        shop/web:http  NodePort   [*]         30080/TCP  reject                           reject                           out: Local, ClientIP 10800s  -            -        -       -     -       -    <unknown>
    "#]].assert_eq(&text(Format::Wide, rows()));
    expect![[r#"
        blog/empty
        shop/web
    "#]]
    .assert_eq(&text(Format::Name, rows()));
}

#[test]
fn columns_headers_and_order_can_be_chosen() {
    let reconciler = reconciler();
    let rows = frontend_rows(reconciler.maps(), 40);
    let listing = Listing { rows, footer: Footer::Empty };
    let print = |format: &str, headers, sort_by: Option<&str>| {
        let field = sort_by.map(|field| field.parse().unwrap());
        let document = Document::full(&listing).sorted_by(field.as_ref()).unwrap();
        document.text(&format.parse().unwrap(), headers).unwrap()
    };
    let columns = "custom-columns=NAME:.service,PORT:.port,FIRST:.internal.backends[0]";
    expect![[r#"
        NAME        PORT   FIRST
        blog/empty  80     <none>
        shop/web    80     10.244.1.4:8080
        shop/web    80     <none>
        shop/web    30080  10.244.1.4:8080
        shop/web    30080  <none>
    "#]]
    .assert_eq(&print(columns, Headers::Shown, None));
    let ports = print("custom-columns=P:.port,A:.address", Headers::None, Some(".address"));
    assert_eq!(ports.split_whitespace().collect::<Vec<_>>()[..4], ["30080", "*", "30080", "*"]);
}

/// One line per frontend in every format of tables, whatever its backends and policies.
#[test]
fn a_row_is_one_line() {
    let rows = frontend_rows(reconciler().maps(), 40);
    let lines = rows.len() + 1;
    for format in [Format::Table, Format::Wide] {
        let text = text(format, frontend_rows(reconciler().maps(), 40));
        assert_eq!(text.lines().count(), lines, "{text}");
        assert!(!text.contains('\u{1b}'), "no colour in a pipe: {text:?}");
    }
}

/// The NodePort on IPv4.
fn node_port() -> frontends::FrontendRow {
    frontend_rows(reconciler().maps(), 40).remove(3)
}

#[test]
fn frontends_as_json() {
    expect![[r#"
        {
          "frontends": [
            {
              "service": "shop/web",
              "port_name": "http",
              "family": "IPv4",
              "address": "*",
              "port": 30080,
              "protocol": "TCP",
              "type": "NodePort",
              "internal": {
                "backends": [
                  "10.244.1.4:8080",
                  "10.244.2.4:8080"
                ],
                "local": 1,
                "policy": "Cluster",
                "when_empty": "reject"
              },
              "external": {
                "backends": [
                  "10.244.1.4:8080"
                ],
                "local": 1,
                "policy": "Local",
                "when_empty": "drop"
              },
              "affinity_seconds": 10800,
              "needs_source_address": false,
              "translated": 40,
              "refused": 2,
              "flows": {
                "sent": {
                  "packets": 0,
                  "bytes": 0
                },
                "received": {
                  "packets": 0,
                  "bytes": 0
                }
              },
              "tcp": {
                "opened": 77,
                "open": 77,
                "failures": {
                  "abandoned": 0,
                  "refused": 1,
                  "reset": 2,
                  "timed_out": 0,
                  "unreachable": 0
                },
                "sent_bytes": 0,
                "received_bytes": 0,
                "retransmissions": 0,
                "round_trip_us": null
              },
              "created": null
            }
          ]
        }
    "#]]
    .assert_eq(&text(Format::Json, vec![node_port()]));
}

#[test]
fn frontends_as_yaml() {
    expect![[r#"
        ---
        frontends:
        - service: shop/web
          port_name: http
          family: IPv4
          address: "*"
          port: 30080
          protocol: TCP
          type: NodePort
          internal:
            backends:
            - 10.244.1.4:8080
            - 10.244.2.4:8080
            local: 1
            policy: Cluster
            when_empty: reject
          external:
            backends:
            - 10.244.1.4:8080
            local: 1
            policy: Local
            when_empty: drop
          affinity_seconds: 10800
          needs_source_address: false
          translated: 40
          refused: 2
          flows:
            sent:
              packets: 0
              bytes: 0
            received:
              packets: 0
              bytes: 0
          tcp:
            opened: 77
            open: 77
            failures:
              abandoned: 0
              refused: 1
              reset: 2
              timed_out: 0
              unreachable: 0
            sent_bytes: 0
            received_bytes: 0
            retransmissions: 0
            round_trip_us: null
          created: null
    "#]]
    .assert_eq(&text(Format::Yaml, vec![node_port()]));
}

#[test]
fn an_agent_adds_ages_pods_and_nodes() {
    let reconciler = reconciler();
    let (maps, labels) = (reconciler.maps(), Labels::read(reconciler.maps()).unwrap());
    let now: Timestamp = "2026-01-08T03:00:00Z".parse().unwrap();
    let web = ServiceDetails {
        service: "shop/web".to_owned(),
        created: Some("2026-01-01T00:00:00Z".parse().unwrap()),
        labels: [].into(),
    };
    let services = [(web.service.clone(), web)].into();
    let mut rows = frontend_rows(maps, 40);
    let before = rows.clone();
    rows.iter_mut().for_each(|row| row.set_age(&services, now));
    let ages: Vec<_> = rows.iter().map(|row| row.cells(false).pop().unwrap()).collect();
    assert_eq!(ages, ["<unknown>", "7d3h", "7d3h", "7d3h", "7d3h"]);
    assert!(!rows[1].is_unchanged(&before[1]), "the time of the Service is known now");
    let mut later = rows.clone();
    later.iter_mut().for_each(|row| row.set_age(&services, now + 1.hours()));
    assert!(later[1].is_unchanged(&rows[1]), "only time has passed");

    let endpoint = |service: &str, address: &str, pod: Option<&str>| EndpointDetails {
        service: service.to_owned(),
        address: address.parse().unwrap(),
        pod: pod.map(str::to_owned),
        node: Some("node-1".to_owned()),
        zone: Some("a".to_owned()),
    };
    let endpoints = [
        endpoint("shop/web", "10.244.1.4", Some("shop/web-0")),
        endpoint("shop/web", "10.244.2.4", None),
        endpoint("shop/db", "10.244.2.5", Some("shop/db-0")),
    ];
    let endpoints = endpoints.map(|one| ((one.service.clone(), one.address), one)).into();
    let mut rows = backends::read(maps, &labels, &Selection::default(), true, connections).unwrap();
    rows.iter_mut().for_each(|row| row.set_details(&endpoints));
    expect![[r#"
        SERVICE        ADDRESS          PROTOCOL  READY  STATE        HEALTH  SETS           POD         NODE    ZONE
        shop/web:http  10.244.1.4:8080  TCP       true   ready        -       cluster,local  shop/web-0  node-1  a
        shop/web:http  10.244.2.4:8080  TCP       true   ready        -       cluster        -           node-1  a
        shop/web:http  10.244.2.5:8080  TCP       false  terminating  -       -              -           -       -
    "#]]
    .assert_eq(&text(Format::Table, rows));
}

#[test]
fn ids_of_rows_are_unique() {
    let rows = frontend_rows(reconciler().maps(), 0);
    let ids: std::collections::BTreeSet<_> = rows.iter().map(Row::id).collect();
    assert_eq!(ids.len(), rows.len(), "{ids:?}");
}

#[test]
fn backends_with_state_and_sets() {
    let reconciler = reconciler();
    let labels = Labels::read(reconciler.maps()).unwrap();
    let rows =
        || backends::read(reconciler.maps(), &labels, &Selection::default(), true, connections).unwrap();
    expect![[r#"
        SERVICE        ADDRESS          PROTOCOL  READY  STATE        HEALTH  SETS           POD  NODE  ZONE  OPENED  OPEN  FAILED  RTT     INDEX  GENERATION
        shop/web:http  10.244.1.4:8080  TCP       true   ready        -       cluster,local  -    -     -     6       2     0       0.18ms  0      1
        shop/web:http  10.244.2.4:8080  TCP       true   ready        -       cluster        -    -     -     6       2     0       0.18ms  1      1
        shop/web:http  10.244.2.5:8080  TCP       false  terminating  -       -              -    -     -     6       2     0       0.18ms  2      1
    "#]]
    .assert_eq(&text(Format::Wide, rows()));
    expect![[r#"
        {
          "backends": [
            {
              "service": "shop/web",
              "port_name": "http",
              "address": "10.244.2.5:8080",
              "protocol": "TCP",
              "state": "terminating",
              "sets": [],
              "index": 2,
              "generation": 1,
              "health": null,
              "tcp": {
                "opened": 6,
                "open": 2,
                "failures": {
                  "abandoned": 0,
                  "refused": 0,
                  "reset": 0,
                  "timed_out": 0,
                  "unreachable": 0
                },
                "sent_bytes": 0,
                "received_bytes": 0,
                "retransmissions": 0,
                "round_trip_us": 180
              },
              "pod": null,
              "node": null,
              "zone": null
            }
          ]
        }
    "#]]
    .assert_eq(&text(Format::Json, rows().split_off(2)));
}

#[test]
fn affinity_entries_have_a_state() {
    let reconciler = reconciler();
    let maps = reconciler.maps();
    let labels = Labels::read(maps).unwrap();
    let index = |address: &str| {
        let find = |index: &u32| maps.backend(IpFamily::V4, *index).unwrap().address.to_string() == address;
        (0..16).find(find).unwrap()
    };
    let service = |name: &str| {
        maps.services().unwrap().into_iter().find(|(_, label)| label.as_str().starts_with(name)).unwrap().0
    };
    let (web, empty) = (service("shop/web"), service("blog/empty"));
    let first = BackendRef { index: index("10.244.1.4:8080"), generation: 1 };
    let unused = BackendRef { index: index("10.244.2.5:8080"), generation: 1 };
    assert!(!maps.backend(IpFamily::V4, unused.index).unwrap().flags.contains(BackendFlags::IN_CLUSTER_SET));
    let gone = BackendRef { generation: 7, ..first };
    let client = |number| AffinityKey::new(mapped([10, 244, 1, number]), web);
    let entries = [
        (AffinityKey::from_netns(4711, web), first, 20_000),
        (client(9), first, 9_000),
        (client(10), gone, 20_000),
        (client(11), unused, 20_000),
        (AffinityKey::from_netns(4711, empty), first, 20_000),
    ];
    let read = |family| {
        let at = |(key, backend, seconds): (_, _, u64)| {
            (key, AffinityEntry { backend, last_used: seconds * 1_000_000_000 })
        };
        Ok(if family == IpFamily::V4 { entries.iter().copied().map(at).collect() } else { Vec::new() })
    };
    let now = Duration::from_secs(20_000 + 90);
    let rows = || affinity::read(maps, &labels, &Selection::default(), read, now).unwrap();
    expect![[r#"
        CLIENT       SERVICE        BACKEND          AGE   EXPIRES IN  PROTOCOL  STATE     ADDRESS
        netns:4711   blog/empty     -                90s   off         TCP       off       netns:4711
        10.244.1.10  shop/web:http  -                90s   gone        TCP       gone      10.244.1.10
        10.244.1.11  shop/web:http  10.244.2.5:8080  90s   gone        TCP       gone      10.244.1.11
        10.244.1.9   shop/web:http  10.244.1.4:8080  3h4m  expired     TCP       expired   10.244.1.9
        netns:4711   shop/web:http  10.244.1.4:8080  90s   178m        TCP       followed  netns:4711
    "#]]
    .assert_eq(&text(Format::Wide, rows()));
    let pods = [("10.244.1.9".parse().unwrap(), "shop/web-0".to_owned())].into();
    let mut named = rows();
    named.iter_mut().for_each(|row| row.set_pod(&pods));
    let clients: Vec<_> = named.iter().map(|row| row.cells(false).swap_remove(0)).collect();
    assert_eq!(clients, ["netns:4711", "10.244.1.10", "10.244.1.11", "shop/web-0", "netns:4711"]);
    let followed = rows().into_iter().filter(affinity::AffinityRow::is_followed).collect();
    expect![[r#"
        {
          "affinity": [
            {
              "client": "netns:4711",
              "service": "shop/web",
              "port_name": "http",
              "protocol": "TCP",
              "family": "IPv4",
              "backend": "10.244.1.4:8080",
              "state": "followed",
              "age_seconds": 90,
              "expires_in_seconds": 10710,
              "pod": null
            }
          ]
        }
    "#]]
    .assert_eq(&text(Format::Json, followed));
}

#[test]
fn watch_prints_changed_and_removed_rows() {
    let before = frontend_rows(reconciler().maps(), 40);
    let mut now = frontend_rows(reconciler().maps(), 41);
    let rest = now.split_off(1);
    let (before, same) =
        (Listing { rows: before, footer: Footer::Empty }, frontend_rows(reconciler().maps(), 40));
    assert!(Document::changes(&before, &Listing { rows: same, footer: Footer::Empty }).is_none());
    let now = Listing {
        rows: rest,
        footer: Footer::Frontends {
            refusals: [("no_endpoint".into(), 3), ("needs_source_address".into(), 0)].into(),
            is_all: true,
            node_ports_at: Some(vec!["192.0.2.11".parse().unwrap()]),
        },
    };
    let text = Document::changes(&before, &now).unwrap().text(&Format::Table, Headers::None).unwrap();
    expect![[r#"
        shop/web:http  ClusterIP  10.96.0.10  80/TCP     2 (1 local)                ClientIP              41  2  <unknown>
        shop/web:http  ClusterIP  fd96::10    80/TCP     reject                     ClientIP              -   -  <unknown>
        shop/web:http  NodePort   *           30080/TCP  2 (1 local), out: 1 local  out: Local, ClientIP  -   -  <unknown>
        shop/web:http  NodePort   [*]         30080/TCP  reject                     out: Local, ClientIP  -   -  <unknown>
        gone: [fd96::1]:80/TCP of blog/empty

        NodePorts are served at 192.0.2.11

        refused: 3 no_endpoint
    "#]]
    .assert_eq(&text);
    assert_eq!(self::text(Format::Table, Vec::<backends::BackendRow>::new()), "no backends\n");
}

#[test]
fn a_dead_name_server_is_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("dns.yaml"), DNS_SERVICE).unwrap();
    let service = ServiceKey::new("kube-system", "kube-dns");
    let listens = Some(vec!["192.0.2.1:53".parse().unwrap()]);
    let name_server = Some(NameServer { service, listens, allow: Vec::new(), local_addresses: Vec::new() });
    let node_addresses = vec!["192.0.2.1".parse().unwrap()];
    let policy = Policy { node_name: "node-1".into(), name_server, node_addresses, ..Policy::default() };
    let (index, _) = manifests::load(dir.path()).unwrap().to_index(policy);
    let capacity =
        Capacity { frontends: 16, descriptors: 16, slots: 64, backends: 16, services: 16, source_ranges: 64 };
    let mut reconciler = Reconciler::adopt(FakeMaps::new(capacity)).unwrap();
    assert!(reconciler.apply_all(index.frontends()).failed.is_empty());
    let maps = reconciler.maps();
    let labels = Labels::read(maps).unwrap();
    let state = |is_up| {
        let all = Selection::default();
        let backends = text(Format::Table, backends::read(maps, &labels, &all, is_up, connections).unwrap());
        let stats = |_| Ok(<(ServiceStats, ServiceConnections)>::default());
        let frontends = text(Format::Wide, frontends::read(maps, &labels, &all, is_up, stats).unwrap());
        let line = backends.lines().find(|line| line.contains("192.0.2.1:53")).unwrap().to_owned();
        (line.contains("ready"), line.contains("down"), frontends.contains("192.0.2.1:53"))
    };
    assert_eq!(state(true), (true, false, true));
    assert_eq!(state(false), (false, true, false));
}

const DNS_SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata: {namespace: kube-system, name: kube-dns}
spec: {clusterIP: 10.96.0.53, clusterIPs: [10.96.0.53], ports: [{name: dns, port: 53, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: kube-system, name: dns-1, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}]
endpoints:
- {addresses: [10.244.2.4], nodeName: node-2, conditions: {ready: true}}
"#;

/// The JSON of a report is read as the same rows, whatever they are printed as.
#[track_caller]
fn comes_back<R: Row>(listing: &Listing<R>, finish: impl Fn(&mut [R])) {
    let text =
        |listing: &Listing<R>, format: &Format| Document::full(listing).text(format, Headers::Shown).unwrap();
    let mut read = Listing::<R>::parse(&text(listing, &Format::Json)).unwrap();
    finish(&mut read.rows);
    assert_eq!(read.footer, listing.footer);
    for format in [Format::Table, Format::Wide, Format::Json, Format::Yaml, Format::Name] {
        assert_eq!(text(&read, &format), text(listing, &format));
    }
}

#[test]
fn listings_of_a_report_are_read_as_they_were() {
    let reconciler = reconciler();
    let maps = reconciler.maps();
    let labels = Labels::read(maps).unwrap();
    let footer = Footer::Frontends {
        refusals: [("no_endpoint".into(), 3)].into(),
        is_all: true,
        node_ports_at: Some(vec!["192.0.2.11".parse().unwrap()]),
    };
    comes_back(&Listing { rows: frontend_rows(maps, 40), footer }, frontends::mark_first);
    let rows = backends::read(maps, &labels, &Selection::default(), true, connections).unwrap();
    assert!(!rows.is_empty());
    comes_back(&Listing { rows, footer: Footer::Empty }, |_| ());
    let error = Listing::<backends::BackendRow>::parse(r#"{"backends": [{"service": 1}]}"#).err().unwrap();
    assert_eq!(error.to_string(), "its backends cannot be read");
}
