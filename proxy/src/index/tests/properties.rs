//! Random histories of random objects, compared with a second implementation of the rules (`oracle`) that
//! shares no code with the index: it starts from the specifications of the objects.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};

use super::NODE;
use crate::{
    index::*,
    k8s::object::Object,
    model::{
        address::{PerFamily, Protocol},
        flow::{Flow, FlowOutcome},
        policy::{DetectLocal, NodePortAddresses},
    },
};

const NODE_IPS: [&str; 3] = ["192.168.0.2", "192.168.1.2", "2001:db8::1"];
/// Addresses that several Services may claim; one of them is the node's own.
const SHARED_IPS: [&str; 4] = ["1.2.3.4", "5.6.7.8", "192.168.0.2", "2001:db8::99"];
const NODE_PORTS: [u16; 3] = [0, 30001, 30002];
const CLIENTS: [&str; 6] = ["10.1.0.9", "10.1.0.1", "192.168.0.2", "203.0.113.7", "1.2.3.4", "fd00:1::9"];

#[derive(Clone, Debug)]
struct ServiceSpec {
    n: usize,
    kind: &'static str,
    foreign_proxy: bool,
    cluster_ip: &'static str,
    has_selector: bool,
    etp_local: bool,
    itp_local: bool,
    external_ips: Vec<&'static str>,
    vips: Vec<&'static str>,
    node_port: u16,
    ranges: Vec<&'static str>,
}

#[derive(Clone, Debug)]
struct EndpointSpec {
    n: usize,
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
    node: Option<&'static str>,
    zone_hint: Option<&'static str>,
    node_hint: Option<&'static str>,
}

#[derive(Clone, Debug)]
struct SliceSpec {
    n: usize,
    owner: usize,
    headless: bool,
    v6: bool,
    port: u16,
    endpoints: Vec<EndpointSpec>,
}

#[derive(Clone, Debug)]
struct EndpointsSpec {
    owner: usize,
    skip: bool,
    ready: Vec<usize>,
    unready: Vec<usize>,
}

#[derive(Clone, Debug)]
enum Spec {
    Service(ServiceSpec),
    Slice(SliceSpec),
    Endpoints(EndpointsSpec),
    Node(&'static str),
    Cidr,
}

/// All objects that exist at one time.
type World = BTreeMap<(u8, usize), Spec>;

impl Spec {
    fn id(&self) -> (u8, usize) {
        match self {
            Self::Service(service) => (0, service.n),
            Self::Slice(slice) => (1, slice.n),
            Self::Endpoints(endpoints) => (2, endpoints.owner),
            Self::Node(_) => (3, 0),
            Self::Cidr => (4, 0),
        }
    }

    fn object(&self) -> Object {
        fn boxed<T: serde::de::DeserializeOwned>(value: Value) -> Box<T> {
            Box::new(serde_json::from_value(value).unwrap())
        }
        match self {
            Self::Service(service) => Object::Service(boxed(service.json())),
            Self::Slice(slice) => Object::EndpointSlice(boxed(slice.json())),
            Self::Endpoints(endpoints) => Object::Endpoints(boxed(endpoints.json())),
            Self::Node(zone) => Object::Node(boxed(
                json!({"metadata": {"name": NODE, "labels": {"topology.kubernetes.io/zone": zone}}}),
            )),
            Self::Cidr => Object::ServiceCidr(boxed(
                json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}}),
            )),
        }
    }
}

impl ServiceSpec {
    fn json(&self) -> Value {
        let labels = if self.foreign_proxy {
            json!({"service.kubernetes.io/service-proxy-name": ""})
        } else {
            json!({})
        };
        let ip = self.cluster_ip();
        let (ips, families) = match self.cluster_ip {
            "dual" => (json!([ip, self.cluster_ip_v6()]), json!(["IPv4", "IPv6"])),
            "v4" => (json!([ip]), json!(["IPv4"])),
            _ => (json!(null), json!(null)),
        };
        let policy = |local: bool| if local { "Local" } else { "Cluster" };
        let ingress: Vec<_> = self.vips.iter().map(|ip| json!({"ip": ip})).collect();
        json!({"metadata": {"name": name(self.n), "namespace": "ns", "labels": labels},
            "spec": {"type": self.kind, "clusterIP": ip, "clusterIPs": ips, "ipFamilies": families,
                "selector": if self.has_selector { json!({"a": "b"}) } else { json!(null) },
                "externalTrafficPolicy": policy(self.etp_local), "internalTrafficPolicy": policy(self.itp_local),
                "externalIPs": self.external_ips, "loadBalancerSourceRanges": self.ranges,
                "ports": [{"name": "http", "port": 80, "nodePort": self.node_port}]},
            "status": {"loadBalancer": {"ingress": ingress}}})
    }

