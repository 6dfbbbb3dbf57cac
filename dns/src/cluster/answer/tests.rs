//! The work per answer, and its fairness.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    cluster::{
        name::domain,
        snapshot::Index,
        zone::{Change, Endpoints, ObjectName, Port, Protocol, Service, Slice},
    },
    config::Kubernetes,
};

const PER_SLICE: u32 = 1_000;

/// A headless Service of `endpoints`, in slices of 1,000, the most that Kubernetes allows.
fn snapshot(endpoints: u32) -> Snapshot {
    let mut index = Index::default();
    let key = ServiceKey::new("shop", "web").unwrap();
    let service =
        Service { kind: crate::cluster::zone::ServiceKind::Headless, has_selector: true, external: None };
    index.apply(Change::Service(key.clone(), Some(Arc::new(service))));
    for n in 0..endpoints.div_ceil(PER_SLICE) {
        let id = ObjectName { namespace: "shop".into(), name: format!("web-{n}").into() };
        let first = n * PER_SLICE;
        let v4 = first..endpoints.min(first + PER_SLICE);
        let slice = Slice {
            id: id.clone(),
            service: key.clone(),
            ports: [Port { name: "http".into(), protocol: Protocol::Tcp, number: 80 }].into(),
            v4: Endpoints {
                unnamed: v4.map(|n| Ipv4Addr::from(0x0a00_0000 + n)).collect(),
                named: [].into(),
            },
            v6: Endpoints { unnamed: [].into(), named: [].into() },
            cluster: None,
            imported: None,
            zones: [].into(),
            triggered: None,
            local_pods: None,
        };
        index.apply(Change::Slice(id, Some(Arc::new(slice))));
    }
    index.snapshot(1)
}

fn authority() -> Authority {
    Authority::new(&Kubernetes::shipped(&domain("cluster.local").unwrap()), &[])
}

fn answered<'s>(
    authority: &'s Authority,
    snapshot: &'s Snapshot,
    qtype: RecordType,
    selection: Selection,
) -> Answer<'s> {
    let name = Name::from(&*domain("web.shop.svc.cluster.local").unwrap()).to_query();
    let Resolution::Answered(answer) = answer(&name, qtype, authority, snapshot, selection) else {
        panic!("not answered")
    };
    answer
}

#[test]
fn the_records_of_an_answer_are_bounded_by_the_size_of_the_reply() {
    let (authority, large) = (authority(), snapshot(100_000));
    for (octets, qtype, limit) in [
        (512, RecordType::A, 40),
        (1232, RecordType::A, 90),
        (65_535, RecordType::A, 4_500),
        (512, RecordType::SRV, 210),
        (1232, RecordType::SRV, 210),
        (65_535, RecordType::SRV, 7_500),
    ] {
        for position in [0, 1 << 31, u32::MAX] {
            let answer = answered(&authority, &large, qtype, Selection { octets, position });
            let count = answer.records.len();
            assert!((octets / 40..limit).contains(&count), "{qtype} in {octets} octets: {count} records");
            assert!(answer.additional.is_empty(), "{qtype}");
            assert_eq!(answer.is_cut, qtype == RecordType::SRV, "{qtype}: it may fit otherwise");
        }
    }
    let small = snapshot(50);
    for qtype in [RecordType::A, RecordType::SRV] {
        let answer = answered(&authority, &small, qtype, Selection { octets: 1232, position: 7 });
        assert_eq!((answer.records.len(), answer.is_cut), (50, false), "{qtype}: all that fit");
    }
}

#[test]
fn an_answer_of_a_large_service_takes_no_longer() {
    let authority = authority();
    let time = |endpoints: u32, qtype: RecordType| {
        let snapshot = snapshot(endpoints);
        let once = |n: u32| {
            let started = Instant::now();
            let selection = Selection { octets: 1232, position: n.wrapping_mul(0x9e37_79b9) };
            std::hint::black_box(answered(&authority, &snapshot, qtype, selection));
            started.elapsed()
        };
        // The shortest time is hardly affected by other processes.
        (0..300).map(once).min().unwrap_or(Duration::MAX)
    };
    for qtype in [RecordType::A, RecordType::SRV] {
        let (small, large) = (time(100, qtype), time(100_000, qtype));
        assert!(large < small * 20, "{qtype}: {small:?} with 100 endpoints, {large:?} with 100,000");
    }
}

#[test]
fn every_endpoint_is_selected_equally_often() {
    let (authority, snapshot) = (authority(), snapshot(1_050));
    for qtype in [RecordType::A, RecordType::SRV] {
        let mut seen = HashMap::<String, u32>::new();
        for n in 0..1_050_u64 {
            // The middle of each of 1,050 equal parts.
            let position = u32::try_from(((2 * n + 1) << 32) / 2_100).unwrap();
            let answer = answered(&authority, &snapshot, qtype, Selection { octets: 512, position });
            answer.records.iter().for_each(|record| {
                *seen.entry(format!("{:?}", record.data)).or_default() += 1;
            });
        }
        let (least, most) = (seen.values().min().unwrap(), seen.values().max().unwrap());
        assert_eq!((seen.len(), least), (1_050, most), "{qtype}");
    }
}

/// The memory of a transfer, and the time between two messages, do not grow with a Service.
#[test]
fn a_large_service_is_transferred_in_pieces() {
    let (authority, large) = (authority(), snapshot(100_000));
    let zone = transferable(&authority, &Name::from(&*domain("cluster.local").unwrap())).unwrap();
    let mut sets: Vec<usize> = Vec::new();
    for set in record_sets(&authority, &large, zone) {
        assert!(set.records.len() <= 512, "{} records at once", set.records.len());
        sets.push(set.records.len());
    }
    // Of each endpoint an address at both names, and SRV with and without port; NS and the version.
    assert_eq!(sets.iter().sum::<usize>(), 4 * 100_000 + 3);
}
