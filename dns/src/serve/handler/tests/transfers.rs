//! Transfers of the cluster's zones, compared with the answers to queries.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{
    cluster::zone::Pod, config::PodsMode, observe::metrics::Refusal, plugins::transfer::Transfer as Setting,
};

/// `transfer` with everybody as a secondary.
fn to_everybody() -> Vec<Setting> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("Corefile");
    std::fs::write(&path, ". {\n transfer {\n  to *\n }\n}\n").unwrap();
    crate::plugins::read(&path, &|_| None).unwrap().servers[0].transfers.clone()
}

fn handler_with_transfers(
    kubernetes: Kubernetes,
    changes: impl IntoIterator<Item = Change>,
) -> (Handler, Arc<Metrics>) {
    let block = ServerBlock {
        kubernetes: Some(kubernetes),
        transfers: to_everybody(),
        ..ServerBlock::new(vec![Listen::plain(HickoryName::root().into())])
    };
    handler_of_block(&block, changes)
}

fn over_tcp(handler: &Handler, name: &str, qtype: RecordType) -> Handled {
    handler.handle(&request(name, qtype, None).unwrap(), client(Transport::Tcp))
}

fn text(record: &Record) -> String {
    record.to_string().to_lowercase()
}

/// The messages of a transfer, or its rcode.
fn transferred(handler: &Handler, zone: &str) -> Result<Vec<Message>, ResponseCode> {
    match over_tcp(handler, zone, RecordType::AXFR) {
        Handled::Transfer(transfer) => {
            Ok(transfer.messages().map(|octets| Message::from_vec(&octets).unwrap()).collect())
        }
        Handled::Reply(reply) => Err(Message::from_vec(&reply).unwrap().metadata.response_code),
        Handled::Pending(_) | Handled::Dropped => panic!("a transfer of {zone}"),
    }
}

/// All records but the SOA records, which must be the first and the last one.
fn records(handler: &Handler, zone: &str) -> Vec<Record> {
    let mut records: Vec<Record> =
        transferred(handler, zone).unwrap().into_iter().flat_map(|message| message.answers).collect();
    let last = records.pop().unwrap();
    assert_eq!(last, records.remove(0), "{zone}");
    assert_eq!(last.record_type(), RecordType::SOA, "{zone}");
    assert!(records.iter().all(|record| record.record_type() != RecordType::SOA), "{zone}");
    records
}

fn answers(handler: &Handler, name: &str, qtype: RecordType) -> Vec<Record> {
    let Handled::Reply(reply) = over_tcp(handler, name, qtype) else { panic!("{name} {qtype}") };
    Message::from_vec(&reply).unwrap().answers
}