    fn cluster_ip(&self) -> String {
        match self.cluster_ip {
            "none" => "None".to_owned(),
            "empty" => String::new(),
            _ => format!("10.96.0.{}", self.n + 1),
        }
    }

    fn cluster_ip_v6(&self) -> String {
        format!("fd00:96::{}", self.n + 1)
    }
}

impl EndpointSpec {
    fn json(&self, v6: bool) -> Value {
        let hint = |name: &Option<&str>| name.map(|name| json!([{"name": name}]));
        json!({"addresses": [endpoint_ip(self.n, v6)], "nodeName": self.node,
            "conditions": {"ready": self.ready, "serving": self.serving, "terminating": self.terminating},
            "hints": {"forZones": hint(&self.zone_hint), "forNodes": hint(&self.node_hint)}})
    }
}

impl SliceSpec {
    fn json(&self) -> Value {
        let mut labels = BTreeMap::from([("kubernetes.io/service-name", name(self.owner))]);
        if self.headless {
            labels.insert("service.kubernetes.io/headless", String::new());
        }
        let endpoints: Vec<_> = self.endpoints.iter().map(|endpoint| endpoint.json(self.v6)).collect();
        json!({"metadata": {"name": format!("slice-{}", self.n), "namespace": "ns", "labels": labels},
            "addressType": if self.v6 { "IPv6" } else { "IPv4" }, "endpoints": endpoints,
            "ports": [{"name": "http", "port": self.port, "protocol": "TCP"}]})
    }
}

impl EndpointsSpec {
    fn json(&self) -> Value {
        let labels =
            if self.skip { json!({"endpointslice.kubernetes.io/skip-mirror": "true"}) } else { json!({}) };
        let list = |which: &[usize]| -> Vec<_> {
            which.iter().map(|n| json!({"ip": endpoint_ip(*n, false), "nodeName": NODE})).collect()
        };
        json!({"metadata": {"name": name(self.owner), "namespace": "ns", "labels": labels},
            "subsets": [{"addresses": list(&self.ready), "notReadyAddresses": list(&self.unready),
                "ports": [{"name": "http", "port": 9090}]}]})
    }
}

fn name(n: usize) -> String {
    format!("svc-{n}")
}

fn endpoint_ip(n: usize, v6: bool) -> String {
    if v6 { format!("fd00:1::{n}") } else { format!("10.1.0.{n}") }
}

fn some_of(pool: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![Just(vec![]), vec(select(pool), 1..3)]
}

