//! Comparison of the fast path with the slow path.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc, time::Instant};

use hickory_server::proto::{
    op::{Edns, Message, Query},
    rr::{Name as HickoryName, Record, RecordType},
};
use serde_json::Value;

use super::*;
use crate::{
    cluster::{
        name::domain,
        snapshot::Index,
        zone::{self, Change, ObjectName, ReadOptions, ServiceKey},
    },
    config::{Forward, Kubernetes, Listen, PodsMode, Upstream, Zones},
    observe::metrics::{Metrics, Transport},
    plugins::{ServerBlock, hosts::Hosts, template::Template},
    resolve::forward::ServerContext,
};

mod cached;
mod directives;
mod topics;
mod transfers;

const CASES: [&str; 2] =
    [include_str!("../../../testdata/cases/dns.json"), include_str!("../../../testdata/cases/more.json")];
const QTYPES: [RecordType; 10] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::SRV,
    RecordType::PTR,
    RecordType::CNAME,
    RecordType::TXT,
    RecordType::SOA,
    RecordType::NS,
    RecordType::ANY,
    RecordType::HTTPS,
];

fn groups() -> Vec<Value> {
    let files = CASES.iter().map(|text| serde_json::from_str::<Value>(text).unwrap());
    files.flat_map(|file| file["groups"].as_array().unwrap().clone()).collect()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
}

async fn handler(config: &Value, changes: impl IntoIterator<Item = Change>) -> Handler {
    handler_with(kubernetes(config), changes).await
}

fn kubernetes(config: &Value) -> Kubernetes {
    let zones = |field: &str| Zones(texts(&config[field]).iter().map(|text| domain(text).unwrap()).collect());
    let mut kubernetes = Kubernetes::new(zones("zones"));
    if kubernetes.zones.0.is_empty() {
        kubernetes.zones = Zones(vec![domain("cluster.local").unwrap()]);
    }
    kubernetes.fallthrough = zones("fallthrough");
    kubernetes.namespaces = texts(&config["namespaces"]);
    kubernetes.ignore_empty_service = config["ignore_empty_service"] == true;
    kubernetes.pods = PodsMode::Insecure;
    kubernetes
}

async fn handler_with(kubernetes: Kubernetes, changes: impl IntoIterator<Item = Change>) -> Handler {
    let block = ServerBlock {
        kubernetes: Some(kubernetes),
        ..ServerBlock::new(vec![Listen::plain(HickoryName::root().into())])
    };
    handler_of_block(&block, changes).0
}

/// A handler with one block, and its metrics.
fn handler_of_block(
    block: &ServerBlock,
    changes: impl IntoIterator<Item = Change>,
) -> (Handler, Arc<Metrics>) {
    let namespaces = block.kubernetes.as_ref().and_then(|kubernetes| kubernetes.namespace_labels.clone());
    let read = ReadOptions { namespace_labels: namespaces, ..ReadOptions::default() };
    let context = ServerContext::default();
    let own = [Ipv4Addr::new(10, 0, 0, 53).into()];
    let block = Block::start(block, "dns://:53", &own, &context).unwrap();
    let mut index = Index::new(&read);
    changes.into_iter().for_each(|change| index.apply(change));
    let published = Published::default();
    published.publish(index.snapshot(7));
    let dropped = context.metrics.queries("dns://:53", "dropped");
    (Handler::new(vec![Arc::new(block)], Arc::new(published), dropped), context.metrics)
}

fn change(object: &Value) -> Option<Change> {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text("namespace"), text("name"));
    let id = ObjectName { namespace: namespace.clone().into(), name: name.clone().into() };
    let parsed = object.clone();
    match object["kind"].as_str()? {
        "Service" => {
            let service = zone::service(&serde_json::from_value(parsed).unwrap(), &ReadOptions::default());
            Some(Change::Service(ServiceKey::new(&namespace, &name)?, Some(Arc::new(service))))
        }
        "EndpointSlice" => {
            let slice = zone::slice(&id, &serde_json::from_value(parsed).unwrap(), &ReadOptions::default());
            Some(Change::Slice(id, slice.map(Arc::new)))
        }
        "Namespace" => Some(Change::Namespace(name.into(), true)),
        _ => None,
    }
}

