//! The programs compared with recorded cases of kube-proxy's behaviour.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};
use ipnetwork::IpNetwork;
use k8s_openapi::api::{
    core::v1::{Endpoints, Node, Service},
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
};
use proxy::{
    index::Change,
    k8s::object::Object,
    model::{
        address::{PerFamily, Protocol, parse_ip, parse_network},
        flow::{Flow, FlowOutcome},
        policy::{NodePortAddresses, Policy},
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    fixture::{self, LinkLayer, ProgramFixture, network},
    packet::Packet,
    path::{Backend, Client, Expected, FlowPath},
};

const CASES: [&str; 2] = [
    include_str!("../../../proxy/testdata/cases/services.json"),
    include_str!("../../../proxy/testdata/cases/more.json"),
];

#[derive(Deserialize)]
struct Case {
    id: String,
    node: CaseNode,
    config: CaseConfig,
    objects: Vec<Value>,
    #[serde(default)]
    flows: Vec<CaseFlow>,
}

#[derive(Deserialize)]
struct CaseNode {
    name: String,
    ips: Vec<IpAddr>,
    labels: Value,
}

#[derive(Deserialize)]
struct CaseConfig {
    masquerade_all: bool,
    cluster_cidr: String,
    nodeport_addresses: Vec<String>,
    localhost_nodeports: bool,
    service_cidrs: Vec<String>,
}

#[derive(Deserialize)]
struct CaseFlow {
    name: String,
    from: String,
    /// Absent in our own cases, where the address determines it.
    kind: Option<String>,
    to: String,
    port: u16,
    protocol: String,
    expect: ExpectedVerdict,
    /// The earlier flow whose backend this one must get, "free" for any.
    sticky: Option<String>,
}

#[derive(Deserialize)]
struct ExpectedVerdict {
    result: String,
    backends: Vec<SocketAddr>,
    masquerade: bool,
    #[serde(default)]
    masquerade_by_backend: HashMap<SocketAddr, bool>,
}

/// Sends every flow of every case through the programs. Returns the number of flows.
pub fn kube_proxy_cases() -> Result<usize> {
    network()?.run(|| {
        let mut fixture = ProgramFixture::new(None, fixture::CONFIG)?;
        let (mut flows, mut port) = (0, 10_000);
        for case in cases()? {
            fixture.load_objects(case.policy(), case.changes()?).with_context(|| case.id.clone())?;
            let mut backends = HashMap::new();
            for case_flow in case.flows.iter().filter(|case_flow| case_flow.is_seen_at_devices()) {
                // Each flow is new to the programs, which keep those of earlier cases.
                port += 1;
                let backend = case.check_flow(case_flow, port, &mut fixture);
                let backend = backend.with_context(|| format!("{} / {}", case.id, case_flow.name))?;
                ensure!(
                    case_flow
                        .sticky
                        .as_ref()
                        .and_then(|earlier| backends.get(earlier))
                        .is_none_or(|it| *it == backend),
                    "{} / {}: another backend than the earlier flow: {backend:?}",
                    case.id,
                    case_flow.name
                );
                backends.insert(case_flow.name.clone(), backend);
                flows += 1;
            }
        }
        Ok(flows)
    })
}

fn cases() -> Result<Vec<Case>> {
    let lists: Result<Vec<Vec<Case>>, _> = CASES.iter().map(|text| serde_json::from_str(text)).collect();
    Ok(lists?.into_iter().flatten().collect())
}

impl CaseFlow {
    /// Packets from ::1 do not leave by a device: the socket plane serves the node's sockets before they send.
    /// Mixed families are no flow.
    fn is_seen_at_devices(&self) -> bool {
        self.from != "::1" && self.from.contains(':') == self.to.contains(':')
    }
}

impl Case {
    fn policy(&self) -> Policy {
        let networks = |texts: &mut dyn Iterator<Item = &str>| -> Vec<IpNetwork> {
            texts.filter_map(parse_network).collect()
        };
        let nodeports: Vec<_> = self.config.nodeport_addresses.iter().map(String::as_str).collect();
        Policy {
            node_name: self.node.name.clone(),
            node_addresses: self.node.ips.clone(),
            nodeport_addresses: match nodeports.as_slice() {
                ["primary"] => NodePortAddresses::Primary,
                [] => NodePortAddresses::Cidrs(networks(&mut ["0.0.0.0/0", "::/0"].into_iter())),
                given => NodePortAddresses::Cidrs(networks(&mut given.iter().copied())),
            },
            localhost_nodeports: self.config.localhost_nodeports,
            cluster_cidrs: PerFamily::first_of(networks(&mut self.config.cluster_cidr.split(','))),
            masquerade_all: self.config.masquerade_all,
            ..Policy::default()
        }
    }

    fn changes(&self) -> Result<Vec<Change>> {
        let node = json!({"kind": "Node", "metadata": {"name": self.node.name, "labels": self.node.labels}});
        let ranges = json!({"kind": "ServiceCIDR", "metadata": {"name": "all"},
            "spec": {"cidrs": self.config.service_cidrs}});
        let objects = self.objects.iter().chain([&node, &ranges]);
        let mut changes = Vec::new();
        for value in objects {
            changes.extend(object(value)?.change(&self.node.name)?.map(|read| read.value));
        }
        Ok(changes)
    }

    fn check_flow(
        &self,
        case_flow: &CaseFlow,
        port: u16,
        fixture: &mut ProgramFixture,
    ) -> Result<Option<SocketAddr>> {
        let ip = |text: &str| parse_ip(text).with_context(|| format!("{text} is not an address"));
        let protocol: Protocol = case_flow.protocol.parse()?;
        let destination = SocketAddr::new(ip(&case_flow.to)?, case_flow.port);
        let flow = Flow { source: ip(&case_flow.from)?, destination, protocol };
        let client = match case_flow.kind.as_deref() {
            Some("pod") => Client::Pod,
            Some("node") => Client::Node,
            None if self.node.ips.contains(&flow.source) || flow.source.is_loopback() => Client::Node,
            Some(_) | None => Client::Outside,
        };
        let (packet, link) = (Packet::first(&flow, port), LinkLayer::Ethernet);
        let path = FlowPath { packet, client, backend: Backend::Outside, link };
        path.check(fixture, &self.expected(&case_flow.expect)?)
    }

    fn expected(&self, answer: &ExpectedVerdict) -> Result<Expected> {
        let outcome = match answer.result.as_str() {
            "dnat" => FlowOutcome::Dnat,
            "reject" => FlowOutcome::Reject,
            "drop" => FlowOutcome::Drop,
            "none" => FlowOutcome::None,
            other => anyhow::bail!("unknown result {other}"),
        };
        let masqueraded = |backend| *answer.masquerade_by_backend.get(backend).unwrap_or(&answer.masquerade);
        let backends = answer.backends.iter().map(|backend| (*backend, masqueraded(backend))).collect();
        let first = |v6: bool| {
            let unspecified = if v6 { IpAddr::from([0; 16]) } else { IpAddr::from([0; 4]) };
            self.node.ips.iter().copied().find(|ip| ip.is_ipv6() == v6).unwrap_or(unspecified)
        };
        Ok(Expected { outcome, backends, masquerade: [first(false), first(true)] })
    }
}

fn object(value: &Value) -> Result<Object> {
    fn typed<T: DeserializeOwned>(value: &Value) -> Result<Box<T>> {
        Ok(Box::new(serde_json::from_value(value.clone())?))
    }
    Ok(match value["kind"].as_str() {
        Some("Service") => Object::Service(typed::<Service>(value)?),
        Some("EndpointSlice") => Object::EndpointSlice(typed::<EndpointSlice>(value)?),
        Some("Endpoints") => Object::Endpoints(typed::<Endpoints>(value)?),
        Some("Node") => Object::Node(typed::<Node>(value)?),
        Some("ServiceCIDR") => Object::ServiceCidr(typed::<ServiceCIDR>(value)?),
        other => anyhow::bail!("unknown kind {other:?}"),
    })
}
