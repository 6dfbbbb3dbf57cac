//! The topics of queries in the query statistics.

use super::*;
use crate::observe::clients::{Counts, Trouble};

fn changes() -> Vec<Change> {
    let service = |name: &str, spec: Value| {
        let read = zone::service(
            &serde_json::from_value(serde_json::json!({ "spec": spec })).unwrap(),
            &ReadOptions::default(),
        );
        Change::Service(ServiceKey::new("shop", name).unwrap(), Some(Arc::new(read)))
    };
    let slice = |service: &str, endpoints: Value| {
        change(&serde_json::json!({"kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": service, "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"name": "http", "port": 80}], "endpoints": endpoints}))
    };
    let ports = serde_json::json!([{"name": "http", "port": 80}]);
    let mut changes = vec![
        service("web", serde_json::json!({"clusterIP": "10.96.0.1", "ports": ports})),
        service("db", serde_json::json!({"clusterIP": "None"})),
        service("idle", serde_json::json!({"clusterIP": "None"})),
        service("outside", serde_json::json!({"type": "ExternalName", "externalName": "www.example.org"})),
    ];
    changes.extend(slice("web", serde_json::json!([{"addresses": ["10.1.0.1"]}])));
    changes.extend(slice("db", serde_json::json!([{"addresses": ["10.1.0.2"], "hostname": "db-0"}])));
    changes
}

fn block() -> ServerBlock {
    let mut kubernetes = Kubernetes::shipped(&domain("cluster.local").unwrap());
    kubernetes.pods = PodsMode::Insecure;
    ServerBlock {
        kubernetes: Some(kubernetes),
        local: true,
        ..ServerBlock::new(vec![Listen::plain(HickoryName::root().into())])
    }
}

/// Sends one query to a new server, and returns its statistics.
fn recorded(request: &[u8]) -> Counts {
    let (handler, metrics) = handler_of_block(&block(), changes());
    let _ = handler.handle(request, client(Transport::Udp));
    let report = metrics.clients().report();
    assert_eq!(metrics.clients().total(), report.clients[0].1);
    report.clients[0].1
}

#[tokio::test]
async fn topics_follow_the_name_and_the_answer() {
    use Topic::{Absent, Alias, Domain, External, Headless, Local, Pod, Reverse, Search, Service};
    for (name, want) in [
        ("web.shop.svc.cluster.local", Service),
        ("WEB.shop.svc.cluster.local", Service),
        ("_http._tcp.web.shop.svc.cluster.local", Service),
        ("10-1-0-1.web.shop.svc.cluster.local", Service),
        ("db.shop.svc.cluster.local", Headless),
        ("db-0.db.shop.svc.cluster.local", Headless),
        ("outside.shop.svc.cluster.local", Alias),
        ("10-1-0-1.shop.pod.cluster.local", Pod),
        ("x.shop.pod.cluster.local", Pod),
        ("1.0.96.10.in-addr.arpa", Reverse),
        ("9.9.9.9.in-addr.arpa", Reverse),
        ("cluster.local", Domain),
        ("svc.cluster.local", Domain),
        ("shop.svc.cluster.local", Domain),
        ("dns-version.cluster.local", Domain),
        // No such Service in an existing namespace; no such endpoint; no ready endpoint.
        ("wbe.shop.svc.cluster.local", Absent),
        ("x.web.shop.svc.cluster.local", Absent),
        ("_ftp._tcp.web.shop.svc.cluster.local", Absent),
        ("idle.shop.svc.cluster.local", Absent),
        ("idle-0.idle.shop.svc.cluster.local", Absent),
        // The search-list expansions of a pod in `shop` for `www.example.org` and `web.shop`.
        ("www.example.org.shop.svc.cluster.local", Search),
        ("www.example.org.svc.cluster.local", Search),
        ("www.example.org.cluster.local", Search),
        ("web.shop.shop.svc.cluster.local", Search),
        ("example.org.svc.cluster.local", Search),
        ("org.svc.cluster.local", Search),
        ("localhost", Local),
        ("www.example.org", External),
        ("web.shop.svc.cluster.local.example", External),
    ] {
        let request = request(name, RecordType::A, None).unwrap();
        let counts = recorded(&request);
        let topics: Vec<_> = counts.topics().filter(|(_, count)| *count != 0).collect();
        assert_eq!(topics, [(want, 1)], "{name}");
    }
}

#[tokio::test]
async fn invalid_requests_are_refused_and_recorded() {
    let plain = request("web.shop.svc.cluster.local", RecordType::A, Some(1232)).unwrap();
    let changed = |at: usize, octet: u8| {
        let mut request = plain.clone();
        request[at] = octet;
        request
    };
    let end_of_question = plain.len() - 11;
    for (name, request) in [
        ("no question", changed(5, 0)),
        ("another opcode", changed(2, 0x20)),
        ("cut short", plain[..20].to_vec()),
        ("class CH", changed(end_of_question - 1, 3)),
        ("a transfer", changed(end_of_question - 3, 252)),
        ("EDNS of a later version", changed(end_of_question + 6, 1)),
    ] {
        let want = Counts::of(&[(Topic::Invalid, 1)], &[(Trouble::Refused, 1)]);
        assert_eq!(recorded(&request), want, "{name}");
    }
}

#[tokio::test]
async fn queries_before_the_first_snapshot_are_recorded_as_failed() {
    let (mut handler, metrics) = handler_of_block(&block(), changes());
    handler.published = Arc::default();
    let request = request("web.shop.svc.cluster.local", RecordType::A, None).unwrap();
    let _ = handler.handle(&request, client(Transport::Udp));
    let want = Counts::of(&[(Topic::Domain, 1)], &[(Trouble::Failed, 1)]);
    assert_eq!(metrics.clients().total(), want);
}
