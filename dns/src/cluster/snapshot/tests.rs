use k8s_openapi::api::{core::v1, discovery::v1::EndpointSlice};
use serde_json::{Value, json};

use super::*;
use crate::cluster::zone::{self, ReadOptions};

fn service(spec: Value) -> Change {
    let object: v1::Service = serde_json::from_value(json!({"spec": spec})).unwrap();
    Change::Service(key(), Some(Arc::new(zone::service(&object, &ReadOptions::default()))))
}

fn key() -> ServiceKey {
    ServiceKey::new("Shop", "Web").unwrap()
}

fn object_name(name: &str) -> ObjectName {
    ObjectName { namespace: "shop".into(), name: name.into() }
}

fn slice(name: &str, endpoints: Value) -> Arc<Slice> {
    slice_read(name, endpoints, &ReadOptions::default())
}

fn slice_read(name: &str, endpoints: Value, options: &ReadOptions) -> Arc<Slice> {
    let object: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"port": 1}],
        "endpoints": endpoints}))
    .unwrap();
    Arc::new(zone::slice(&object_name(name), &object, options).unwrap())
}

fn add(name: &str, endpoints: Value) -> Change {
    Change::Slice(object_name(name), Some(slice(name, endpoints)))
}

fn texts(snapshot: &Snapshot) -> Vec<String> {
    let text = |record: ZoneRecord| match record.data {
        ZoneData::Address(address) => format!("{} {address}", record.name),
        ZoneData::Srv { port, target } => format!("{} SRV {port} {target}", record.name),
        ZoneData::Ptr(target) => format!("{} PTR {target}", record.name),
        ZoneData::Cname(target) => format!("{} CNAME {target}", record.name),
    };
    let mut texts: Vec<_> = snapshot.records().map(text).collect();
    texts.sort();
    texts
}

fn check(name: &str, changes: Vec<Change>, want: &[&str]) {
    let mut want = want.to_vec();
    want.sort_unstable();
    // The order of the objects does not matter.
    for backwards in [false, true] {
        let mut index = Index::default();
        let mut changes = changes.clone();
        if backwards {
            changes.reverse();
        }
        changes.into_iter().for_each(|change| index.apply(change));
        assert_eq!(texts(&index.snapshot(1)), want, "{name}, backwards: {backwards}");
    }
}

#[test]
fn records_follow_the_dns_specification() {
    check(
        "a dual-stack ClusterIP",
        vec![service(json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
            "ports": [{"name": "http", "port": 80}, {"port": 81, "protocol": "UDP"}]}))],
        &[
            "web.shop.svc 10.96.0.1",
            "web.shop.svc fd00::1",
            "_http._tcp.web.shop.svc SRV 80 web.shop.svc",
            "1.0.96.10.in-addr.arpa PTR web.shop.svc",
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR web.shop.svc",
        ],
    );
    check(
        "a headless Service",
        vec![
            service(json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]})),
            add(
                "a",
                json!([
                    {"addresses": ["10.1.0.1"], "hostname": "Web-0"},
                    {"addresses": ["10.1.0.2"]},
                    {"addresses": ["10.1.0.3"], "conditions": {"ready": false, "serving": true}}
                ]),
            ),
            add("b", json!([{"addresses": ["10.1.0.2"], "conditions": {"ready": true}}])),
        ],
        &[
            "web.shop.svc 10.1.0.1",
            "web.shop.svc 10.1.0.2",
            "web-0.web.shop.svc 10.1.0.1",
            "10-1-0-2.web.shop.svc 10.1.0.2",
            "_http._tcp.web.shop.svc SRV 8080 web-0.web.shop.svc",
            "_http._tcp.web.shop.svc SRV 8080 10-1-0-2.web.shop.svc",
            "1.0.1.10.in-addr.arpa PTR web-0.web.shop.svc",
            "2.0.1.10.in-addr.arpa PTR 10-1-0-2.web.shop.svc",
        ],
    );
    check(
        "an ExternalName",
        vec![
            service(
                json!({"type": "ExternalName", "externalName": "DB.example.org.", "clusterIP": "10.96.0.1"}),
            ),
            add("a", json!([{"addresses": ["10.1.0.1"]}])),
        ],
        &["web.shop.svc CNAME db.example.org"],
    );
    for name in ["10.0.0.1", "fd00::1", "", "a..b"] {
        let change = service(json!({"type": "ExternalName", "externalName": name}));
        check(name, vec![change], &[]);
    }
    check("a Service without an address", vec![service(json!({"ports": []}))], &[]);
    check("slices without a Service", vec![add("a", json!([{"addresses": ["10.1.0.1"]}]))], &[]);
}

#[test]
fn every_change_leaves_the_state_of_the_objects() {
    let headless = || service(json!({"clusterIP": "None"}));
    let mut index = Index::default();
    let endpoint = |ip: &str| json!([{"addresses": [ip], "hostname": "a"}]);
    for (step, change, want) in [
        ("appears", headless(), 0),
        ("gets an endpoint", add("a", endpoint("10.1.0.1")), 4),
        ("in two slices", add("b", endpoint("10.1.0.1")), 4),
        ("moves", add("a", endpoint("10.1.0.2")), 7),
        ("leaves one", Change::Slice(object_name("b"), None), 4),
        ("loses its Service", Change::Service(key(), None), 0),
        ("gets it back", headless(), 4),
        ("and another kind", service(json!({"clusterIP": "10.96.0.1"})), 4),
        ("loses the last slice", Change::Slice(object_name("a"), None), 2),
        ("is gone", Change::Service(key(), None), 0),
    ] {
        index.apply(change);
        assert_eq!(index.snapshot(1).records().count(), want, "{step}");
    }
    let end = index.snapshot(1);
    assert_eq!([end.services.len(), end.v4.len(), end.namespaces.len()], [0, 0, 0]);
    assert!(index.slices.is_empty() && index.namespaces.is_empty());
}

