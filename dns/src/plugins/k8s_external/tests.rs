use std::{fs, net::IpAddr, sync::Arc};

use hickory_server::proto::rr::{Name as HickoryName, Record, RecordType};
use serde_json::{Value, json};

use super::*;
use crate::{
    cluster::{
        name::domain,
        snapshot::Index,
        zone::{self, Change, ObjectName, ReadOptions, ServiceKey},
    },
    config::Kubernetes,
    plugins::{self, ServerBlock},
};

fn block(options: &str) -> Result<ServerBlock, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("Corefile");
    fs::write(&path, format!("outer.example {{\n kubernetes cluster.local\n k8s_external {options}\n}}\n"))
        .unwrap();
    plugins::read(&path, &|_| None).map(|mut read| read.servers.remove(0)).map_err(|error| error.to_string())
}

#[test]
fn options_are_read() {
    let external = |zones: &[&str]| External {
        zones: Zones(zones.iter().map(|zone| domain(zone).unwrap()).collect()),
        apex: "dns".to_owned(),
        ttl: 5,
        headless: false,
        fallthrough: Zones::default(),
    };
    for (options, want) in [
        ("", external(&["outer.example"])),
        ("a.example b.example", external(&["a.example", "b.example"])),
        ("{\n headless\n ttl 0\n}", External { headless: true, ttl: 0, ..external(&["outer.example"]) }),
        (
            "a.example {\n apex Servers\n fallthrough\n ttl 3600\n}",
            External {
                apex: "servers".to_owned(),
                ttl: 3600,
                fallthrough: Zones::all(),
                ..external(&["a.example"])
            },
        ),
    ] {
        assert_eq!(block(options).unwrap().external, Some(want), "{options}");
    }
    for (options, line, want) in [
        ("{\n ttl 3601\n}", 4, "from 0 to 3600"),
        ("{\n ttl\n}", 4, "`ttl SECONDS`"),
        ("{\n ttl x\n}", 4, "`x` is no number"),
        ("{\n apex a.b\n}", 4, "`a.b` is no label"),
        ("{\n apex\n}", 4, "`apex LABEL`"),
        ("{\n headless yes\n}", 4, "takes nothing more"),
        ("{\n upstream\n}", 4, "`upstream` is no option of `k8s_external`"),
        ("10.0.0.0/8", 3, "add the zone of those"),
    ] {
        let got = block(options).map(|_| ()).unwrap_err();
        assert!(got.contains(&format!(":{line}: ")) && got.contains(want), "{options}: {got}");
    }
}

#[test]
fn it_needs_the_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("Corefile");
    fs::write(&path, ". {\n k8s_external a.example\n}\n").unwrap();
    let got = plugins::read(&path, &|_| None).map(|_| ()).unwrap_err().to_string();
    assert!(got.contains(":2: ") && got.contains("add `kubernetes`"), "{got}");
}

fn service(namespace: &str, name: &str, object: Value) -> Change {
    let options = ReadOptions { external: true, ..ReadOptions::default() };
    let read = zone::service(&serde_json::from_value(object).unwrap(), &options);
    Change::Service(ServiceKey::new(namespace, name).unwrap(), Some(Arc::new(read)))
}

