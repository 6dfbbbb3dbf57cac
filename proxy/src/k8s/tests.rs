//! Sections A to C and V of the service rules: conversion of objects, in tables.

use serde_json::{Value, json};

use super::*;
use crate::model::{
    address::PerFamily,
    service::{Exclusion, ServiceInfo, TrafficPolicy},
};

/// A valid Service with these fields of its spec replaced.
fn service(spec: Value) -> Result<Parsed<ServiceInfo>, ObjectError> {
    service_with(json!({}), spec, json!({}))
}

fn service_with(labels: Value, spec: Value, status: Value) -> Result<Parsed<ServiceInfo>, ObjectError> {
    let mut full = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
        "ipFamilies": ["IPv4"], "ports": [{"name": "http", "port": 80}]});
    full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let object = json!({"metadata": {"name": "web", "namespace": "shop", "labels": labels}, "spec": full,
        "status": {"loadBalancer": status}});
    super::service::read(&serde_json::from_value(object).unwrap())
}

fn info(spec: Value) -> ServiceInfo {
    service(spec).unwrap().value
}

fn texts<T: ToString>(values: impl IntoIterator<Item = T>) -> Vec<String> {
    values.into_iter().map(|value| value.to_string()).collect()
}

#[test]
fn a1_b1_some_services_are_not_ours() {
    let proxy_name = "service.kubernetes.io/service-proxy-name";
    for (name, labels, spec, want) in [
        ("an ordinary one", json!({}), json!({}), None),
        ("a foreign proxy's", json!({proxy_name: "other"}), json!({}), Some(Exclusion::ForeignProxy)),
        ("an empty value counts", json!({proxy_name: ""}), json!({}), Some(Exclusion::ForeignProxy)),
        ("headless", json!({}), json!({"clusterIP": "None"}), Some(Exclusion::Headless)),
        ("no address", json!({}), json!({"clusterIP": ""}), Some(Exclusion::NoClusterIp)),
        ("null address", json!({}), json!({"clusterIP": null}), Some(Exclusion::NoClusterIp)),
        ("ExternalName", json!({}), json!({"type": "ExternalName"}), Some(Exclusion::ExternalName)),
    ] {
        assert_eq!(service_with(labels, spec, json!({})).unwrap().value.exclusion, want, "{name}");
    }
}

#[test]
fn b2_one_cluster_ip_per_family() {
    for (name, spec, want) in [
        ("single", json!({}), ["10.96.0.1", ""]),
        (
            "dual, IPv6 first",
            json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.96.0.1"], "ipFamilies": ["IPv6", "IPv4"]}),
            ["10.96.0.1", "fd00::1"],
        ),
        ("families decide, not the list", json!({"clusterIPs": ["10.96.0.1", "fd00::1"]}), ["10.96.0.1", ""]),
        ("old object", json!({"ipFamilies": null, "clusterIPs": null}), ["10.96.0.1", ""]),
        (
            "old object, IPv6",
            json!({"ipFamilies": [], "clusterIPs": null, "clusterIP": "fd00::1"}),
            ["", "fd00::1"],
        ),
        ("old object with a list", json!({"ipFamilies": [], "clusterIPs": ["10.96.0.9"]}), ["10.96.0.1", ""]),
        ("leading zeros", json!({"clusterIPs": ["10.96.0.041"]}), ["10.96.0.41", ""]),
        ("a mapped address is IPv4", json!({"clusterIPs": ["::ffff:10.96.0.4"]}), ["10.96.0.4", ""]),
        (
            "an invalid address costs its family only",
            json!({"clusterIPs": ["10.96.0.1", "fd00::zz"], "ipFamilies": ["IPv4", "IPv6"]}),
            ["10.96.0.1", ""],
        ),
        (
            "an unknown family",
            json!({"ipFamilies": ["IPv5", "IPv4"], "clusterIPs": ["?", "10.96.0.1"]}),
            ["10.96.0.1", ""],
        ),
    ] {
        let PerFamily { v4, v6 } = info(spec).cluster_ips;
        let text = |address: Option<IpAddr>| address.map(|address| address.to_string()).unwrap_or_default();
        assert_eq!([text(v4), text(v6)], want, "{name}");
    }
}

