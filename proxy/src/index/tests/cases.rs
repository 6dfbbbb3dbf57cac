//! The behaviour of kube-proxy, checked on the model: the flows of every case, the endpoint sets, the affinity
//! timelines and the health counts.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::api::{
    core::v1::{Endpoints, Node, Service},
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
};
use proxy_ebpf::abi::DropReason;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    index::*,
    k8s::object::Object,
    model::{
        address::{PerFamily, Protocol, parse_ip, parse_network},
        affinity::AffinityTable,
        flow::{Flow, FlowOutcome, FlowVerdict},
        policy::NodePortAddresses,
        reason::is_modelled,
    },
};

fn cases() -> Vec<Value> {
    let services = include_str!("../../../testdata/cases/services.json");
    let more = include_str!("../../../testdata/cases/more.json");
    [services, more].into_iter().flat_map(|text| serde_json::from_str::<Vec<Value>>(text).unwrap()).collect()
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

fn policy(case: &Value) -> Policy {
    let config = &case["config"];
    let cidrs = |texts: Vec<&str>| texts.into_iter().filter_map(parse_network).collect::<Vec<_>>();
    let every = ["0.0.0.0/0", "::/0"];
    let nodeports = texts(&config["nodeport_addresses"]);
    let pods = config["cluster_cidr"].as_str().unwrap().split(',').collect();
    Policy {
        node_name: case["node"]["name"].as_str().unwrap().to_owned(),
        node_addresses: texts(&case["node"]["ips"]).into_iter().filter_map(parse_ip).collect(),
        nodeport_addresses: match nodeports.as_slice() {
            ["primary"] => NodePortAddresses::Primary,
            [] => NodePortAddresses::Cidrs(cidrs(every.to_vec())),
            _ => NodePortAddresses::Cidrs(cidrs(nodeports)),
        },
        localhost_nodeports: config["localhost_nodeports"].as_bool().unwrap(),
        cluster_cidrs: PerFamily::first_of(cidrs(pods)),
        masquerade_all: config["masquerade_all"].as_bool().unwrap(),
        ..Policy::default()
    }
}

fn object(value: &Value) -> Object {
    fn typed<T: DeserializeOwned>(value: &Value) -> Box<T> {
        Box::new(serde_json::from_value(value.clone()).unwrap())
    }
    match value["kind"].as_str().unwrap() {
        "Service" => Object::Service(typed::<Service>(value)),
        "EndpointSlice" => Object::EndpointSlice(typed::<EndpointSlice>(value)),
        "Endpoints" => Object::Endpoints(typed::<Endpoints>(value)),
        "Node" => Object::Node(typed::<Node>(value)),
        "ServiceCIDR" => Object::ServiceCidr(typed::<ServiceCIDR>(value)),
        other => panic!("no case has a {other}"),
    }
}

fn index(case: &Value) -> Index {
    let policy = policy(case);
    let node_name = policy.node_name.clone();
    let mut objects = case["objects"].as_array().unwrap().clone();
    objects.push(json!({"kind": "Node", "apiVersion": "v1",
        "metadata": {"name": node_name, "labels": case["node"]["labels"]}}));
    objects.push(json!({"kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": "all"}, "spec": {"cidrs": case["config"]["service_cidrs"]}}));
    let mut index = Index::new(policy);
    for value in &objects {
        index.apply(object(value).change(&node_name).unwrap().unwrap().value);
    }
    index
}

fn flow(flow: &Value) -> Flow {
    let address = |field: &str| parse_ip(flow[field].as_str().unwrap()).unwrap();
    let port = u16::try_from(flow["port"].as_u64().unwrap()).unwrap();
    let protocol: Protocol = flow["protocol"].as_str().unwrap().parse().unwrap();
    Flow { source: address("from"), destination: SocketAddr::new(address("to"), port), protocol }
}

#[test]
fn every_flow_gets_its_verdict() {
    for case in cases() {
        let index = index(&case);
        for want in case["flows"].as_array().into_iter().flatten() {
            let verdict = index.explain(&flow(want));
            let mut backends: Vec<_> =
                verdict.choices.iter().map(|choice| choice.backend.address.to_string()).collect();
            backends.sort();
            let masqueraded = verdict.choices.iter().filter(|choice| choice.masquerade).count();
            let (some, all) = (masqueraded > 0, masqueraded == verdict.choices.len());
            let mut got = json!({"result": verdict.outcome.to_string(), "backends": backends, "masquerade": some && all});
            if some && !all {
                let each = verdict.choices.iter().map(|choice| (choice.backend.address, choice.masquerade));
                got["masquerade_by_backend"] = json!(each.collect::<HashMap<_, _>>());
            }
            assert_eq!(got, want["expect"], "{} / {}: {}", case["id"], want["name"], verdict.reason);
        }
    }
}

