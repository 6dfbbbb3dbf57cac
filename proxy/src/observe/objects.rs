//! The objects of the agent's index, for commands: their labels, ages, pods and nodes, which the maps do not hold.

mod written;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ipnetwork::IpNetwork;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::policy_record::PolicyRecord;
use crate::{
    index::Index,
    model::{
        backend::{Candidate, SliceInfo},
        node::NodeInfo,
        policy::Policy,
        service::ServiceInfo,
    },
};

/// The loop is in a long pass if it does not answer by then.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A Service, served or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceDetails {
    /// `NAMESPACE/NAME`.
    pub service: String,
    pub created: Option<Timestamp>,
    pub labels: BTreeMap<String, String>,
}

/// An endpoint of a Service, in any state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointDetails {
    /// `NAMESPACE/NAME`.
    pub service: String,
    pub address: IpAddr,
    /// `NAMESPACE/NAME`; unknown for pods of other nodes.
    pub pod: Option<String>,
    pub node: Option<String>,
    pub zone: Option<String>,
}

/// What has an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// `NAMESPACE/NAME`, of this node.
    pub pod: Option<String>,
    pub node: Option<String>,
}

/// The pods of this node that are endpoints, by address.
pub type Pods = BTreeMap<IpAddr, String>;

/// The objects at one time, shared with the index.
#[derive(Debug, Default)]
pub struct Objects {
    services: Vec<Arc<ServiceInfo>>,
    slices: Vec<Arc<SliceInfo>>,
    node_addresses: Vec<IpAddr>,
    /// The Node object.
    node: Option<NodeInfo>,
    service_cidrs: Vec<IpNetwork>,
    policy: Policy,
}

impl Objects {
    pub fn of(index: &Index) -> Self {
        let (services, slices) = index.objects();
        Self {
            services,
            slices,
            node_addresses: index.node().addresses.clone(),
            node: index.node_info().cloned(),
            service_cidrs: index.service_cidrs().collect(),
            policy: index.policy().clone(),
        }
    }

    pub fn services(&self) -> Vec<ServiceDetails> {
        let text = |(key, value): &(_, _)| (ToString::to_string(key), ToString::to_string(value));
        let details = |service: &Arc<ServiceInfo>| ServiceDetails {
            service: service.key.to_string(),
            created: service.created,
            labels: service.labels.iter().map(text).collect(),
        };
        self.services.iter().map(details).collect()
    }

    pub fn endpoints(&self) -> Vec<EndpointDetails> {
        let details = |(slice, candidate): (&SliceInfo, &Candidate)| EndpointDetails {
            service: slice.service.to_string(),
            address: candidate.ip,
            pod: pod(slice, candidate),
            node: candidate.node.as_ref().map(ToString::to_string),
            zone: candidate.zone.as_ref().map(ToString::to_string),
        };
        self.candidates().map(details).collect()
    }

    /// Without pods on the host network, whose address is the node's.
    pub fn pods(&self) -> Pods {
        let is_pods = |address: &IpAddr| !self.node_addresses.contains(address);
        let named = self.candidates().filter(|(_, candidate)| is_pods(&candidate.ip));
        named.filter_map(|(slice, candidate)| Some((candidate.ip, pod(slice, candidate)?))).collect()
    }

    /// The names of those of these addresses that an endpoint or this node has.
    pub fn named(&self, addresses: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, Named> {
        let own = self.node_addresses.iter().filter(|address| addresses.contains(address));
        let node = || Named { pod: None, node: Some(self.policy.node_name.clone()) };
        let mut named: BTreeMap<IpAddr, Named> = own.map(|address| (*address, node())).collect();
        for (slice, candidate) in self.candidates().filter(|(_, one)| addresses.contains(&one.ip)) {
            let node = candidate.node.as_ref().map(ToString::to_string);
            // Pods on the host network share the node's address.
            named.entry(candidate.ip).or_insert_with(|| Named { pod: pod(slice, candidate), node });
        }
        named
    }

    /// The policy. `has_names`: the objects have those of DNS, too.
    pub fn policy(&self, has_names: bool) -> PolicyRecord {
        PolicyRecord::new(&self.policy, has_names)
    }

    fn candidates(&self) -> impl Iterator<Item = (&SliceInfo, &Candidate)> {
        self.slices.iter().flat_map(|slice| slice.candidates.iter().map(move |one| (&**slice, one)))
    }
}

fn pod(slice: &SliceInfo, candidate: &Candidate) -> Option<String> {
    Some(format!("{}/{}", slice.key.namespace, candidate.pod.as_ref()?))
}

/// Requests for the objects, which the agent's loop owns.
#[derive(Debug)]
pub struct ObjectRequests {
    sender: mpsc::Sender<oneshot::Sender<Objects>>,
    /// Until the loop takes it.
    receiver: Mutex<Option<ObjectRequestReceiver>>,
}

pub type ObjectRequestReceiver = mpsc::Receiver<oneshot::Sender<Objects>>;

impl Default for ObjectRequests {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(1);
        Self { sender, receiver: Mutex::new(Some(receiver)) }
    }
}