#[test]
fn a_service_without_any_address_is_reported() {
    for (name, spec, want) in [
        ("none assigned", json!({"clusterIP": ""}), ObjectError::NoClusterIp),
        ("families without addresses", json!({"clusterIPs": []}), ObjectError::NoClusterIps),
    ] {
        assert_eq!(service(spec).unwrap().ignored, [want], "{name}");
    }
}

#[test]
fn b3_b4_ports() {
    let ports = |spec: Value| {
        let ports = info(spec).ports;
        texts(ports.iter().map(|port| {
            format!("{}/{}/{}/{}", port.name, port.protocol, port.port, port.node_port.unwrap_or_default())
        }))
    };
    let udp = json!({"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 0, "targetPort": "x"});
    for (name, spec, want) in [
        ("protocol absent is TCP", json!({}), vec!["http/TCP/80/0"]),
        ("null protocol too", json!({"ports": [{"port": 80, "protocol": null}]}), vec!["/TCP/80/0"]),
        ("and an empty one", json!({"ports": [{"port": 80, "protocol": ""}]}), vec!["/TCP/80/0"]),
        (
            "a node port on any type",
            json!({"type": "ClusterIP", "ports": [{"port": 80, "nodePort": 30000}]}),
            vec!["/TCP/80/30000"],
        ),
        ("zero is no node port", json!({"ports": [udp]}), vec!["dns/UDP/53/0"]),
        (
            "name and protocol are the key, the later counts",
            json!({"ports": [{"name": "a", "port": 1}, {"name": "a", "port": 2}, {"name": "a", "port": 3, "protocol": "UDP"}]}),
            vec!["a/TCP/2/0", "a/UDP/3/0"],
        ),
        ("none", json!({"ports": null}), vec![]),
    ] {
        assert_eq!(ports(spec), want, "{name}");
    }
}

#[test]
fn an_invalid_port_costs_itself_only() {
    for (ports, want, error) in [
        (
            json!([{"port": 1}, {"port": -1}]),
            vec![(1, None)],
            "spec.ports[1].port: -1 is not a port (1 to 65535)",
        ),
        (
            json!([{"port": 1, "nodePort": 70000}]),
            vec![(1, None)],
            "spec.ports[0].nodePort: 70000 is not a port (1 to 65535)",
        ),
        (
            json!([{"port": 1, "protocol": "ICMP"}, {"port": 2, "nodePort": 30000}]),
            vec![(2, Some(30000))],
            "spec.ports[0].protocol: `ICMP` is not TCP, UDP or SCTP",
        ),
    ] {
        let Parsed { value, ignored } = service(json!({"ports": ports})).unwrap();
        let got: Vec<_> = value.ports.iter().map(|port| (port.port, port.node_port)).collect();
        assert_eq!((got, texts(ignored)), (want, texts([error])), "{ports}");
    }
}

#[test]
fn invalid_required_fields_reject_a_service() {
    for (spec, want) in [
        (json!({"ports": [{"port": 0}]}), "spec.ports[0].port: 0 is not a port (1 to 65535)"),
        (json!({"ports": [{"port": 65536}]}), "spec.ports[0].port: 65536 is not a port (1 to 65535)"),
        (
            json!({"ports": [{"port": 1, "protocol": "ICMP"}]}),
            "spec.ports[0].protocol: `ICMP` is not TCP, UDP or SCTP",
        ),
        (json!({"clusterIPs": ["10.96.0"]}), "spec.clusterIPs[0]: `10.96.0` is not an IP address"),
        (json!({"clusterIPs": ["0.0.0.0"]}), "spec.clusterIPs[0]: 0.0.0.0 is the unspecified address"),
        (json!({"clusterIPs": ["fd00::1"]}), "spec.clusterIPs[0]: fd00::1 is not an IPv4 address"),
        (json!({"ipFamilies": [], "clusterIP": "x"}), "spec.clusterIP: `x` is not an IP address"),
    ] {
        assert_eq!(service(spec.clone()).unwrap_err().to_string(), want, "{spec}");
    }
    let nameless = super::service::read(&serde_json::from_value(json!({"metadata": {}})).unwrap());
    assert_eq!(nameless, Err(ObjectError::Nameless));
}

#[test]
fn b5_external_ips() {
    for (name, ips, want, ignored) in [
        ("both families", json!(["1.2.3.4", "2001:DB8::1"]), vec!["1.2.3.4", "2001:db8::1"], 0),
        ("leading zeros", json!(["192.168.099.011"]), vec!["192.168.99.11"], 0),
        ("blank ones are ignored silently", json!(["", "  ", "1.2.3.4"]), vec!["1.2.3.4"], 0),
        ("garbage is ignored", json!(["foo", "1.2.3.4"]), vec!["1.2.3.4"], 1),
        ("the unspecified address", json!(["0.0.0.0", "::", "::ffff:0.0.0.0"]), vec![], 3),
    ] {
        let read = service(json!({"externalIPs": ips})).unwrap();
        assert_eq!((texts(&*read.value.external_ips), read.ignored.len()), (texts(want), ignored), "{name}");
    }
}

#[test]
fn b6_load_balancer_addresses() {
    for (name, ingress, want, ignored) in [
        ("no mode", json!([{"ip": "1.2.3.4"}]), vec!["1.2.3.4"], 0),
        ("VIP", json!([{"ip": "1.2.3.4", "ipMode": "VIP"}]), vec!["1.2.3.4"], 0),
        ("Proxy is the load balancer's own", json!([{"ip": "1.2.3.4", "ipMode": "Proxy"}]), vec![], 0),
        ("host names", json!([{"hostname": "lb.example.org"}, {"ip": "fd00::5"}]), vec!["fd00::5"], 0),
        ("garbage", json!([{"ip": "lb"}, {"ip": ""}, {"ip": "1.2.3.04"}]), vec!["1.2.3.4"], 1),
        ("the unspecified address", json!([{"ip": "0.0.0.0"}, {"ip": "::"}]), vec![], 2),
        ("nothing yet", json!(null), vec![], 0),
    ] {
        let read = service_with(json!({}), json!({"loadBalancerIP": "9.9.9.9"}), json!({"ingress": ingress}));
        let Parsed { value, ignored: found } = read.unwrap();
        assert_eq!((texts(&*value.vips), found.len()), (texts(want), ignored), "{name}");
    }
}

#[test]
fn b7_source_ranges() {
    for (name, ranges, v4, v6) in [
        ("host bits go", json!(["203.0.113.77/25"]), vec!["203.0.113.0/25"], vec![]),
        ("spaces and zeros", json!([" 203.0.113.000/025 "]), vec!["203.0.113.0/25"], vec![]),
        ("families apart", json!(["10.0.0.0/8", "fd00::/8"]), vec!["10.0.0.0/8"], vec!["fd00::/8"]),
        (
            "a zero prefix lifts the filter",
            json!(["10.0.0.0/8", "0.0.0.0/0", "fd00::/8"]),
            vec![],
            vec!["fd00::/8"],
        ),
        ("of any address", json!(["10.0.0.0/8", "10.0.0.0/0"]), vec![], vec![]),
        ("garbage", json!(["10.0.0.1", "x", "", "10.0.0.0/33", "10.0.0.0/8"]), vec!["10.0.0.0/8"], vec![]),
        ("only garbage filters nothing", json!(["x"]), vec![], vec![]),
    ] {
        let ranges = info(json!({"loadBalancerSourceRanges": ranges})).source_ranges;
        assert_eq!((texts(&*ranges.v4), texts(&*ranges.v6)), (texts(v4), texts(v6)), "{name}");
    }
}

#[test]
fn b8_b9_policies() {
    let (cluster, local) = (TrafficPolicy::Cluster, TrafficPolicy::Local);
    for (name, spec, want) in [
        ("LoadBalancer", json!({"type": "LoadBalancer"}), local),
        ("NodePort", json!({"type": "NodePort"}), local),
        ("ClusterIP", json!({"type": "ClusterIP"}), cluster),
        ("no type is ClusterIP", json!({"type": null}), cluster),
        ("ClusterIP with external IPs", json!({"type": "ClusterIP", "externalIPs": ["1.2.3.4"]}), local),
        ("even a garbage one", json!({"type": "ClusterIP", "externalIPs": [""]}), local),
        (
            "ClusterIP with a node port",
            json!({"type": "ClusterIP", "ports": [{"port": 1, "nodePort": 30000}]}),
            cluster,
        ),
        ("not requested", json!({"externalTrafficPolicy": "Cluster"}), cluster),
        ("unknown", json!({"externalTrafficPolicy": "Nearby"}), cluster),
    ] {
        let mut full = json!({"externalTrafficPolicy": "Local"});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        assert_eq!(info(full).external_policy, want, "{name}");
    }
    for (text, want) in [(json!("Local"), local), (json!("Cluster"), cluster), (json!(null), cluster)] {
        assert_eq!(info(json!({"internalTrafficPolicy": text})).internal_policy, want, "{text}");
    }
}

#[test]
fn b12_affinity() {
    let config = |seconds: Value| json!({"clientIP": {"timeoutSeconds": seconds}});
    for (name, spec, want) in [
        ("none", json!({"sessionAffinity": "None", "sessionAffinityConfig": config(json!(5))}), None),
        (
            "stated",
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config(json!(5))}),
            Some(5),
        ),
        ("absent", json!({"sessionAffinity": "ClientIP"}), Some(10_800)),
        (
            "null",
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config(json!(null))}),
            Some(10_800),
        ),
        (
            "not a time",
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config(json!(-1))}),
            Some(10_800),
        ),
    ] {
        assert_eq!(info(spec).affinity.map(u32::from), want, "{name}");
    }
}