fn request(name: &str, qtype: RecordType, payload: Option<u16>) -> Option<Vec<u8>> {
    let mut name = HickoryName::from_ascii(name).ok()?;
    name.set_fqdn(true);
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, qtype));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload).set_dnssec_ok(payload > 1000);
        message.set_edns(edns);
    }
    message.to_vec().ok()
}

fn client(transport: Transport) -> Client {
    Client {
        transport,
        address: Ipv4Addr::LOCALHOST.into(),
        port: 4242,
        local: Ipv4Addr::LOCALHOST.into(),
        is_encrypted: false,
        is_http: false,
    }
}

/// The client of queries on the slow path.
fn other_client(transport: Transport) -> Client {
    Client {
        transport,
        address: Ipv4Addr::new(127, 0, 0, 2).into(),
        port: 4242,
        local: Ipv4Addr::LOCALHOST.into(),
        is_encrypted: false,
        is_http: false,
    }
}

/// The content of a message, independent of order and case.
fn content(reply: &[u8]) -> BTreeMap<&'static str, Vec<String>> {
    let message = Message::from_vec(reply).unwrap();
    let texts = |records: &[Record]| {
        let mut texts: Vec<_> = records.iter().map(|record| record.to_string().to_lowercase()).collect();
        texts.sort();
        texts
    };
    BTreeMap::from([
        ("header", vec![format!("{:?} {:?}", message.metadata, message.queries)]),
        ("edns", vec![format!("{:?}", message.edns)]),
        ("answers", texts(&message.answers)),
        ("authorities", texts(&message.authorities)),
        ("additionals", texts(&message.additionals)),
    ])
}

/// Compares both paths. Returns the number of queries that the fast path answered, 0 or 1.
fn compare(handler: &Handler, request: &[u8], transport: Transport) -> usize {
    let Some(fast_path) = handler.fast_path(request, client(transport), Instant::now()) else { return 0 };
    let Handled::Reply(slow_path) = handler.slow_path(request, other_client(transport), Instant::now())
    else {
        panic!("the slow path has no reply to {request:?}");
    };
    let (mut fast_path, mut slow_path) = (content(&fast_path), content(&slow_path));
    if fast_path["header"][0].contains("truncation: true")
        || slow_path["header"][0].contains("truncation: true")
    {
        // The paths compress names differently, so another number of answers fits.
        let (mine, other) = (fast_path.clone(), slow_path.clone());
        for (kept, other) in [(&mut fast_path, other), (&mut slow_path, mine)] {
            kept.insert("header", Vec::new());
            kept.insert("additionals", Vec::new());
            let is_shared = |answer: &String| other["answers"].contains(answer);
            let common = kept["answers"].iter().filter(|answer| is_shared(answer)).cloned().collect();
            kept.insert("answers", common);
        }
    } else if fast_path["additionals"].len() != slow_path["additionals"].len() {
        // Optional records: better compression on the fast path leaves more space for them.
        assert!(fast_path["additionals"].len() > slow_path["additionals"].len());
        slow_path.insert("additionals", fast_path["additionals"].clone());
    }
    assert_eq!(fast_path, slow_path, "{request:?} over {transport:?}");
    1
}

#[tokio::test]
async fn both_paths_give_the_same_answers() {
    let mut fast_path_replies = 0;
    for group in groups() {
        let objects = group["objects"].as_array().unwrap().iter().filter_map(change);
        let handler = handler(&group["config"], objects).await;
        for query in group["queries"].as_array().unwrap() {
            for qtype in QTYPES {
                for (transport, payload) in
                    [(Transport::Udp, None), (Transport::Udp, Some(700)), (Transport::Tcp, Some(1232))]
                {
                    let request = request(query["qname"].as_str().unwrap(), qtype, payload);
                    fast_path_replies += request.map_or(0, |request| compare(&handler, &request, transport));
                }
            }
        }
        let recorded = handler.dropped.clients().report().clients;
        let [fast_path, slow_path] = recorded.as_slice() else { panic!("{recorded:?}") };
        assert_eq!(fast_path.1, slow_path.1, "both count the same topic");
    }
    assert!(fast_path_replies > 5000, "{fast_path_replies} replies of the fast path");
}

