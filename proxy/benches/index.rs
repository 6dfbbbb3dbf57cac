//! The cost of one change, which must not grow with the number of Services: one endpoint of one slice is added or removed,
//! and the affected frontends are computed again, as for the reconciler.

use std::{hint::black_box, net::Ipv4Addr, sync::Arc};

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use proxy::{
    index::{Change, Index},
    model::{
        address::{IpFamily, PerFamily, Protocol},
        backend::{Candidate, PodIdentity, SliceInfo, SliceKey, SlicePort, SliceSource},
        policy::Policy,
        service::{PortInfo, ServiceInfo, ServiceKey, TrafficPolicy},
        small_list::SmallList,
    },
};

const ENDPOINTS: u32 = 10;

fn key(n: u32) -> ServiceKey {
    ServiceKey::new(&format!("ns-{}", n % 100), &format!("service-{n}"))
}

fn address(base: Ipv4Addr, n: u32) -> std::net::IpAddr {
    Ipv4Addr::from(u32::from(base) + n).into()
}

fn service(n: u32) -> Change {
    let key = key(n);
    let info = ServiceInfo {
        key: key.clone(),
        exclusion: None,
        has_selector: true,
        cluster_ips: PerFamily { v4: Some(address(Ipv4Addr::new(10, 96, 0, 1), n)), v6: None },
        local_ips: SmallList::default(),
        ports: Box::new([PortInfo {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }]),
        external_ips: SmallList::default(),
        vips: SmallList::default(),
        source_ranges: PerFamily::default(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        health_check_node_port: None,
        created: None,
        labels: SmallList::default(),
    };
    Change::Service(key, Some(Arc::new(info)))
}

fn slice(n: u32, endpoints: u32) -> Change {
    let service = key(n);
    let candidate = |endpoint| Candidate {
        ip: address(Ipv4Addr::new(10, 128, 0, 1), n * ENDPOINTS + endpoint),
        is_ready: true,
        is_serving: true,
        is_terminating: false,
        is_local: endpoint % 3 == 0,
        identity: PodIdentity::default(),
        pod: None,
        node: None,
        zone: None,
        hints: None,
    };
    let key = SliceKey {
        namespace: service.namespace.clone(),
        name: format!("{}-1", service.name).into(),
        source: SliceSource::Slice,
    };
    let info = SliceInfo {
        key: key.clone(),
        service,
        family: IpFamily::V4,
        ports: Box::new([SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }]),
        candidates: (0..endpoints).map(candidate).collect(),
        triggered: None,
    };
    Change::Slice(key, Some(Arc::new(info)))
}

fn filled(services: u32) -> Index {
    let mut index = Index::new(Policy { node_name: "node-0".to_owned(), ..Policy::default() });
    for n in 0..services {
        index.apply(service(n));
        index.apply(slice(n, ENDPOINTS));
    }
    index
}

fn one_endpoint(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one endpoint of one slice");
    for services in [10, 1_000, 10_000, 50_000] {
        let mut index = filled(services);
        let changes = [slice(services / 2, ENDPOINTS - 1), slice(services / 2, ENDPOINTS)];
        let mut changes = changes.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(services), |bencher| {
            bencher.iter(|| {
                let change = changes.next().expect("a cycle does not end");
                let touched = index.apply(change.clone());
                assert_eq!(touched.len(), 1, "one frontend, whatever the number of Services");
                touched.iter().filter(|key| black_box(index.frontend(key)).is_some()).count()
            });
        });
    }
    group.finish();
}

/// A Service with many ports, all in one slice.
fn wide(index: &mut Index, ports: u16) {
    let Change::Service(key, Some(mut info)) = service(0) else { unreachable!("a Service was added") };
    let port =
        |n| PortInfo { name: format!("p{n}").into(), protocol: Protocol::Tcp, port: n, node_port: None };
    Arc::make_mut(&mut info).ports = (1..=ports).map(port).collect();
    index.apply(Change::Service(key, Some(info)));
    index.apply(wide_slice(ports, ENDPOINTS));
}

fn wide_slice(ports: u16, endpoints: u32) -> Change {
    let Change::Slice(key, Some(mut info)) = slice(0, endpoints) else { unreachable!("a slice was added") };
    let port = |n| SlicePort { name: format!("p{n}").into(), protocol: Protocol::Tcp, port: n };
    Arc::make_mut(&mut info).ports = (1..=ports).map(port).collect();
    Change::Slice(key, Some(info))
}

/// One of the slices of a Service with many endpoints.
fn numbered_slice(number: u32, endpoints: u32) -> Change {
    let Change::Slice(mut key, Some(mut info)) = slice(0, endpoints) else {
        unreachable!("a slice was added")
    };
    key.name = format!("slice-{number}").into();
    let slice = Arc::make_mut(&mut info);
    slice.key = key.clone();
    for (n, candidate) in (0..).zip(&mut slice.candidates) {
        candidate.ip = address(Ipv4Addr::new(10, 128, 0, 1), number * 100 + n);
    }
    Change::Slice(key, Some(info))
}

fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, mut index: Index, changes: &[Change]) {
    let mut changes = changes.iter().cycle();
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let touched = index.apply(changes.next().expect("a cycle does not end").clone());
            touched.iter().filter(|key| black_box(index.frontend(key)).is_some()).count()
        });
    });
}

/// The cost must not grow with the square of the size.
fn one_endpoint_of_a_large_service(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one endpoint of a large Service");
    group.sample_size(10);
    let mut index = filled(10);
    wide(&mut index, 17_000);
    let changes = [wide_slice(17_000, ENDPOINTS - 1), wide_slice(17_000, ENDPOINTS)];
    measure(&mut group, "17000 ports", index, &changes);
    let mut index = filled(10);
    (0..50).for_each(|number| drop(index.apply(numbered_slice(number, 100))));
    measure(&mut group, "5000 endpoints", index, &[numbered_slice(7, 99), numbered_slice(7, 100)]);
    group.finish();
}

criterion_group!(benches, one_endpoint, one_endpoint_of_a_large_service);
criterion_main!(benches);