#[test]
fn b13_health_check_port() {
    let wanted = json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 30000});
    for (name, spec, want) in [
        ("wanted", json!({}), Some(30000)),
        ("another type", json!({"type": "NodePort"}), None),
        ("another policy", json!({"externalTrafficPolicy": "Cluster"}), None),
        ("zero", json!({"healthCheckNodePort": 0}), None),
    ] {
        let mut full = wanted.clone();
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        assert_eq!(info(full).health_check_node_port, want, "{name}");
    }
}

fn slice(replaced: Value) -> Result<Option<Parsed<crate::model::backend::SliceInfo>>, ObjectError> {
    let mut full = json!({"metadata": {"name": "web-1", "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.1.0.1"]}], "ports": [{"name": "http", "port": 8080}]});
    full.as_object_mut().unwrap().extend(replaced.as_object().unwrap().clone());
    endpoint_slice::read(&serde_json::from_value(full).unwrap(), "n")
}

#[test]
fn a2_a6_a7_some_slices_are_not_ours() {
    let labelled = |labels: Value| json!({"metadata": {"name": "web-1", "labels": labels}});
    let service_name = "kubernetes.io/service-name";
    for (name, replaced, want) in [
        ("an ordinary one", json!({}), true),
        ("IPv6", json!({"addressType": "IPv6", "endpoints": []}), true),
        ("FQDN", json!({"addressType": "FQDN"}), false),
        ("no owner", labelled(json!({})), false),
        ("an empty owner", labelled(json!({service_name: ""})), false),
        ("headless", labelled(json!({service_name: "web", "service.kubernetes.io/headless": ""})), false),
        (
            "another proxy's label counts on the Service only",
            labelled(json!({service_name: "web", "service.kubernetes.io/service-proxy-name": "x"})),
            true,
        ),
    ] {
        assert_eq!(slice(replaced).unwrap().is_some(), want, "{name}");
    }
    assert_eq!(slice(json!({"addressType": "IPX"})), Err(ObjectError::AddressType("IPX".to_owned())));
}

