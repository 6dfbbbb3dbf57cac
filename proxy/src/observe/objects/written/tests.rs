//! Objects that are written and read again are the same for the load balancer and the name server.

use std::{fs, path::Path};

use super::*;
use crate::{
    index::Index,
    k8s,
    manifests::{self, Manifests},
    model::{backend::PodIdentity, policy::Policy},
};

/// Objects with every field that is in use.
const EVERY_FIELD: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {topology.kubernetes.io/zone: a}}
spec: {podCIDRs: [10.244.1.0/24, "fd01::/64"], taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}
status: {addresses: [{type: ExternalIP, address: 203.0.113.1}, {type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: more}
spec: {cidrs: [10.96.0.0/16, "fd96::/112"]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web, creationTimestamp: "2026-01-01T00:00:00Z", labels: {app: web}}
spec:
  type: LoadBalancer
  selector: {app: web}
  clusterIP: "fd96::10"
  clusterIPs: ["fd96::10", 10.96.0.10]
  ipFamilies: [IPv6, IPv4]
  externalIPs: [203.0.113.9]
  loadBalancerSourceRanges: [198.51.100.0/24, "2001:db8::/48"]
  internalTrafficPolicy: Local
  externalTrafficPolicy: Local
  healthCheckNodePort: 32000
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 77}}
  ports:
  - {name: http, port: 80, nodePort: 30080}
  - {name: dns, port: 53, protocol: UDP}
  - {name: s, port: 9, protocol: SCTP}
status: {loadBalancer: {ingress: [{ip: 203.0.113.10}]}}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: no-node-ports}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, clusterIP: 10.96.0.11, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: other, labels: {service.kubernetes.io/service-proxy-name: x}}
spec: {clusterIP: 10.96.0.12, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: pending}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: peers}
spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: alias}
spec: {type: ExternalName, externalName: db.example.org}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: external}
spec: {clusterIP: 10.96.0.13, ports: [{port: 5432}]}
---
apiVersion: v1
kind: Endpoints
metadata: {namespace: shop, name: external}
subsets: [{addresses: [{ip: 198.51.100.5}], ports: [{port: 5432}]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  namespace: shop
  name: web-1
  labels: {kubernetes.io/service-name: web}
  annotations: {endpoints.kubernetes.io/last-change-trigger-time: "2026-01-01T00:00:00Z"}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: dns, port: 53, protocol: UDP}]
endpoints:
- addresses: [10.244.1.4]
  nodeName: node-1
  zone: a
  hostname: web-0
  targetRef: {kind: Pod, name: web-0}
  hints: {forZones: [{name: a}], forNodes: [{name: node-1}]}
- {addresses: [10.244.2.4], nodeName: node-2, conditions: {ready: false, serving: true, terminating: true}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  namespace: shop
  name: peers-1
  labels: {kubernetes.io/service-name: peers, service.kubernetes.io/headless: ""}
addressType: IPv6
ports: [{name: sql, port: 5432}]
endpoints: [{addresses: ["fd01::5"], hostname: peers-0}, {addresses: ["fd01::6"]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: peers-without-label, labels: {kubernetes.io/service-name: peers}}
addressType: IPv4
ports: [{name: sql, port: 5432}]
endpoints: [{addresses: [10.244.1.7], hostname: peers-1}]
"#;

fn names(manifests: &Manifests) -> Snapshot {
    let mut index = dns::cluster::snapshot::Index::default();
    let objects = manifests.objects.iter().map(|found| &found.object);
    let changes = objects.filter_map(|object| k8s::dns::change(object, &zone::ReadOptions::default()));
    changes.for_each(|change| index.apply(change));
    index.snapshot(0)
}

fn records(manifests: &Manifests) -> Vec<String> {
    let mut records: Vec<_> = names(manifests).records().map(|record| format!("{record:?}")).collect();
    records.sort_unstable();
    records
}

fn all(index: &Index) -> (Vec<Arc<ServiceInfo>>, Vec<SliceInfo>) {
    let (mut services, slices) = index.objects();
    services.sort_by(|a, b| a.key.cmp(&b.key));
    let mut slices: Vec<_> = slices.iter().map(|slice| SliceInfo::clone(slice)).collect();
    for slice in &mut slices {
        // A mirrored slice becomes one of its own.
        if let SliceSource::Endpoints(n) = slice.key.source {
            slice.key.name = format!("{}.endpoints-{n}", slice.key.name).into();
            slice.key.source = SliceSource::Slice;
        }
        // It is not written: only the running agent compares it.
        slice.candidates.iter_mut().for_each(|candidate| candidate.identity = PodIdentity::default());
    }
    slices.sort_by(|a, b| a.key.cmp(&b.key));
    (services, slices)
}

#[track_caller]
fn comes_back(name: &str, read: &Manifests) {
    let policy = || Policy { node_name: "node-1".to_owned(), ..Policy::default() };
    let (index, _) = read.to_index(policy());
    let mut text = String::new();
    let written = Objects::of(&index).write_manifests(Some(&names(read)), |piece| {
        text += &piece;
        Ok::<_, ()>(())
    });
    assert!(written.is_ok() && text.ends_with(OBJECTS_END));
    let again = manifests::parse("objects.yaml", &text);
    assert!(again.skipped.is_empty(), "{name}: {:?}", again.skipped);
    let (index_again, _) = again.to_index(policy());
    assert_eq!(all(&index_again), all(&index), "{name}");
    assert_eq!(index_again.node(), index.node(), "{name}");
    let cidrs = |index: &Index| index.service_cidrs().collect::<Vec<_>>();
    assert_eq!(cidrs(&index_again), cidrs(&index), "{name}");
    assert_eq!(records(&again), records(read), "{name}");
}

#[test]
fn the_examples_come_back_as_they_were() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut count = 0;
    for entry in fs::read_dir(examples).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            comes_back(&entry.path().display().to_string(), &manifests::load(&entry.path()).unwrap());
            count += 1;
        }
    }
    assert!(count > 5, "{count}");
}

/// So that neither the agent nor the reader needs the memory for all of them.
#[test]
fn many_objects_are_sent_in_pieces_of_whole_documents() {
    let service = |n: usize| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s{n}}}\nspec: {{clusterIP: None}}\n---\n")
    };
    let text: String = (0..2_000).map(service).collect();
    let (index, _) = manifests::parse("objects.yaml", &text).to_index(Policy::default());
    let mut pieces = Vec::new();
    let objects = Objects::of(&index);
    let sent = objects.write_manifests(None, |piece| {
        pieces.push(piece);
        Ok::<_, ()>(())
    });
    assert!(sent.is_ok());
    assert!(pieces.len() > 3, "{}", pieces.len());
    for piece in &pieces {
        assert!(piece.starts_with("---\n") && piece.ends_with('\n') && piece.len() < 2 * PIECE);
    }
    let documents = pieces.concat().lines().filter(|line| *line == "---").count();
    assert_eq!(documents, 2_000);
    // A reader that is gone ends the work.
    let mut count = 0;
    let gone = objects.write_manifests(None, |_| {
        count += 1;
        Err(())
    });
    assert_eq!((gone, count), (Err(()), 1));
}

#[test]
fn every_field_in_use_comes_back() {
    let read = manifests::parse("objects.yaml", EVERY_FIELD);
    assert!(read.skipped.is_empty(), "{:?}", read.skipped);
    comes_back("every field", &read);
}