#[tokio::test]
async fn namespaces_that_are_not_selected_are_nxdomain() {
    let service = |namespace: &str, n: u8| {
        let spec = serde_json::json!({"spec": {"clusterIP": format!("10.96.0.{n}")}});
        let read = zone::service(&serde_json::from_value(spec).unwrap(), &ReadOptions::default());
        Change::Service(ServiceKey::new(namespace, "web").unwrap(), Some(Arc::new(read)))
    };
    // The index holds only the Namespaces that the label selector matches.
    let changes = [service("shop", 1), service("other", 2), Change::Namespace("shop".into(), true)];
    let mut kubernetes =
        Kubernetes::new(Zones(["cluster.local", "10.in-addr.arpa"].map(|zone| domain(zone).unwrap()).into()));
    kubernetes.namespace_labels = Some("team=a".parse().unwrap());
    kubernetes.pods = PodsMode::Insecure;
    let handler = handler_with(kubernetes, changes).await;
    for (name, qtype, rcode) in [
        ("web.shop.svc.cluster.local.", RecordType::A, 0),
        ("web.other.svc.cluster.local.", RecordType::A, 3),
        ("other.svc.cluster.local.", RecordType::A, 3),
        ("10-1-0-1.other.pod.cluster.local.", RecordType::A, 3),
        ("1.0.96.10.in-addr.arpa.", RecordType::PTR, 0),
        ("2.0.96.10.in-addr.arpa.", RecordType::PTR, 3),
    ] {
        let request = request(name, qtype, None).unwrap();
        let Handled::Reply(reply) = handler.handle(&request, client(Transport::Udp)) else {
            panic!("{name}")
        };
        assert_eq!(reply[3] & 0xf, rcode, "{name}");
    }
}

#[tokio::test]
async fn a_client_with_many_pending_queries_leaves_places_to_others() {
    const LIMIT: u32 = 100;
    // Nothing is sent before a pending query is polled.
    let upstream = Upstream::plain("192.0.2.1:53".parse().unwrap());
    let forward = Forward { max_concurrent: Some(LIMIT), ..Forward::to(vec![upstream]) };
    let block = ServerBlock {
        forwards: vec![forward],
        ..ServerBlock::new(vec![Listen::plain(HickoryName::root().into())])
    };
    let (handler, metrics) = handler_of_block(&block, []);
    let ask = |last: u8| {
        let client = Client { address: Ipv4Addr::new(10, 0, 0, last).into(), ..client(Transport::Udp) };
        handler.handle(&request("www.example.", RecordType::A, None).unwrap(), client)
    };
    let pending = |last: u8| -> Vec<Handled> {
        let all = (0..LIMIT).map(|_| ask(last));
        all.filter(|handled| matches!(handled, Handled::Pending(_))).collect()
    };
    let first = pending(1);
    assert_eq!(first.len(), 25, "a quarter");
    let Handled::Reply(refused) = ask(1) else { panic!("one more is pending") };
    assert_eq!(Message::from_vec(&refused).unwrap().metadata.response_code, ResponseCode::Refused);
    assert!(metrics.text().contains("reason=\"client\"} 76"), "{}", metrics.text());
    assert_eq!(pending(2).len(), 18, "a quarter of the 75 that the first leaves");
    drop(first);
    assert_eq!(pending(1).len(), 25, "its places are free again");
}

