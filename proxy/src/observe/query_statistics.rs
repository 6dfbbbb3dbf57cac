//! Statistics of DNS queries by client, as `portreeve get dns` shows them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use dns::{
    cluster::zone::ObjectName,
    observe::{
        clients::{Counts, Report},
        metrics::UpstreamCounts,
    },
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryStatistics {
    /// The start of counting.
    pub since: Timestamp,
    /// Ordered by queries, most first.
    pub clients: Vec<Client>,
    pub upstreams: Vec<Upstream>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    pub kind: ClientKind,
    /// `NAMESPACE/NAME` of a pod, `node`, an address, or `others`.
    pub client: String,
    pub addresses: Vec<IpAddr>,
    pub queries: u64,
    /// By topic; includes topics without queries, so that the shape stays the same.
    pub topics: BTreeMap<String, u64>,
    /// By kind of trouble.
    pub troubles: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientKind {
    Pod,
    /// This node, including pods on the host network.
    Node,
    /// An address without a known name.
    Address,
    /// The clients beyond the capacity of the agent's tables.
    Others,
}

/// Counts since the agent's start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    pub address: String,
    pub answers: u64,
    pub failed: u64,
    pub slow: u64,
}

impl From<UpstreamCounts> for Upstream {
    fn from(UpstreamCounts { address, answers, failed, slow }: UpstreamCounts) -> Self {
        Self { address, answers, failed, slow }
    }
}

impl QueryStatistics {
    /// `pods`: pods by address; `own`: addresses of this node.
    pub fn new(
        report: Report,
        upstreams: Vec<UpstreamCounts>,
        pods: &HashMap<IpAddr, &ObjectName>,
        own: &[IpAddr],
    ) -> Self {
        let client_of = |address: IpAddr| match pods.get(&address) {
            _ if own.contains(&address) => (ClientKind::Node, "node".to_owned()),
            Some(pod) => (ClientKind::Pod, format!("{}/{}", pod.namespace, pod.name)),
            None => (ClientKind::Address, address.to_string()),
        };
        let mut named: BTreeMap<(ClientKind, String), (Vec<IpAddr>, Counts)> = BTreeMap::new();
        for (address, counts) in report.clients {
            let (addresses, sum) = named.entry(client_of(address)).or_default();
            addresses.push(address);
            *sum += counts;
        }
        if report.others != Counts::default() {
            named.insert((ClientKind::Others, "others".to_owned()), (Vec::new(), report.others));
        }
        let mut clients: Vec<_> = named.into_iter().map(Client::new).collect();
        clients.sort_by_key(|client| Reverse(client.queries));
        Self {
            since: Timestamp::try_from(report.since).unwrap_or_default(),
            clients,
            upstreams: upstreams.into_iter().map(Upstream::from).collect(),
        }
    }
}

impl Client {
    fn new(((kind, client), (mut addresses, counts)): ((ClientKind, String), (Vec<IpAddr>, Counts))) -> Self {
        addresses.sort_unstable();
        Self {
            kind,
            client,
            addresses,
            queries: counts.queries(),
            topics: counts.topics().map(|(topic, count)| (topic.name().to_owned(), count)).collect(),
            troubles: counts.troubles().map(|(trouble, count)| (trouble.name().to_owned(), count)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use dns::{cluster::topic::Topic, observe::clients::Clients};
    use hickory_server::proto::op::ResponseCode;

    use super::*;

    fn pod(name: &str) -> ObjectName {
        ObjectName { namespace: "shop".into(), name: name.into() }
    }

    #[test]
    fn clients_are_named_where_their_addresses_are_known() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let clients = Clients::default();
        for (client, times) in
            [("10.1.0.1", 3), ("fd01::1", 4), ("10.1.0.9", 5), ("172.18.0.2", 1), ("127.0.0.1", 1)]
        {
            for _ in 0..times {
                clients.record(address(client), Topic::Service, ResponseCode::ServFail, Duration::ZERO);
            }
        }
        let (web, host) = (pod("web-0"), pod("agent"));
        // A pod on the host network counts as the node.
        let pods = [("10.1.0.1", &web), ("fd01::1", &web), ("172.18.0.2", &host)];
        let pods = pods.map(|(text, pod)| (address(text), pod)).into();
        let own = ["127.0.0.1", "172.18.0.2"].map(address);
        let statistics = QueryStatistics::new(clients.report(), Vec::new(), &pods, &own);
        let rows = statistics.clients.iter().map(|client| {
            (client.kind, &*client.client, client.queries, client.topics["service"], client.addresses.len())
        });
        assert_eq!(
            rows.collect::<Vec<_>>(),
            [
                (ClientKind::Pod, "shop/web-0", 7, 7, 2),
                (ClientKind::Address, "10.1.0.9", 5, 5, 1),
                (ClientKind::Node, "node", 2, 2, 2)
            ]
        );
        assert_eq!(statistics.clients[0].troubles["failed"], 7);
        assert_eq!(statistics.clients[0].topics["search"], 0, "the shape stays the same");
        let age = Timestamp::now().duration_since(statistics.since).as_secs();
        assert!((0..60).contains(&age), "{}", statistics.since);
        assert!(SystemTime::from(statistics.since) <= SystemTime::now());
    }
}