#[test]
fn endpoints_are_mirrored_for_services_that_select_no_pods() {
    let mirrored: Arc<[_]> = [slice("", json!([{"addresses": ["10.1.0.1"]}]))].into();
    let spec = |selector: Value| service(json!({"clusterIP": "None", "selector": selector}));
    let mut index = Index::default();
    for (step, change, want) in [
        ("before their Service", Change::Endpoints(key(), Some(mirrored.clone())), 0),
        ("no selector", spec(json!(null)), 4),
        ("a slice beside", add("a", json!([{"addresses": ["10.1.0.2"]}])), 8),
        ("pods are selected", spec(json!({"app": "web"})), 4),
        ("an empty selector", spec(json!({})), 8),
        ("gone", Change::Endpoints(key(), None), 4),
    ] {
        index.apply(change);
        assert_eq!(index.snapshot(1).records().count(), want, "{step}");
    }
}

#[test]
fn a_published_snapshot_does_not_change() {
    let mut index = Index::default();
    index.apply(service(json!({"clusterIP": "10.96.0.1"})));
    let before = index.snapshot(1);
    index.apply(service(json!({"clusterIP": "10.96.0.2"})));
    assert_eq!(texts(&before)[1], "web.shop.svc 10.96.0.1");
    assert_eq!(texts(&index.snapshot(2))[1], "web.shop.svc 10.96.0.2");
}

#[test]
fn addresses_and_namespaces_and_pods_are_found() {
    let mut index = Index::default();
    index.apply(service(json!({"clusterIP": "10.96.0.1"})));
    index.apply(add("a", json!([{"addresses": ["10.1.0.1"], "hostname": "a"}, {"addresses": ["10.1.0.2"]}])));
    index.apply(Change::Namespace("Empty".into(), true));
    let pod = Pod { namespace: "shop".into(), addresses: ["10.1.0.9".parse().unwrap()].into() };
    index.apply(Change::Pod(object_name("p"), Some(Arc::new(pod))));
    let snapshot = index.snapshot(1);
    let services_with = |text: &str| snapshot.services_with(text.parse().unwrap()).count();
    let found = ["10.96.0.1", "10.1.0.1", "10.1.0.2", "10.1.0.9"].map(services_with);
    assert_eq!(found, [1, 1, 1, 0]);
    let within =
        |first: &str, last: &str| snapshot.has_address_in(first.parse().unwrap(), last.parse().unwrap());
    assert!(within("10.1.0.0", "10.1.255.255") && !within("10.2.0.0", "10.2.255.255"));
    assert!(snapshot.has_namespace(b"shop") && snapshot.has_namespace(b"empty"));
    assert!(!snapshot.has_namespace(b"other"));
    assert!(snapshot.has_pod(b"shop", "10.1.0.9".parse().unwrap()));
    assert!(!snapshot.has_pod(b"empty", "10.1.0.9".parse().unwrap()));
    index.apply(Change::Pod(object_name("p"), None));
    assert!(!index.snapshot(1).has_pod(b"shop", "10.1.0.9".parse().unwrap()));
}

#[test]
fn pods_of_this_node_are_known_by_name() {
    let endpoint = |address: &str, node: &str, kind: &str, name: &str| json!({"addresses": [address], "nodeName": node, "targetRef": {"kind": kind, "name": name}});
    let mut unready = endpoint("10.1.0.2", "here", "Pod", "web-1");
    unready["conditions"] = json!({"ready": false});
    let slices = [
        json!([endpoint("10.1.0.1", "here", "Pod", "web-0"), unready]),
        json!([
            endpoint("10.1.0.3", "there", "Pod", "web-2"),
            endpoint("10.1.0.4", "here", "VirtualMachine", "vm"),
            {"addresses": ["10.1.0.5"], "nodeName": "here"},
            // One pod in two slices, as while endpoints move; and an address that is reused.
            endpoint("10.1.0.1", "here", "Pod", "web-0"),
            endpoint("10.1.0.6", "here", "Pod", "old"),
            endpoint("10.1.0.6", "here", "Pod", "new"),
        ]),
    ];
    for (node, want) in
        [("here", &["10.1.0.1 web-0", "10.1.0.2 web-1"][..]), ("there", &["10.1.0.3 web-2"]), ("", &[])]
    {
        let options = ReadOptions { node: node.into(), ..ReadOptions::default() };
        let mut index = Index::default();
        index.apply(service(json!({"clusterIP": "10.96.0.1"})));
        for (name, endpoints) in ["a", "b"].into_iter().zip(slices.clone()) {
            index.apply(Change::Slice(object_name(name), Some(slice_read(name, endpoints, &options))));
        }
        let snapshot = index.snapshot(1);
        let pods = snapshot.local_pods();
        let ready = ["10.1.0.1", "10.1.0.3", "10.1.0.6"].map(|text| text.parse().unwrap());
        let local = ready.into_iter().filter(|address| snapshot.is_local_pod(*address)).count();
        assert_eq!(local, if node == "here" { 2 } else { want.len() }, "{node:?}");
        let mut pods: Vec<_> = pods.iter().map(|(address, pod)| format!("{address} {}", pod.name)).collect();
        pods.sort();
        assert_eq!(pods, want, "{node:?}");
        assert!(snapshot.local_pods().values().all(|pod| &*pod.namespace == "shop"));
    }
}