fn headless(endpoints: u32, named: bool) -> Vec<Change> {
    let service = serde_json::from_value(serde_json::json!({"spec": {"clusterIP": "None"}})).unwrap();
    let key = ServiceKey::new("shop", "huge").unwrap();
    let slice = |n: u32| {
        let endpoint = |i: u32| {
            let address = Ipv4Addr::from(0x0a00_0000 + n * 100 + i);
            let hostname = named.then(|| format!("a-rather-long-hostname-{n}-{i}"));
            serde_json::json!({"addresses": [address], "hostname": hostname})
        };
        serde_json::json!({"kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("s{n}"), "namespace": "shop", "labels": {"kubernetes.io/service-name": "huge"}},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            "endpoints": (0..100).map(endpoint).collect::<Vec<_>>()})
    };
    let slices = (0..endpoints / 100).filter_map(|n| change(&slice(n)));
    let service = Change::Service(key, Some(Arc::new(zone::service(&service, &ReadOptions::default()))));
    std::iter::once(service).chain(slices).collect()
}

#[tokio::test]
async fn long_answers_are_truncated_at_the_size_limit() {
    let limits = [
        (Transport::Udp, None, 512),
        (Transport::Udp, Some(1232), 1232),
        (Transport::Tcp, Some(1232), 65_535),
    ];
    for (endpoints, named) in [(300, true), (5000, false), (5000, true)] {
        let handler = handler(&Value::Null, headless(endpoints, named)).await;
        for name in ["huge.shop.svc.cluster.local.", "_http._tcp.huge.shop.svc.cluster.local."] {
            for (transport, payload, limit) in limits {
                let qtype = if name.starts_with('_') { RecordType::SRV } else { RecordType::A };
                let request = request(name, qtype, payload).unwrap();
                if endpoints < 1000 {
                    compare(&handler, &request, transport);
                }
                let reply = handler.fast_path(&request, client(transport), Instant::now()).unwrap();
                let message = Message::from_vec(&reply).unwrap();
                let case =
                    format!("{endpoints} named {named}: {name} over {transport:?}, {} octets", reply.len());
                assert!(reply.len() <= limit, "{case}");
                assert_eq!(message.edns.is_some(), payload.is_some(), "{case}");
                let is_whole = message.answers.len() == usize::try_from(endpoints).unwrap();
                assert_eq!(message.metadata.truncation, !is_whole, "{case}");
                // The message is full: no record here takes more than 60 octets.
                assert!(is_whole || reply.len() > limit - 60, "{case}");
            }
        }
    }
}

#[tokio::test]
async fn owner_names_are_compressed_to_the_question() {
    let handler = handler(&Value::Null, headless(300, false)).await;
    let request = request("huge.shop.svc.cluster.local.", RecordType::A, None).unwrap();
    let reply = handler.fast_path(&request, client(Transport::Tcp), Instant::now()).unwrap();
    // The header and question of the request, and 16 octets for each address.
    assert_eq!(reply.len(), request.len() + 300 * 16);
}

#[tokio::test]
async fn corrupted_requests_are_answered_or_dropped() {
    let handler = handler(&Value::Null, headless(100, true)).await;
    let plain = request("huge.shop.svc.cluster.local.", RecordType::SRV, Some(1232)).unwrap();
    let mut answered = 0;
    for at in 0..plain.len() {
        for value in [0, 1, 0x3f, 0x40, 0x7f, 0x80, 0xc0, 0xff] {
            let mut request = plain.clone();
            request[at] = value;
            for request in [&request[..], &request[..at]] {
                if let Handled::Reply(reply) = handler.handle(request, client(Transport::Udp)) {
                    assert!(reply.len() <= 1232 && reply[..2] == request[..2] && reply[2] & 0x80 != 0);
                    answered += 1;
                }
            }
        }
    }
    assert!(answered > 500, "{answered}");
}

#[tokio::test]
async fn panics_are_answered_and_counted() {
    let metrics = crate::observe::metrics::Metrics::default();
    let handler = Handler::new(Vec::new(), Arc::default(), metrics.queries("dns://:53", "dropped"));
    let request = request("web.default.svc.cluster.local.", RecordType::A, None).unwrap();
    let Handled::Reply(reply) = handler.catch_panic(&request, || panic!("on purpose")) else {
        panic!("no reply");
    };
    assert_eq!((&reply[..2], reply[3] & 0xf), (&request[..2], 2));
    assert!(matches!(handler.catch_panic(b"short", || panic!("on purpose")), Handled::Dropped));
    assert_eq!(metrics.panics(), 2);
    assert!(
        matches!(handler.handle(&request, client(Transport::Udp)), Handled::Reply(_)),
        "later requests are answered"
    );
}

/// Two blocks with a cluster domain each, the first also with `hosts` and `template`.
fn two_blocks(changes: impl IntoIterator<Item = Change>) -> Handler {
    let kubernetes = |zone: &str| Some(Kubernetes::new(Zones(vec![domain(zone).unwrap()])));
    let mut hosts = Hosts::new(Zones::all());
    hosts.file = "/nonexistent".into();
    hosts.entries = vec![(Ipv4Addr::new(10, 0, 0, 9).into(), domain("db.internal").unwrap())];
    hosts.fallthrough = Zones::all();
    let template = Template {
        class: DNSClass::IN,
        qtype: None,
        zones: Zones(vec![domain("filled.internal").unwrap()]),
        matches: vec!["".parse().unwrap()],
        answers: vec!["{{ .Name }} 60 IN CNAME near.shop.svc.cluster.local.".to_owned()],
        additionals: Vec::new(),
        authorities: Vec::new(),
        rcode: ResponseCode::NoError,
        fallthrough: Zones::default(),
    };
    let root = vec![Listen::plain(HickoryName::root().into())];
    let other = vec![Listen::plain(domain("other.local").unwrap())];
    let blocks = [
        ServerBlock {
            kubernetes: kubernetes("cluster.local"),
            hosts: Some(hosts),
            templates: vec![template],
            ..ServerBlock::new(root)
        },
        ServerBlock { kubernetes: kubernetes("other.local"), ..ServerBlock::new(other) },
    ];
    let context = ServerContext::default();
    let start = |block| Arc::new(Block::start(block, "dns://:53", &[], &context).unwrap());
    let mut index = Index::default();
    changes.into_iter().for_each(|change| index.apply(change));
    let published = Published::default();
    published.publish(index.snapshot(7));
    let dropped = context.metrics.queries("dns://:53", "dropped");
    Handler::new(blocks.iter().map(start).collect(), Arc::new(published), dropped)
}

#[tokio::test]
async fn aliases_are_followed_over_plugins_and_blocks() {
    let service = |name: &str, spec: Value| {
        let read = zone::service(
            &serde_json::from_value(serde_json::json!({ "spec": spec })).unwrap(),
            &ReadOptions::default(),
        );
        Change::Service(ServiceKey::new("shop", name).unwrap(), Some(Arc::new(read)))
    };
    let alias =
        |name: &str, to: &str| service(name, serde_json::json!({"type": "ExternalName", "externalName": to}));
    let handler = two_blocks([
        service("web", serde_json::json!({"clusterIP": "10.96.0.1"})),
        alias("listed", "db.internal"),
        alias("near", "web.shop.svc.other.local"),
        alias("gone", "missing.shop.svc.other.local"),
        alias("away", "www.example.org"),
        alias("ping", "pong.shop.svc.other.local"),
        alias("pong", "ping.shop.svc.cluster.local"),
        alias("filled", "www.filled.internal"),
    ]);
    for (name, rcode, answers, soa) in [
        ("listed", 0, 2, None),
        ("near", 0, 2, None),
        ("gone", 3, 1, Some("other.local.")),
        ("away", 0, 1, None),
        ("ping", 0, 1 + MAX_CHAIN, None),
        // A CNAME of `template`, then an ExternalName Service, then another block.
        ("filled", 0, 4, None),
        ("www.filled.internal.", 0, 3, None),
    ] {
        let whole =
            if name.ends_with('.') { name.to_owned() } else { format!("{name}.shop.svc.cluster.local.") };
        let request = request(&whole, RecordType::A, Some(1232)).unwrap();
        let Handled::Reply(reply) = handler.handle(&request, client(Transport::Udp)) else {
            panic!("{name}")
        };
        let message = Message::from_vec(&reply).unwrap();
        let owner = message.authorities.first().map(|record| record.name.to_string());
        assert_eq!((reply[3] & 0xf, message.answers.len()), (rcode, answers), "{name}");
        assert_eq!(owner.as_deref(), soa, "{name}");
        let mut chain = message.answers.iter().zip(message.answers.iter().skip(1));
        assert!(chain.all(|(one, next)| one.data.to_string() == next.name.to_string()), "{name}: {message}");
    }
}

#[tokio::test]
async fn queries_above_the_pending_limit_are_refused_and_counted() {
    let forwards = vec![Forward::to(vec![Upstream::plain((Ipv4Addr::LOCALHOST, 9).into())])];
    let root = vec![Listen::plain(HickoryName::root().into())];
    let context = ServerContext::default();
    let block = ServerBlock { forwards, ..ServerBlock::new(root) };
    let block = Block::start(&block, "dns://:53", &[], &context).unwrap();
    let dropped = context.metrics.queries("dns://:53", "dropped");
    let handler = Handler::new(vec![Arc::new(block)], Arc::default(), dropped);
    let request = request("www.example.org.", RecordType::A, None).unwrap();
    let Handled::Pending(pending) = handler.handle(&request, client(Transport::Udp)) else { panic!("known") };
    assert_eq!(pending.refuse()[3] & 0xf, 5);
    assert!(context.metrics.text().contains("portreeve_dns_forward_max_concurrent_rejects_total 1"));
}