#[test]
fn refusals_have_the_reason_that_the_kernel_counts() {
    let mut seen = BTreeSet::new();
    for case in cases() {
        let index = index(&case);
        for flow in case["flows"].as_array().into_iter().flatten().map(flow) {
            let FlowVerdict { outcome, reason, .. } = index.explain(&flow);
            let want = match reason.drop_reason() {
                Some(drop_reason) if drop_reason.sends_reject() => vec![FlowOutcome::Reject],
                Some(_) => vec![FlowOutcome::Drop],
                None => vec![FlowOutcome::Dnat, FlowOutcome::None],
            };
            assert!(want.contains(&outcome), "{}: {outcome}, as {reason}", case["id"]);
            let Some(drop_reason) = reason.drop_reason() else { continue };
            assert_eq!(index.explain_refusal(&flow, drop_reason), reason, "the data of the objects is kept");
            seen.insert(drop_reason.name());
        }
    }
    let modelled = DropReason::ALL.into_iter().filter(|reason| is_modelled(*reason)).map(DropReason::name);
    assert_eq!(seen, modelled.collect());
}

#[test]
fn endpoints_are_in_their_sets() {
    let mut checked = 0;
    for case in cases().iter().filter(|case| case["kind"] == "categorize") {
        let index = index(case);
        let service = index.services().next().unwrap();
        let port = &service.ports[0];
        let sets = index.endpoint_sets(service, port, IpFamily::V4);
        let is_accessible = service.is_externally_accessible(port, IpFamily::V4);
        let required = RequiredSets::of(service.internal_policy, service.external_policy, is_accessible);
        let list = |backends: &[crate::model::backend::Backend]| -> BTreeSet<String> {
            backends.iter().map(|backend| backend.address.to_string()).collect()
        };
        let (cluster, local) = (list(&sets.cluster), list(&sets.local));
        let got = json!({"cluster": cluster, "local": local, "all": cluster.union(&local).collect::<Vec<_>>(),
            "uses_cluster": required.cluster, "uses_local": required.local, "has_any": sets.has_any});
        assert_eq!(got, case["expect"], "{}", case["id"]);
        checked += 1;
    }
    assert!(checked > 0);
}

#[test]
fn affinity_holds_along_the_timeline() {
    for case in cases().iter().filter(|case| case["kind"] == "affinity") {
        let index = index(case);
        let mut table = AffinityTable::default();
        let mut chosen: HashMap<&str, SocketAddr> = HashMap::new();
        for (n, step) in case["flows"].as_array().unwrap().iter().enumerate() {
            let name = step["name"].as_str().unwrap();
            let flow = flow(step);
            let verdict = index.explain(&flow);
            assert_eq!(verdict.outcome, FlowOutcome::Dnat, "{} / {name}", case["id"]);
            let frontend = verdict.frontend.unwrap();
            let now = Duration::from_secs(step["t_seconds"].as_u64().unwrap());
            let view = frontend.view(verdict.source);
            // Never the same index twice in a row: a repeated backend is due to affinity.
            let pick = |permitted: usize| n % permitted;
            let backend =
                table.choose(&frontend.service, flow.source, view, frontend.affinity, now, pick).unwrap();
            match step["sticky"].as_str().unwrap() {
                "free" => {}
                earlier => assert_eq!(Some(&backend), chosen.get(earlier), "{} / {name}", case["id"]),
            }
            chosen.insert(name, backend);
        }
    }
}

#[test]
fn health_checks_count_ready_pods_of_this_node() {
    let mut checked = 0;
    for case in cases().iter().filter(|case| case["kind"] == "healthcheck") {
        let index = index(case);
        for http in case["http"].as_array().unwrap() {
            let port = u16::try_from(http["port"].as_u64().unwrap()).unwrap();
            let checks = |service: &&ServiceInfo| service.health_check_node_port == Some(port);
            let listening = index.services().find(checks);
            let got = listening.map(|service| index.local_ready_endpoints(&service.key, IpFamily::V4));
            let want = http["expect"]["body"]["localEndpoints"].as_u64();
            assert_eq!(got.map(|count| count as u64), want, "{}", case["id"]);
            checked += 1;
        }
    }
    assert!(checked > 0);
}
