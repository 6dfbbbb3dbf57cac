mod cases;
mod properties;
mod scaling;

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::{Value, json};

use super::*;
use crate::{
    k8s,
    model::{
        address::Protocol,
        flow::{Flow, FlowOutcome, Plane},
        frontend::{FrontendAddress, WhenEmpty},
    },
};

const NODE: &str = "node-1";

fn service(value: Value) -> Change {
    let service: Service = serde_json::from_value(value).unwrap();
    let info = k8s::service::read(&service).unwrap().value;
    Change::Service(info.key.clone(), Some(Arc::new(info)))
}

fn slice(value: Value) -> Change {
    let slice: EndpointSlice = serde_json::from_value(value).unwrap();
    let info = k8s::endpoint_slice::read(&slice, NODE).unwrap().map(|read| Arc::new(read.value));
    Change::Slice(k8s::endpoint_slice::slice_key(&slice).unwrap(), info)
}

fn web() -> Change {
    service(json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"clusterIP": "10.96.0.10",
        "ports": [{"name": "http", "port": 80}]}}))
}

fn web_slice(name: &str, owner: &str, addresses: &[&str]) -> Change {
    let endpoints: Vec<_> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    slice(
        json!({"metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": owner}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}]}),
    )
}

fn web_key() -> FrontendKey {
    let address = FrontendAddress::Ip("10.96.0.10".parse().unwrap());
    FrontendKey { address, port: 80, protocol: Protocol::Tcp }
}

fn backends(index: &Index) -> Vec<String> {
    let frontend = index.frontend(&web_key()).unwrap();
    frontend.internal.backends.iter().map(|backend| backend.address.to_string()).collect()
}

#[test]
fn a_service_joins_its_slices_in_any_order_and_loses_them() {
    let mut index = Index::new(Policy::default());
    assert_eq!(index.apply(web_slice("a", "web", &["10.1.0.1"])), BTreeSet::new(), "no Service yet");
    assert_eq!(index.apply(web()), BTreeSet::from([web_key()]));
    assert_eq!(backends(&index), ["10.1.0.1:8080"]);

    assert_eq!(index.apply(web_slice("b", "web", &["10.1.0.2"])), BTreeSet::from([web_key()]));
    assert_eq!(index.apply(web_slice("b", "web", &["10.1.0.2"])), BTreeSet::new(), "nothing changed");
    assert_eq!(backends(&index), ["10.1.0.1:8080", "10.1.0.2:8080"]);

    index.apply(web_slice("a", "other", &["10.1.0.1"]));
    assert_eq!(backends(&index), ["10.1.0.2:8080"], "a relabelled slice belongs to another Service");

    index.apply(web_slice("b", "web", &[]));
    let frontend = index.frontend(&web_key()).unwrap();
    assert_eq!((frontend.internal.backends.len(), frontend.internal.when_empty), (0, WhenEmpty::Reject));

    let key = ServiceKey::new("shop", "web");
    assert_eq!(index.apply(Change::Service(key, None)), BTreeSet::from([web_key()]));
    assert_eq!(index.frontend(&web_key()), None);
}