impl ObjectRequests {
    /// The end of the loop; `None` if it was taken before.
    pub fn receiver(&self) -> Option<ObjectRequestReceiver> {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// `None`: the loop is busy, or there is none.
    pub async fn ask(&self) -> Option<Objects> {
        let (sender, answer) = oneshot::channel();
        let ask = async {
            self.sender.send(sender).await.ok()?;
            answer.await.ok()
        };
        timeout(ANSWER_TIMEOUT, ask).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::{manifests, model::policy::Policy};

    const OBJECTS: &str = r#"
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web, creationTimestamp: "2026-01-01T00:00:00Z", labels: {app: web, tier: front}}
spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: db}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [10.1.0.1], nodeName: node-1, zone: a, targetRef: {kind: Pod, name: web-0}}
- {addresses: [10.1.0.2], nodeName: node-1, targetRef: {kind: VirtualMachine, name: web-1}}
- {addresses: [10.2.0.1], nodeName: node-2, zone: b, targetRef: {kind: Pod, name: web-2}}
- {addresses: [192.0.2.1], nodeName: node-1, targetRef: {kind: Pod, name: on-the-host}}
- {addresses: [10.3.0.1]}
"#;

    fn objects() -> Objects {
        let node_addresses = vec!["192.0.2.1".parse().unwrap()];
        let policy = Policy { node_name: "node-1".to_owned(), node_addresses, ..Policy::default() };
        let (index, skipped) = manifests::parse("objects.yaml", OBJECTS).to_index(policy);
        assert!(skipped.is_empty(), "{skipped:?}");
        Objects::of(&index)
    }

    #[test]
    fn services_have_age_and_labels() {
        let mut services = objects().services();
        services.sort_by(|a, b| a.service.cmp(&b.service));
        expect![[r#"[{"service":"shop/db","created":null,"labels":{}},{"service":"shop/web","created":"2026-01-01T00:00:00Z","labels":{"app":"web","tier":"front"}}]"#]]
            .assert_eq(&serde_json::to_string(&services).unwrap());
    }

    #[test]
    fn endpoints_have_node_and_zone_and_those_of_this_node_a_pod() {
        let text = |it: Option<String>| it.unwrap_or_else(|| "-".to_owned());
        let lines =
            objects().endpoints().into_iter().map(|EndpointDetails { service, address, pod, node, zone }| {
                format!("{service} {address} {} {} {}\n", text(pod), text(node), text(zone))
            });
        expect![[r#"
            shop/web 10.1.0.1 shop/web-0 node-1 a
            shop/web 10.1.0.2 - node-1 -
            shop/web 10.2.0.1 - node-2 b
            shop/web 192.0.2.1 shop/on-the-host node-1 -
            shop/web 10.3.0.1 - - -
        "#]]
        .assert_eq(&lines.collect::<String>());
        assert_eq!(objects().pods(), [("10.1.0.1".parse().unwrap(), "shop/web-0".to_owned())].into());
    }

    #[test]
    fn an_address_is_an_endpoints_or_the_nodes() {
        let addresses =
            ["10.1.0.1", "10.2.0.1", "192.0.2.1", "203.0.113.9"].map(|text| text.parse().unwrap());
        let named = objects().named(&addresses.into());
        let text = |it: &Option<String>| it.clone().unwrap_or_else(|| "-".to_owned());
        let line = |(address, Named { pod, node }): (&IpAddr, &Named)| {
            format!("{address} {} {}\n", text(pod), text(node))
        };
        expect![[r#"
            10.1.0.1 shop/web-0 node-1
            10.2.0.1 - node-2
            192.0.2.1 - node-1
        "#]]
        .assert_eq(&named.iter().map(line).collect::<String>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_loop_is_not_waited_for_long() {
        let requests = ObjectRequests::default();
        assert!(requests.ask().await.is_none());
        let mut receiver = requests.receiver().unwrap();
        assert!(requests.receiver().is_none(), "there is one loop");
        let answer = async {
            // The first request was given up.
            while let Some(request) = receiver.recv().await {
                if request.send(objects()).is_ok() {
                    break;
                }
            }
        };
        let (asked, ()) = tokio::join!(requests.ask(), answer);
        assert_eq!(asked.unwrap().services().len(), 2);
    }
}
