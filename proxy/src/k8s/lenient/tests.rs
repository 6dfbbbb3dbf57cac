//! Objects of every kind with nulls, wrong types and unknown fields at every path.

use ::dns::cluster::zone::ReadOptions;
use proptest::{prelude::*, sample::Index};
use serde_json::{Map, Value, json};

use super::{Lenient, read, shapes, shapes::Shape};
use crate::k8s::{
    object::Kind,
    reader::{ObjectChanges, Reader},
    tree::Tree,
};

/// A valid object of every kind that states every field in use.
fn objects() -> Vec<(Kind, Value)> {
    let metadata = |name: &str| {
        json!({"name": name, "namespace": "shop", "resourceVersion": "7",
            "labels": {"app": "web", "kubernetes.io/service-name": "web", "topology.kubernetes.io/zone": "a"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:05Z"}})
    };
    let target = json!({"kind": "Pod", "name": "web-0"});
    let address = json!({"ip": "10.1.0.2", "hostname": "db-0", "nodeName": "node-1", "targetRef": target});
    vec![
        (
            Kind::Service,
            json!({"metadata": metadata("web"),
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00::1"],
                "ipFamilies": ["IPv4", "IPv6"], "externalIPs": ["192.0.2.1"], "externalName": "example.org",
                "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
                "loadBalancerSourceRanges": ["203.0.113.0/24"], "selector": {"app": "web"},
                "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
                "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"},
                    {"name": "dns", "port": 53, "protocol": "UDP"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9", "ipMode": "VIP"}]}}}),
        ),
        (
            Kind::EndpointSlice,
            json!({"metadata": metadata("web-1"), "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.1.0.1"], "hostname": "web-0", "nodeName": "node-1", "zone": "a",
                "conditions": {"ready": true, "serving": true, "terminating": false}, "targetRef": target,
                "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "node-1"}]}}],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}),
        ),
        (
            Kind::Endpoints,
            json!({"metadata": metadata("db"), "subsets": [{"addresses": [address],
            "notReadyAddresses": [{"ip": "10.1.0.3"}], "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]}]}),
        ),
        (
            Kind::Node,
            json!({"metadata": metadata("node-1"),
            "spec": {"podCIDRs": ["10.1.0.0/24"], "taints": [{"key": "dedicated"}]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.2"}]}}),
        ),
        (Kind::ServiceCidr, json!({"metadata": metadata("kubernetes"), "spec": {"cidrs": ["10.96.0.0/16"]}})),
        (Kind::Namespace, json!({"metadata": metadata("shop")})),
        (
            Kind::ServiceImport,
            json!({"metadata": metadata("hello"), "spec": {"type": "ClusterSetIP", "ips": ["10.42.0.1"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}}),
        ),
        (
            Kind::Pod,
            json!({"metadata": metadata("web-0"),
            "status": {"phase": "Running", "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}]}}),
        ),
    ]
}

fn changes(kind: Kind, object: &Value) -> (ObjectChanges, Vec<String>) {
    let dns = ReadOptions {
        pods: true,
        zones: true,
        endpoint_pod_names: true,
        multicluster: true,
        ..ReadOptions::default()
    };
    let reader = Reader { node_name: "node-1".to_owned(), dns: Some(dns) };
    let text = object.to_string();
    let Lenient { object, faults, .. } =
        read(kind, &mut serde_json::Deserializer::from_str(&text)).expect("it is JSON");
    // Objects of files come as a tree.
    let tree: Tree<'_> = serde_json::from_str(&text).expect("it is JSON");
    let of_file = read(kind, tree).expect("a tree is well-formed");
    assert_eq!((&of_file.object, &of_file.faults), (&object, &faults), "{text}");
    let object = object.expect("the object stays");
    let index = reader.index_change(&object).unwrap_or_default().map(|read| read.value);
    (ObjectChanges { index, dns: reader.dns_change(&object) }, faults)
}

/// Pointers to the structures of a value, with their fields in use.
fn structures(
    value: &Value,
    shape: &'static Shape,
    path: &str,
    found: &mut Vec<(String, &'static [shapes::Field])>,
) {
    match (shape, value) {
        (Shape::Fields(fields), Value::Object(map)) => {
            found.push((path.to_owned(), fields));
            for (name, shape) in *fields {
                if let Some(value) = map.get(*name) {
                    structures(value, shape, &format!("{path}/{}", name.replace('/', "~1")), found);
                }
            }
        }
        (Shape::List(shape), Value::Array(elements)) => {
            for (n, element) in elements.iter().enumerate() {
                structures(element, shape, &format!("{path}/{n}"), found);
            }
        }
        _ => {}
    }
}

fn structure<'v>(object: &'v mut Value, path: &str) -> &'v mut Map<String, Value> {
    object.pointer_mut(path).and_then(Value::as_object_mut).expect("the path is that of a structure")
}

/// Fields of Kubernetes that are not in use, and unknown ones. None of them is in use in any structure.
const UNUSED: [&str; 15] = [
    "conditions_",
    "lastTransitionTime",
    "managedFields",
    "selfLink",
    "ownerReferences",
    "finalizers",
    "generation",
    "targetPort",
    "appProtocol",
    "ipFamilyPolicy",
    "allocateLoadBalancerNodePorts",
    "nodeInfo",
    "containers",
    "hostname_",
    "",
];

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~]{0,8}".prop_map(Value::from),
        Just(json!([{"type": "Ready", "lastTransitionTime": null, "status": 1}])),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-z]{0,6}", inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

#[test]
fn every_field_of_the_objects_is_in_use() {
    for (kind, object) in objects() {
        let (_, faults) = changes(kind, &object);
        assert_eq!(faults, Vec::<String>::new(), "{kind:?}");
        let mut found = Vec::new();
        structures(&object, shapes::of(kind), "", &mut found);
        let mut object = object;
        for (path, fields) in found {
            for name in structure(&mut object, &path).keys() {
                assert!(fields.iter().any(|(field, _)| field == name), "{kind:?} {path}/{name}");
            }
        }
    }
}

#[test]
fn a_null_time_in_a_condition_costs_nothing() {
    let (kind, mut object) = objects().swap_remove(0);
    let want = changes(kind, &object);
    structure(&mut object, "/status").insert(
        "conditions".to_owned(),
        json!([{"type": "x", "status": "True", "lastTransitionTime": null, "reason": "", "message": ""}]),
    );
    assert_eq!(changes(kind, &object), want);
}

/// Whether an object without this field is refused.
fn is_essential(path: &str, name: &str) -> bool {
    match path {
        "" => name != "status",
        "/metadata" => name == "name",
        "/spec" => matches!(name, "clusterIP" | "ports" | "loadBalancerSourceRanges"),
        _ => false,
    }
}

#[test]
fn a_null_field_in_use_is_absent_and_a_wrong_one_costs_itself_only() {
    for (kind, object) in objects() {
        let mut found = Vec::new();
        structures(&object, shapes::of(kind), "", &mut found);
        for (path, fields) in found {
            for (name, shape) in fields {
                if is_essential(&path, name) {
                    continue;
                }
                let with = |value: Option<Value>| {
                    let mut object = object.clone();
                    match value {
                        Some(value) => structure(&mut object, &path).insert((*name).to_owned(), value),
                        None => structure(&mut object, &path).remove(*name),
                    };
                    changes(kind, &object)
                };
                let absent = with(None);
                assert_eq!(with(Some(Value::Null)), absent, "{kind:?} {path}/{name}: null");
                let wrong = if matches!(shape, Shape::Bool) { json!("x") } else { json!(true) };
                let (got, faults) = with(Some(wrong));
                assert_eq!((&got, faults.len()), (&absent.0, 1), "{kind:?} {path}/{name}: {faults:?}");
                let field = format!("{}/{name}: ", path.trim_start_matches('/')).replace('/', ".");
                let plain = faults[0].replace('[', ".").replace(']', "").replace(".: ", ": ");
                assert!(
                    plain.contains(&field.trim_start_matches('.').replace("~1", "/")[..])
                        || name.contains('/'),
                    "{field}: {faults:?}"
                );
            }
        }
    }
}

#[test]
fn a_list_element_of_the_wrong_type_keeps_its_place() {
    let (kind, mut object) = objects().swap_remove(0);
    structure(&mut object, "/spec").insert("clusterIPs".to_owned(), json!([5, "fd00::1"]));
    structure(&mut object, "/spec")
        .insert("ports".to_owned(), json!([null, {"port": "x"}, {"name": "a", "port": 1}]));
    let (changes, faults) = changes(kind, &object);
    let text = format!("{:?}", changes.index);
    assert!(text.contains("v4: None, v6: Some(fd00::1)") && text.contains("port: 1,"), "{text}");
    assert_eq!(
        faults,
        [
            "spec.clusterIPs[0]: expected text, found another number",
            "spec.ports[1].port: expected a 32-bit integer, found text"
        ]
    );
}

#[test]
fn an_object_without_an_essential_field_is_refused() {
    for (kind, text) in [
        (Kind::Service, r#"{"metadata": {"name": "web"}, "spec": 5}"#),
        (Kind::Service, r#"{"metadata": {"name": "web"}, "spec": {"ports": "none"}}"#),
        (Kind::Service, r#"{"metadata": {"name": "web"}, "spec": {"clusterIP": 5}}"#),
        (Kind::EndpointSlice, r#"{"metadata": {"name": "web"}, "endpoints": {}}"#),
        (Kind::Service, "[]"),
        (Kind::Service, "5"),
    ] {
        let read = read(kind, &mut serde_json::Deserializer::from_str(text)).unwrap();
        assert!(read.object.is_none() && read.faults.len() == 1, "{text}: {:?}", read.faults);
    }
}

proptest! {
    #[test]
    fn unused_fields_change_nothing(
        at in any::<Index>(),
        injected in prop::collection::vec((any::<Index>(), any::<Index>(), any_value()), 1..8),
    ) {
        let objects = objects();
        let (kind, object) = at.get(&objects);
        let mut found = Vec::new();
        structures(object, shapes::of(*kind), "", &mut found);
        let mut changed = object.clone();
        for (place, name, value) in injected {
            let (path, _) = place.get(&found);
            structure(&mut changed, path).insert((*name.get(&UNUSED)).to_owned(), value);
        }
        prop_assert_eq!(changes(*kind, &changed), changes(*kind, object), "{}", changed);
    }
}