#[test]
fn c2_slice_ports() {
    for (name, ports, want) in [
        ("plain", json!([{"name": "http", "port": 80, "protocol": "UDP"}]), vec!["http/UDP/80"]),
        ("an empty name is a name", json!([{"name": "", "port": 80}]), vec!["/TCP/80"]),
        ("no name is none", json!([{"port": 80}]), vec![]),
        ("no number", json!([{"name": "a"}, {"name": "b", "port": 0}, {"name": "c", "port": null}]), vec![]),
        ("none", json!(null), vec![]),
    ] {
        let ports = slice(json!({"ports": ports})).unwrap().unwrap().value.ports;
        let got = texts(ports.iter().map(|port| format!("{}/{}/{}", port.name, port.protocol, port.port)));
        assert_eq!(got, want, "{name}");
    }
    let odd = json!([{"name": "a", "port": 70000}, {"name": "b", "port": 80}, {"name": "c", "port": 1, "protocol": "ICMP"}]);
    let read = slice(json!({"ports": odd})).unwrap().unwrap();
    assert_eq!(texts(read.value.ports.iter().map(|port| &port.name)), ["b"], "the other ports stay");
    let errors = [
        "ports[0].port: 70000 is not a port (1 to 65535)",
        "ports[2].protocol: `ICMP` is not TCP, UDP or SCTP",
    ];
    assert_eq!(texts(read.ignored), errors);
}