fn service() -> impl Strategy<Value = ServiceSpec> {
    let identity = (
        0_usize..3,
        select(vec!["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]),
        prop::bool::weighted(0.15),
        select(vec!["v4", "v4", "v4", "dual", "dual", "none", "empty"]),
        any::<bool>(),
    );
    let policies = (any::<bool>(), any::<bool>());
    let addresses =
        (some_of(&SHARED_IPS), some_of(&SHARED_IPS), select(NODE_PORTS.to_vec()), some_of(&RANGES));
    (identity, policies, addresses).prop_map(
        |(
            (n, kind, foreign_proxy, cluster_ip, has_selector),
            (etp_local, itp_local),
            (external_ips, vips, node_port, ranges),
        )| ServiceSpec {
            n,
            kind,
            foreign_proxy,
            cluster_ip,
            has_selector,
            etp_local,
            itp_local,
            external_ips,
            vips,
            node_port,
            ranges,
        },
    )
}

const RANGES: [&str; 5] = ["203.0.113.0/24", "10.1.0.0/16", "192.168.0.0/16", "0.0.0.0/0", "2001:db8::/32"];

fn maybe(names: [&'static str; 2]) -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![1 => Just(None), 3 => select(names.to_vec()).prop_map(Some)]
}

fn endpoint() -> impl Strategy<Value = EndpointSpec> {
    let conditions = (any::<Option<bool>>(), any::<Option<bool>>(), any::<Option<bool>>());
    let places = (maybe([NODE, "node-2"]), maybe(["zone-a", "zone-b"]), maybe([NODE, "node-2"]));
    (1_usize..5, conditions, places).prop_map(
        |(n, (ready, serving, terminating), (node, zone_hint, node_hint))| EndpointSpec {
            n,
            ready,
            serving,
            terminating,
            node,
            zone_hint,
            node_hint,
        },
    )
}

fn slice() -> impl Strategy<Value = SliceSpec> {
    let fields = (0_usize..4, 0_usize..3, prop::bool::weighted(0.1), prop::bool::weighted(0.3));
    (fields, select(vec![8080, 8081]), vec(endpoint(), 0..4)).prop_map(
        |((n, owner, headless, v6), port, endpoints)| SliceSpec { n, owner, headless, v6, port, endpoints },
    )
}

fn spec() -> impl Strategy<Value = Spec> {
    let endpoints = (0_usize..3, prop::bool::weighted(0.2), vec(1_usize..5, 0..3), vec(1_usize..5, 0..2))
        .prop_map(|(owner, skip, ready, unready)| EndpointsSpec { owner, skip, ready, unready });
    prop_oneof![
        5 => service().prop_map(Spec::Service),
        6 => slice().prop_map(Spec::Slice),
        2 => endpoints.prop_map(Spec::Endpoints),
        1 => select(vec!["zone-a", "zone-b", ""]).prop_map(Spec::Node),
        1 => Just(Spec::Cidr),
    ]
}

/// Objects that are added, changed and (flag unset) deleted.
fn history() -> impl Strategy<Value = Vec<(Spec, bool)>> {
    vec((spec(), prop::bool::weighted(0.8)), 0..16)
}

fn policy() -> Policy {
    Policy {
        pod_interface: None,
        node_name: NODE.to_owned(),
        node_addresses: NODE_IPS.iter().map(|ip| ip.parse().unwrap()).collect(),
        bind_address: None,
        nodeport_addresses: NodePortAddresses::Primary,
        localhost_nodeports: true,
        cluster_cidrs: PerFamily {
            v4: Some("10.1.0.0/16".parse().unwrap()),
            v6: Some("fd00:1::/64".parse().unwrap()),
        },
        detect_local: DetectLocal::ClusterCidr,
        masquerade_all: false,
        external_ips: true,
        name_server: None,
    }
}

/// Applies a history and checks that `apply` returns every frontend that changed.
fn replay(history: &[(Spec, bool)]) -> (Index, World) {
    let mut index = Index::new(policy());
    let mut world = World::new();
    let mut known = snapshot(&index);
    for (spec, is_there) in history {
        let object = spec.object();
        let touched = if *is_there {
            world.insert(spec.id(), spec.clone());
            index.apply(object.change(NODE).unwrap().unwrap().value)
        } else {
            world.remove(&spec.id());
            index.apply(object.id().unwrap().removal(NODE).unwrap())
        };
        let now = snapshot(&index);
        for key in known.keys().chain(now.keys()) {
            assert!(
                touched.contains(key) || known.get(key) == now.get(key),
                "{key} changed, but was not returned for {spec:?}"
            );
        }
        known = now;
    }
    (index, world)
}

fn snapshot(index: &Index) -> BTreeMap<FrontendKey, Frontend> {
    index.frontends().map(|frontend| (frontend.key, frontend)).collect()
}

fn fresh(specs: impl IntoIterator<Item = Spec>) -> Index {
    let mut index = Index::new(policy());
    for spec in specs {
        index.apply(spec.object().change(NODE).unwrap().unwrap().value);
    }
    index
}

fn flows() -> Vec<Flow> {
    let cluster_ips = (1..4).map(|n| format!("10.96.0.{n}")).chain((1..4).map(|n| format!("fd00:96::{n}")));
    let fixed = SHARED_IPS.iter().chain(&NODE_IPS).chain(&["127.0.0.1", "10.96.0.77", "10.1.0.1", "::1"]);
    let destinations: BTreeSet<String> = cluster_ips.chain(fixed.map(ToString::to_string)).collect();
    let mut flows = Vec::new();
    for source in CLIENTS.iter().chain(&["127.0.0.1"]) {
        for destination in &destinations {
            for port in [80, 30001, 30002, 81] {
                flows.push(Flow {
                    source: source.parse().unwrap(),
                    destination: SocketAddr::new(destination.parse().unwrap(), port),
                    protocol: Protocol::Tcp,
                });
            }
        }
    }
    flows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_history_ends_like_a_fresh_start_in_any_order(history in history(), seed in any::<u64>()) {
        let (index, world) = replay(&history);
        let mut specs: Vec<Spec> = world.into_values().collect();
        prop_assert_eq!(snapshot(&fresh(specs.clone())), snapshot(&index));
        // Any order: sorted by a hash.
        specs.sort_by_cached_key(|spec| (seed ^ (spec.id().1 as u64 * 7 + u64::from(spec.id().0))).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        prop_assert_eq!(snapshot(&fresh(specs)), snapshot(&index));
    }

    #[test]
    fn a_deleted_object_leaves_no_trace(history in history(), extra in spec()) {
        let (mut index, world) = replay(&history);
        prop_assume!(!world.contains_key(&extra.id()));
        let before = snapshot(&index);
        let object = extra.object();
        index.apply(object.change(NODE).unwrap().unwrap().value);
        index.apply(object.id().unwrap().removal(NODE).unwrap());
        prop_assert_eq!(snapshot(&index), before);
        for spec in world.values() {
            index.apply(spec.object().id().unwrap().removal(NODE).unwrap());
        }
        prop_assert!(index.is_empty());
    }

    #[test]
    fn every_verdict_follows_the_rules(history in history()) {
        let (index, world) = replay(&history);
        for flow in flows() {
            let verdict = index.explain(&flow);
            let backends: BTreeMap<String, bool> = verdict
                .choices
                .iter()
                .map(|choice| (choice.backend.address.to_string(), choice.masquerade))
                .collect();
            let want = oracle::verdict(&world, &flow);
            prop_assert_eq!((verdict.outcome, backends), want, "{:?}: {}", flow, verdict.reason);
        }
    }
}

impl Index {
    /// Whether the state is empty.
    fn is_empty(&self) -> bool {
        let owned = self.joined.is_empty() && self.endpoints.is_empty();
        owned && self.claims.is_empty() && self.service_cidrs.is_empty()
    }
}

/// The rules, implemented for one flow at a time.
mod oracle {
    use super::*;

    type Answer = (FlowOutcome, BTreeMap<String, bool>);

    fn services(world: &World) -> impl Iterator<Item = &ServiceSpec> {
        world.values().filter_map(|spec| match spec {
            Spec::Service(service) => Some(service),
            Spec::Slice(_) | Spec::Endpoints(_) | Spec::Node(_) | Spec::Cidr => None,
        })
    }

    fn is_served(service: &ServiceSpec) -> bool {
        !service.foreign_proxy
            && service.kind != "ExternalName"
            && !matches!(service.cluster_ip, "none" | "empty")
    }

    fn is_v6(text: &str) -> bool {
        text.contains(':')
    }

    fn exists(service: &ServiceSpec, v6: bool) -> bool {
        is_served(service) && (!v6 || service.cluster_ip == "dual")
    }

    fn own_cluster_ip(service: &ServiceSpec, v6: bool) -> String {
        if v6 { service.cluster_ip_v6() } else { service.cluster_ip() }
    }

    fn is_pod(source: IpAddr) -> bool {
        match source {
            IpAddr::V4(v4) => v4.octets()[..2] == [10, 1],
            IpAddr::V6(v6) => v6.segments()[..4] == [0xfd00, 1, 0, 0],
        }
    }

    fn is_node(source: IpAddr) -> bool {
        source.is_loopback() || NODE_IPS.contains(&source.to_string().as_str())
    }

    /// The first Service by name that has the address as its ClusterIP; else the first that lists it as a VIP
    /// or an external IP.
    fn claimant<'a>(world: &'a World, to: &str, v6: bool) -> Option<(&'a ServiceSpec, &'static str)> {
        let here = || services(world).filter(|service| exists(service, v6));
        if let Some(service) = here().find(|service| own_cluster_ip(service, v6) == *to) {
            return Some((service, "ClusterIP"));
        }
        let service =
            here().find(|service| service.vips.contains(&to) || service.external_ips.contains(&to))?;
        Some((service, if service.vips.contains(&to) { "VIP" } else { "externalIP" }))
    }

    fn node_port(world: &World, port: u16, v6: bool) -> Option<&ServiceSpec> {
        services(world)
            .find(|service| exists(service, v6) && service.node_port != 0 && service.node_port == port)
    }

    pub fn verdict(world: &World, flow: &Flow) -> Answer {
        let (to, v6) = (flow.destination.ip().to_string(), flow.destination.is_ipv6());
        let nothing = |outcome| (outcome, BTreeMap::new());
        if flow.source.is_ipv6() != v6 {
            return nothing(FlowOutcome::None);
        }
        let port = flow.destination.port();
        if port == 80
            && let Some((service, kind)) = claimant(world, &to, v6)
        {
            return through(world, flow, service, kind, v6);
        }
        let loopback = to == "127.0.0.1" && is_node(flow.source);
        let primary = matches!(to.as_str(), "192.168.0.2" | "2001:db8::1");
        if (loopback || primary)
            && let Some(service) = node_port(world, port, v6)
        {
            return through(world, flow, service, "NodePort", v6);
        }
        let owns = |service: &ServiceSpec| exists(service, v6) && own_cluster_ip(service, v6) == to;
        if services(world).any(owns) {
            return nothing(FlowOutcome::Reject);
        }
        let in_cidr = world.contains_key(&(4, 0)) && to.starts_with("10.96.");
        nothing(if in_cidr { FlowOutcome::Drop } else { FlowOutcome::None })
    }

    fn through(world: &World, flow: &Flow, service: &ServiceSpec, kind: &str, v6: bool) -> Answer {
        let nothing = |outcome| (outcome, BTreeMap::new());
        if kind == "VIP" && !passes(flow, service, v6) {
            return nothing(FlowOutcome::Drop);
        }
        let endpoints = endpoints(world, service, v6);
        let zone = match world.get(&(3, 0)) {
            Some(Spec::Node(zone)) => zone,
            _ => "",
        };
        let has_usable = endpoints.values().any(|endpoint| ready(endpoint) || serving_terminating(endpoint));
        let external = kind != "ClusterIP";
        let local_only = if external {
            let lists_ips = service.kind == "ClusterIP" && !service.external_ips.is_empty();
            let can_be_local = matches!(service.kind, "LoadBalancer" | "NodePort") || lists_ips;
            service.etp_local && can_be_local
        } else {
            service.itp_local
        };
        let inside = is_pod(flow.source) || is_node(flow.source);
        let chosen = if local_only && !(external && inside) {
            prefer_ready(&endpoints, is_here)
        } else {
            prefer_ready(&endpoints, |endpoint| !ready(endpoint) || hinted(&endpoints, endpoint, zone))
        };
        if chosen.is_empty() {
            let from_elsewhere = local_only && has_usable;
            return nothing(if from_elsewhere { FlowOutcome::Drop } else { FlowOutcome::Reject });
        }
        let node_only = !is_pod(flow.source) && is_node(flow.source);
        let masquerade = match (external, local_only) {
            (false, _) => !is_pod(flow.source),
            (true, false) => true,
            (true, true) => node_only,
        };
        let hairpin = |address: &str| {
            is_here(endpoints[address]) && address.parse::<SocketAddr>().unwrap().ip() == flow.source
        };
        (FlowOutcome::Dnat, chosen.into_iter().map(|a| (a.clone(), masquerade || hairpin(&a))).collect())
    }

    fn passes(flow: &Flow, service: &ServiceSpec, v6: bool) -> bool {
        let ranges: Vec<IpNetwork> = service
            .ranges
            .iter()
            .filter(|range| is_v6(range) == v6)
            .map(|range| range.parse().unwrap())
            .collect();
        let node: IpAddr = if v6 { NODE_IPS[2] } else { NODE_IPS[0] }.parse().unwrap();
        let is_vip = service.vips.contains(&flow.source.to_string().as_str());
        ranges.is_empty()
            || ranges.iter().any(|range| range.prefix() == 0 || range.contains(flow.source))
            || (is_vip && ranges.iter().any(|range| range.contains(node)))
    }

    fn ready(endpoint: &EndpointSpec) -> bool {
        endpoint.ready != Some(false)
    }

    fn serving_terminating(endpoint: &EndpointSpec) -> bool {
        endpoint.serving != Some(false) && endpoint.terminating == Some(true)
    }

    fn is_here(endpoint: &EndpointSpec) -> bool {
        endpoint.node == Some(NODE)
    }

    fn prefer_ready(
        endpoints: &BTreeMap<String, &EndpointSpec>,
        permitted: impl Fn(&EndpointSpec) -> bool,
    ) -> Vec<String> {
        for state in [ready as fn(&EndpointSpec) -> bool, serving_terminating] {
            let found: Vec<String> = endpoints
                .iter()
                .filter(|(_, endpoint)| state(endpoint) && permitted(endpoint))
                .map(|(address, _)| address.clone())
                .collect();
            if !found.is_empty() {
                return found;
            }
        }
        Vec::new()
    }

    fn hinted(endpoints: &BTreeMap<String, &EndpointSpec>, endpoint: &EndpointSpec, zone: &str) -> bool {
        let all: Vec<&&EndpointSpec> = endpoints.values().filter(|other| ready(other)).collect();
        if all.iter().all(|e| e.node_hint.is_some()) && all.iter().any(|e| e.node_hint == Some(NODE)) {
            return endpoint.node_hint == Some(NODE);
        }
        let in_zone = |e: &EndpointSpec| !zone.is_empty() && e.zone_hint == Some(zone);
        if all.iter().all(|e| e.zone_hint.is_some()) && all.iter().any(|e| in_zone(e)) {
            return in_zone(endpoint);
        }
        true
    }

    fn endpoints<'a>(
        world: &'a World,
        service: &ServiceSpec,
        v6: bool,
    ) -> BTreeMap<String, &'a EndpointSpec> {
        let mut endpoints: BTreeMap<String, &EndpointSpec> = BTreeMap::new();
        let mut add = |endpoint: &'a EndpointSpec, port: u16| {
            let address: IpAddr = endpoint_ip(endpoint.n, v6).parse().unwrap();
            let address = SocketAddr::new(address, port).to_string();
            if endpoint.terminating != Some(true) || !endpoints.contains_key(&address) {
                endpoints.insert(address, endpoint);
            }
        };
        for spec in world.values() {
            if let Spec::Slice(slice) = spec
                && slice.owner == service.n
                && slice.v6 == v6
                && !slice.headless
            {
                slice.endpoints.iter().for_each(|endpoint| add(endpoint, slice.port));
            }
        }
        if let Some(Spec::Endpoints(mirrored)) = world.get(&(2, service.n))
            && !mirrored.skip
            && !service.has_selector
            && !v6
        {
            for n in &mirrored.ready {
                add(leak(*n, true), 9090);
            }
            for n in &mirrored.unready {
                add(leak(*n, false), 9090);
            }
        }
        endpoints
    }

    /// A mirrored endpoint has no specification of its own to refer to.
    fn leak(n: usize, ready: bool) -> &'static EndpointSpec {
        let endpoint = EndpointSpec {
            n,
            ready: Some(ready),
            serving: None,
            terminating: None,
            node: Some(NODE),
            zone_hint: None,
            node_hint: None,
        };
        Box::leak(Box::new(endpoint))
    }
}