#[test]
fn an_endpoint_departs_with_its_pod() {
    let pods = |pods: &[(&str, &str)]| {
        let target = |uid| json!({"kind": "Pod", "name": "p", "uid": uid});
        let endpoints: Vec<_> =
            pods.iter().map(|(ip, uid)| json!({"addresses": [ip], "targetRef": target(uid)})).collect();
        slice(
            json!({"metadata": {"name": "a", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}]}),
        )
    };
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let identity = PodIdentity::of;
    let departed = |index: &mut Index| -> Vec<_> {
        index.take_departures().into_iter().map(|Departure { address, pod }| (address, pod)).collect()
    };
    let mut index = Index::new(Policy::default());
    index.apply(pods(&[("10.1.0.1", "x"), ("10.1.0.2", "y")]));
    assert_eq!(departed(&mut index), [], "a new slice");
    index.apply(pods(&[("10.1.0.2", "y"), ("10.1.0.3", "z")]));
    assert_eq!(departed(&mut index), [(ip("10.1.0.1"), identity("x"))]);
    index.apply(pods(&[("10.1.0.2", "other"), ("10.1.0.3", "z")]));
    assert_eq!(departed(&mut index), [(ip("10.1.0.2"), identity("y"))], "handed over");
    let addresses = ["10.1.0.1", "10.1.0.2"].map(ip).into();
    assert_eq!(index.pods_at(&addresses), [(ip("10.1.0.2"), vec![identity("other")])].into());
    index.apply(web_slice("b", "elsewhere", &["10.1.0.1"]));
    assert!(index.pods_at(&addresses).contains_key(&ip("10.1.0.1")), "in the slice of another Service");
    index.apply(Change::Slice(
        SliceKey { namespace: "shop".into(), name: "a".into(), source: SliceSource::Slice },
        None,
    ));
    let all = [(ip("10.1.0.2"), identity("other")), (ip("10.1.0.3"), identity("z"))];
    assert_eq!(departed(&mut index), all, "a deleted slice");
}

#[test]
fn the_clusters_own_services_precede_and_the_largest_comes_last() {
    let mut index = Index::new(Policy::default());
    let ports =
        |count: u16| (1..=count).map(|n| json!({"name": format!("p{n}"), "port": n})).collect::<Vec<_>>();
    for (n, (namespace, name, count)) in [
        ("a", "huge", 30),
        ("b", "web", 1),
        ("kube-system", "z", 40),
        ("default", "kubernetes", 2),
        ("b", "api", 2),
    ]
    .into_iter()
    .enumerate()
    {
        index.apply(service(json!({"metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": format!("10.96.0.{}", n + 1), "ports": ports(count)}})));
    }
    let mut order: Vec<String> =
        index.frontends().map(|frontend| frontend.service.service.to_string()).collect();
    order.dedup();
    assert_eq!(order, ["default/kubernetes", "kube-system/z", "b/web", "b/api", "a/huge"]);
}

/// Only the node's connections to its own addresses have a source that a socket tells.
#[test]
fn the_source_of_own_connections_is_known_at_the_socket() {
    let ip = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    let node_addresses = ["192.0.2.1", "192.0.2.2", "203.0.113.1"].map(ip).into();
    let mut index = Index::new(Policy { node_addresses, ..Policy::default() });
    let ingress = ["203.0.113.1", "203.0.113.2"].map(|ip| json!({"ip": ip}));
    index.apply(service(json!({"metadata": {"name": "web", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.10", "type": "LoadBalancer", "ports": [{"name": "http", "port": 80}],
            "loadBalancerSourceRanges": ["192.0.2.1/32", "198.51.100.0/24"]},
        "status": {"loadBalancer": {"ingress": ingress}}})));
    index.apply(web_slice("a", "web", &["10.1.0.1"]));
    for (from, to, outcome, plane) in [
        ("192.0.2.1", "203.0.113.1", FlowOutcome::Dnat, Plane::Socket),
        // The node's primary address is in a range, so the VIP as its own source is admitted (rule H4).
        ("203.0.113.1", "203.0.113.1", FlowOutcome::Dnat, Plane::Socket),
        ("192.0.2.2", "203.0.113.1", FlowOutcome::Drop, Plane::Packet),
        ("192.0.2.1", "203.0.113.2", FlowOutcome::Dnat, Plane::Packet),
        ("198.51.100.1", "203.0.113.1", FlowOutcome::Dnat, Plane::Packet),
        ("192.0.2.2", "10.96.0.10", FlowOutcome::Dnat, Plane::Socket),
    ] {
        let destination = std::net::SocketAddr::new(ip(to), 80);
        let verdict = index.explain(&Flow { source: ip(from), destination, protocol: Protocol::Tcp });
        assert_eq!((verdict.outcome, verdict.plane), (outcome, plane), "from {from} to {to}");
    }
}