#[test]
fn c4_c5_c7_endpoints() {
    // ready, serving, terminating
    for (name, conditions, want) in [
        ("absent", json!(null), (true, true, false)),
        ("empty", json!({}), (true, true, false)),
        ("nulls", json!({"ready": null, "serving": null, "terminating": null}), (true, true, false)),
        ("not ready", json!({"ready": false}), (false, true, false)),
        ("terminating", json!({"ready": false, "terminating": true}), (false, true, true)),
        ("dead", json!({"ready": false, "serving": false, "terminating": true}), (false, false, true)),
    ] {
        let read = slice(json!({"endpoints": [{"addresses": ["10.1.0.1"], "conditions": conditions}]}));
        let candidate = &read.unwrap().unwrap().value.candidates[0];
        assert_eq!((candidate.is_ready, candidate.is_serving, candidate.is_terminating), want, "{name}");
    }
    for (name, endpoints, want, ignored) in [
        (
            "only the first address counts",
            json!([{"addresses": ["10.1.0.1", "10.1.0.2"]}]),
            vec!["10.1.0.1"],
            0,
        ),
        ("no address", json!([{"addresses": []}]), vec![], 0),
        ("leading zeros", json!([{"addresses": ["10.1.0.001"]}]), vec!["10.1.0.1"], 0),
        ("mapped", json!([{"addresses": ["::ffff:10.1.0.1"]}]), vec!["10.1.0.1"], 0),
        ("garbage", json!([{"addresses": ["web-0"]}, {"addresses": ["10.1.0.2"]}]), vec!["10.1.0.2"], 1),
        ("the other family", json!([{"addresses": ["fd00::1"]}]), vec![], 1),
        ("none", json!(null), vec![], 0),
    ] {
        let Parsed { value, ignored: got } = slice(json!({"endpoints": endpoints})).unwrap().unwrap();
        let addresses = texts(value.candidates.iter().map(|candidate| candidate.ip));
        assert_eq!((addresses, got.len()), (texts(want), ignored), "{name}");
    }
    let hints = json!({"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": "n"}]});
    let read = slice(json!({"endpoints": [{"addresses": ["10.1.0.1"], "nodeName": "n", "hints": hints}]}));
    let candidate = &read.unwrap().unwrap().value.candidates[0];
    assert_eq!(
        (texts(candidate.zone_hints()), texts(candidate.node_hints())),
        (texts(["a", "b"]), texts(["n"]))
    );
    assert!(candidate.is_local);
}