#[tokio::test]
async fn a_transfer_has_the_answers_to_all_queries_and_no_others() {
    let (mut compared, mut reversed) = (0, 0);
    for group in groups() {
        let kubernetes = kubernetes(&group["config"]);
        let zones: Vec<HickoryName> = kubernetes.zones.0.iter().map(|zone| (**zone).clone()).collect();
        let objects = group["objects"].as_array().unwrap().iter().filter_map(change);
        let (handler, _) = handler_with_transfers(kubernetes, objects);
        let mut all = BTreeSet::new();
        for zone in &zones {
            let records = records(&handler, &zone.to_ascii());
            for record in &records {
                let found = answers(&handler, &record.name.to_ascii(), record.record_type());
                let is_answer = found.iter().any(|answer| text(answer) == text(record));
                assert!(is_answer, "{}: {record} is in {zone}, and the answer is {found:?}", group["id"]);
            }
            reversed += records.iter().filter(|record| record.record_type() == RecordType::PTR).count();
            let texts: BTreeSet<String> = records.iter().map(text).collect();
            assert_eq!(texts.len(), records.len(), "{}: {zone} has a record twice", group["id"]);
            all.extend(texts);
        }
        let names = group["queries"].as_array().unwrap().iter().map(|query| query["qname"].as_str().unwrap());
        let is_name = |name: &&str| HickoryName::from_ascii(name).is_ok();
        for name in names.filter(is_name) {
            for qtype in
                QTYPES.into_iter().filter(|qtype| !matches!(qtype, RecordType::SOA | RecordType::ANY))
            {
                // Without endpoints in its zone, a name with `prefer` has all.
                let has_pods = handler.blocks[0].authority.as_ref().unwrap().pods == PodsMode::Verified;
                let is_kept = |answer: &Record| {
                    !text(answer).contains("prefer._zone.") && (has_pods || !text(answer).contains(".pod."))
                };
                for answer in answers(&handler, name, qtype).into_iter().filter(is_kept) {
                    assert!(all.contains(&text(&answer)), "{}: no {answer}", group["id"]);
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 200 && reversed > 20, "{compared} answers, {reversed} pointers");
}

#[tokio::test]
async fn transfers_of_the_cluster_are_bounded_and_refused_where_there_is_no_zone() {
    let zones = ["cluster.local", "10.in-addr.arpa", "clusterset.local"].map(|zone| domain(zone).unwrap());
    let mut kubernetes = Kubernetes::new(Zones(zones.to_vec()));
    kubernetes.multicluster = Zones(vec![domain("clusterset.local").unwrap()]);
    let (handler, metrics) = handler_with_transfers(kubernetes, headless(3000, true));
    for zone in ["shop.svc.cluster.local.", "in-addr.arpa.", "example.org."] {
        assert_eq!(transferred(&handler, zone).err(), Some(ResponseCode::NotAuth), "{zone}");
    }
    let messages = transferred(&handler, "Cluster.Local.").unwrap();
    assert!(messages.len() > 10, "{} messages", messages.len());
    // No Services are imported.
    assert_eq!(records(&handler, "clusterset.local.").len(), 3);
    // NS, its address, the version; of each endpoint an address at both names, and SRV with and without port.
    assert_eq!(records(&handler, "cluster.local.").len(), 3 + 4 * 3000);
    assert_eq!(records(&handler, "10.in-addr.arpa.").len(), 1 + 3000);
    let running: Vec<Handled> =
        (0..2).map(|_| over_tcp(&handler, "cluster.local.", RecordType::AXFR)).collect();
    assert!(running.iter().all(|handled| matches!(handled, Handled::Transfer(_))));
    assert_eq!(transferred(&handler, "cluster.local.").err(), Some(ResponseCode::Refused), "a third one");
    let refused = format!("reason=\"{}\"}} 1", Refusal::Transfer.name());
    assert!(metrics.text().contains(&refused), "{refused}");
    drop(running);
    assert!(transferred(&handler, "cluster.local.").is_ok());
}

/// A headless Service of this cluster and of several ones, and a pod.
fn in_every_zone() -> Vec<Change> {
    let options = ReadOptions { zones: true, multicluster: true, ..ReadOptions::default() };
    let key = ServiceKey::new("shop", "db").unwrap();
    let headless = serde_json::from_value(serde_json::json!({"spec": {"clusterIP": "None"}})).unwrap();
    let service = Arc::new(zone::service(&headless, &options));
    let slice = |name: &str, family: &str, addresses: [&str; 2]| {
        let [first, second] = addresses;
        let object = serde_json::json!({"addressType": family,
            "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "db",
                "multicluster.kubernetes.io/service-name": "db", "multicluster.kubernetes.io/source-cluster": "east"}},
            "ports": [{"name": "db", "port": 5432, "protocol": "TCP"}],
            "endpoints": [{"addresses": [first], "hostname": "a", "zone": "z.1"}, {"addresses": [second], "zone": "z2"}]});
        let id = ObjectName { namespace: "shop".into(), name: name.into() };
        let slice = zone::slice(&id, &serde_json::from_value(object).unwrap(), &options);
        Change::Slice(id, slice.map(Arc::new))
    };
    let pod = Pod { namespace: "shop".into(), addresses: ["10.0.0.9".parse().unwrap()].into() };
    vec![
        Change::Namespace("shop".into(), true),
        Change::Service(key.clone(), Some(Arc::clone(&service))),
        Change::Import(key, Some(service)),
        slice("v4", "IPv4", ["10.0.0.1", "10.0.0.2"]),
        slice("v6", "IPv6", ["fd00::1", "fd00::2"]),
        Change::Pod(ObjectName { namespace: "shop".into(), name: "p".into() }, Some(Arc::new(pod))),
    ]
}

#[tokio::test]
async fn pods_topology_zones_and_imported_services_are_transferred() {
    let zones = ["cluster.local", "clusterset.local"].map(|zone| domain(zone).unwrap());
    let mut kubernetes = Kubernetes::new(Zones(zones.to_vec()));
    kubernetes.multicluster = Zones(vec![domain("clusterset.local").unwrap()]);
    (kubernetes.zonal, kubernetes.pods) = (true, PodsMode::Verified);
    let (handler, _) = handler_with_transfers(kubernetes, in_every_zone());
    for (zone, want) in [
        (
            "cluster.local.",
            "10-0-0-9.shop.pod A;_db._tcp.db.shop.svc SRV SRV SRV;a.db.shop.svc A AAAA;\
             db.shop.svc A A AAAA AAAA SRV SRV SRV;10-0-0-2.db.shop.svc A;fd00--2.db.shop.svc AAAA;\
             z.1.pin._zone.db.shop.svc A AAAA SRV;z.1.prefer._zone.db.shop.svc A AAAA SRV;\
             z2.pin._zone.db.shop.svc A AAAA SRV SRV;z2.prefer._zone.db.shop.svc A AAAA SRV SRV",
        ),
        (
            "clusterset.local.",
            "10-0-0-9.shop.pod A;_db._tcp.db.shop.svc SRV SRV SRV;a.east.db.shop.svc A AAAA;\
             db.shop.svc A A AAAA AAAA SRV SRV SRV;10-0-0-2.east.db.shop.svc A;fd00--2.east.db.shop.svc AAAA",
        ),
    ] {
        let mut names = BTreeMap::<String, Vec<String>>::new();
        for record in records(&handler, zone) {
            let found = answers(&handler, &record.name.to_ascii(), record.record_type());
            assert!(found.iter().any(|answer| text(answer) == text(&record)), "{record}: {found:?}");
            let name = record.name.to_ascii();
            let name = name.strip_suffix(zone).unwrap().trim_end_matches('.').to_owned();
            names.entry(name).or_default().push(record.record_type().to_string());
        }
        let names = names.into_iter().filter(|(name, _)| name.contains("shop")).map(|(name, mut types)| {
            types.sort();
            format!("{name} {}", types.join(" "))
        });
        let want: BTreeSet<String> = want.split(';').map(str::to_owned).collect();
        assert_eq!(names.collect::<BTreeSet<String>>(), want, "{zone}");
    }
}

#[tokio::test]
async fn nothing_is_transferred_before_the_cluster_is_known() {
    let (handler, _) =
        handler_with_transfers(Kubernetes::new(Zones(vec![domain("cluster.local").unwrap()])), []);
    handler.published.publish(Snapshot::default());
    assert_eq!(transferred(&handler, "cluster.local.").err(), Some(ResponseCode::ServFail));
}