fn balanced(ingress: Value) -> Value {
    json!({
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.1", "externalIPs": ["192.0.2.1", "fd00::1", "192.0.2.1"],
            "ports": [{"name": "Http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"port": 443}],
        },
        "status": {"loadBalancer": {"ingress": ingress}},
    })
}

fn snapshot() -> Snapshot {
    let mut index = Index::new(&ReadOptions::default());
    let headless = json!({"spec": {"clusterIP": "None"}});
    let changes = [
        service("shop", "web", balanced(json!([{"ip": "198.51.100.7"}]))),
        service(
            "shop",
            "lb",
            json!({
                "spec": {"clusterIP": "10.96.0.2", "ports": [{"name": "http", "port": 80}]},
                "status": {"loadBalancer": {"ingress": [{"hostname": "lb.cloud.example"}]}},
            }),
        ),
        service("shop", "inner", json!({"spec": {"clusterIP": "10.96.0.3", "ports": [{"port": 80}]}})),
        service("shop", "db", headless.clone()),
        service("shop", "empty", headless),
        service(
            "kube-system",
            "dns",
            json!({
                "spec": {"clusterIP": "10.96.0.10", "externalIPs": ["192.0.2.53"]},
            }),
        ),
    ];
    changes.into_iter().for_each(|change| index.apply(change));
    let slice = json!({
        "metadata": {"name": "db-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4", "ports": [{"name": "sql", "port": 5432}],
        "endpoints": [{"addresses": ["10.244.0.1"], "hostname": "db-0"}, {"addresses": ["10.244.0.2"]}],
    });
    let id = ObjectName { namespace: "shop".into(), name: "db-1".into() };
    let read = zone::slice(&id, &serde_json::from_value(slice).unwrap(), &ReadOptions::default());
    index.apply(Change::Slice(id, read.map(Arc::new)));
    index.snapshot(7)
}

/// `RCODE`, the answers, `|`, the additional records; or `next`.
fn answered(options: &str, own: &[IpAddr], name: &str, qtype: RecordType) -> String {
    let block = block(options).unwrap();
    let authority = Authority::new(&Kubernetes::new(Zones(vec![domain("cluster.local").unwrap()])), own);
    let question = Query::query(HickoryName::from_ascii(name).unwrap(), qtype);
    let snapshot = snapshot();
    let reply = block.external.unwrap().answer(&question, &authority, &snapshot, Selection::default());
    let Some(reply) = reply else { return "next".to_owned() };
    assert!(reply.authoritative, "{name}");
    let owners: Vec<String> = reply.authorities.iter().map(|record| record.name.to_string()).collect();
    assert_eq!(owners.len(), usize::from(reply.answers.is_empty()), "{name} {qtype}: {owners:?}");
    // The owner of an answer is that of the question.
    let answers = shown(&reply.answers, |_| String::new());
    let additionals = shown(&reply.additionals, |record| format!("{} ", record.name));
    let rcode = if reply.rcode == ResponseCode::NXDomain { "NXDOMAIN " } else { "" };
    let more = if additionals.is_empty() { String::new() } else { format!(" | {additionals}") };
    format!("{rcode}{answers}{more}")
}

fn shown(records: &[Record], owner: impl Fn(&Record) -> String) -> String {
    let mut texts: Vec<String> =
        records.iter().map(|record| format!("{}{}", owner(record), record.data)).collect();
    texts.sort();
    texts.join(",")
}

#[test]
fn services_have_names_outside_the_cluster() {
    use RecordType::{A, AAAA, CNAME, MX, NS, SOA, SRV, TXT};
    let glue = "web.shop.x. 192.0.2.1,web.shop.x. 198.51.100.7,web.shop.x. fd00::1";
    for (name, qtype, want) in [
        ("web.shop.x.", A, "192.0.2.1,198.51.100.7".to_owned()),
        ("WEB.shop.X.", AAAA, "fd00::1".to_owned()),
        ("web.shop.x.", MX, String::new()),
        (
            "web.shop.x.",
            SRV,
            format!("0 11 443 web.shop.x.,0 11 53 web.shop.x.,0 11 80 web.shop.x. | {glue}"),
        ),
        ("_http._tcp.web.shop.x.", SRV, format!("0 33 80 web.shop.x. | {glue}")),
        ("_http._tcp.web.shop.x.", A, String::new()),
        ("_http._udp.web.shop.x.", SRV, "NXDOMAIN ".to_owned()),
        ("_https._tcp.web.shop.x.", SRV, "NXDOMAIN ".to_owned()),
        ("_._tcp.web.shop.x.", SRV, "NXDOMAIN ".to_owned()),
        ("_tcp.web.shop.x.", SRV, String::new()),
        ("_sctp.web.shop.x.", A, "NXDOMAIN ".to_owned()),
        ("x._http._tcp.web.shop.x.", A, "NXDOMAIN ".to_owned()),
        ("pod.web.shop.x.", A, "NXDOMAIN ".to_owned()),
        ("lb.shop.x.", A, "lb.cloud.example.".to_owned()),
        ("lb.shop.x.", CNAME, "lb.cloud.example.".to_owned()),
        ("lb.shop.x.", TXT, String::new()),
        ("lb.shop.x.", SRV, "0 100 80 lb.cloud.example.".to_owned()),
        ("inner.shop.x.", A, "NXDOMAIN ".to_owned()),
        ("db.shop.x.", A, "NXDOMAIN ".to_owned()),
        ("missing.shop.x.", A, "NXDOMAIN ".to_owned()),
        ("shop.x.", A, String::new()),
        ("bank.x.", A, "NXDOMAIN ".to_owned()),
        ("x.", A, String::new()),
        ("x.", TXT, String::new()),
        ("x.", SOA, "ns1.dns.x. hostmaster.dns.x. 7 7200 1800 86400 5".to_owned()),
        ("x.", NS, "ns1.dns.x. | ns1.dns.x. 192.0.2.53".to_owned()),
        ("dns.x.", A, String::new()),
        ("ns1.dns.x.", A, "192.0.2.53".to_owned()),
        ("ns1.dns.x.", AAAA, String::new()),
        ("ns2.dns.x.", A, "NXDOMAIN ".to_owned()),
        ("a.ns1.dns.x.", A, "NXDOMAIN ".to_owned()),
        ("web.shop.y.", A, "next".to_owned()),
    ] {
        let own = ["10.96.0.10".parse().unwrap()];
        assert_eq!(answered("x", &own, name, qtype), want, "{name} {qtype}");
    }
    let own = ["10.0.0.9".parse().unwrap()];
    assert_eq!(answered("x", &own, "ns1.dns.x.", A), "10.0.0.9", "no Service leads to it");
}

#[test]
fn endpoints_have_names_if_wanted() {
    use RecordType::{A, AAAA, SRV};
    let targets = "0 50 5432 10-244-0-2.db.shop.x.,0 50 5432 db-0.db.shop.x. | \
                   10-244-0-2.db.shop.x. 10.244.0.2,db-0.db.shop.x. 10.244.0.1";
    for (name, qtype, want) in [
        ("db.shop.x.", A, "10.244.0.1,10.244.0.2"),
        ("db.shop.x.", AAAA, ""),
        ("db.shop.x.", SRV, targets),
        ("_sql._tcp.db.shop.x.", SRV, targets),
        ("_sql._udp.db.shop.x.", SRV, "NXDOMAIN "),
        ("db-0.db.shop.x.", A, "10.244.0.1"),
        ("10-244-0-2.db.shop.x.", A, "10.244.0.2"),
        ("10-244-0-1.db.shop.x.", A, "NXDOMAIN "),
        ("empty.shop.x.", A, "NXDOMAIN "),
        ("web.shop.x.", A, "192.0.2.1,198.51.100.7"),
    ] {
        assert_eq!(answered("x {\n headless\n}", &[], name, qtype), want, "{name} {qtype}");
    }
}

#[test]
fn external_addresses_lead_to_names() {
    use RecordType::{A, PTR};
    for (name, qtype, want) in [
        ("7.100.51.198.in-addr.arpa.", PTR, "web.shop.x."),
        ("7.100.51.198.in-addr.arpa.", A, ""),
        ("8.100.51.198.in-addr.arpa.", PTR, "NXDOMAIN "),
        ("1.0.96.10.in-addr.arpa.", PTR, "NXDOMAIN "),
        ("missing.shop.x.", A, "next"),
        ("shop.x.", A, ""),
    ] {
        let options = "in-addr.arpa x {\n fallthrough x\n}";
        assert_eq!(answered(options, &[], name, qtype), want, "{name} {qtype}");
    }
}