#[test]
fn endpoints_are_mirrored_as_the_control_plane_would() {
    let subset = json!({"addresses": [{"ip": "10.1.0.1", "nodeName": "n"}, {"ip": "fd00::1"}],
        "notReadyAddresses": [{"ip": "10.1.0.2"}, {"ip": "web-0"}], "ports": [{"port": 5432}]});
    let skip = "endpointslice.kubernetes.io/skip-mirror";
    let leader = "control-plane.alpha.kubernetes.io/leader";
    for (name, metadata, want) in [
        (
            "plain",
            json!({"name": "db"}),
            Some(vec!["IPv4: 10.1.0.1 true, 10.1.0.2 false", "IPv6: fd00::1 true"]),
        ),
        ("skip-mirror: true", json!({"name": "db", "labels": {skip: "true"}}), None),
        (
            "skip-mirror: false",
            json!({"name": "db", "labels": {skip: "false"}}),
            Some(vec!["IPv4: 10.1.0.1 true, 10.1.0.2 false", "IPv6: fd00::1 true"]),
        ),
        ("leader election", json!({"name": "db", "annotations": {leader: "{}"}}), None),
        (
            "hidden by a label that is copied",
            json!({"name": "db", "labels": {"service.kubernetes.io/headless": ""}}),
            Some(vec![]),
        ),
    ] {
        let object = serde_json::from_value(json!({"metadata": metadata, "subsets": [subset]})).unwrap();
        let got = endpoints::read(&object, "n").unwrap().map(|read| {
            assert!(read.value.is_empty() || read.ignored.len() == 1, "{name}: the garbage is reported");
            read.value.iter().map(|slice| summary(slice)).collect::<Vec<_>>()
        });
        assert_eq!(got, want.map(texts), "{name}");
    }
}

fn summary(slice: &crate::model::backend::SliceInfo) -> String {
    assert_eq!(
        (slice.service.to_string(), &*slice.ports[0].name, slice.ports[0].port),
        ("default/db".into(), "", 5432)
    );
    let candidates =
        slice.candidates.iter().map(|candidate| format!("{} {}", candidate.ip, candidate.is_ready));
    format!("{}: {}", slice.family, candidates.collect::<Vec<_>>().join(", "))
}

#[test]
fn q3_n5_nodes() {
    let node = |value: Value| node::read(&serde_json::from_value(value).unwrap()).unwrap();
    let read = node(json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z"}},
        "spec": {"podCIDRs": ["10.1.0.0/24", "x", "fd00:1::/64"]},
        "status": {"addresses": [{"type": "ExternalIP", "address": "203.0.113.1"}, {"type": "Hostname", "address": "n"},
            {"type": "InternalIP", "address": "192.168.0.2"}, {"type": "InternalIP", "address": "2001:db8::1"}]}}));
    assert_eq!(texts(read.addresses), ["192.168.0.2", "2001:db8::1", "203.0.113.1"]);
    assert_eq!(
        (texts(read.pod_cidrs), read.zone, read.is_eligible),
        (texts(["10.1.0.0/24", "fd00:1::/64"]), "z".into(), true)
    );
    for (name, value, want) in [
        ("bare", json!({"metadata": {"name": "n"}}), true),
        (
            "tainted",
            json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}}),
            false,
        ),
        (
            "being deleted",
            json!({"metadata": {"name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            false,
        ),
    ] {
        assert_eq!(node(value).is_eligible, want, "{name}");
    }
}
