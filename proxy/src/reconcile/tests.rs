//! The reconciler on watched maps: every write is checked against the entries that a program could be reading
//! then.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    num::NonZeroU32,
};

use ipnetwork::IpNetwork;
use proptest::prelude::*;
use proxy_ebpf::abi::{BackendFlags, BackendRef, Block, Descriptor, ServiceName, Unclaimed};

use super::*;
use crate::model::{
    address::{IpFamily, Protocol},
    backend::{Backend, BackendState},
    frontend::{Frontend, FrontendAddress, FrontendKey, FrontendKind, Masquerade, View, WhenEmpty},
    service::{ServiceKey, ServicePortKey, TrafficPolicy},
};

const CAPACITY: Capacity =
    Capacity { frontends: 16, descriptors: 40, slots: 200, backends: 120, services: 16, source_ranges: 64 };

/// Maps that record the entries programs may still read: all that were reachable at any time since the last
/// grace period.
#[derive(Clone)]
struct Watched {
    maps: FakeMaps,
    descriptors: HashSet<u32>,
    slots: HashSet<u32>,
    backends: HashSet<(IpFamily, u32)>,
    ranges: HashSet<u32>,
}

impl Watched {
    fn new(maps: FakeMaps) -> Self {
        let mut watched = Self {
            maps,
            descriptors: HashSet::new(),
            slots: HashSet::new(),
            backends: HashSet::new(),
            ranges: HashSet::new(),
        };
        watched.grace_period();
        watched
    }

    /// Programs that ran before have ended; from now on only reachable entries may be in use.
    fn grace_period(&mut self) {
        (self.descriptors, self.slots, self.backends, self.ranges) = Default::default();
        for index in 0..CAPACITY.frontends {
            self.mark(self.maps.unlimited(|maps| maps.published(index)).unwrap());
        }
    }

    fn mark(&mut self, index: u32) {
        let descriptor = self.maps.unlimited(|maps| maps.descriptor(index)).unwrap();
        self.descriptors.insert(index);
        self.ranges.insert(descriptor.source_ranges);
        for block in [descriptor.internal, descriptor.external] {
            self.slots.extend(block.offset..block.offset + block.count);
            let family = family_of(&descriptor);
            let slots = self.maps.unlimited(|maps| maps.slots(block)).unwrap();
            self.backends.extend(slots.iter().map(|slot| (family, slot.index)));
        }
    }

    /// No frontend may reference a retired backend: its connections would have to choose again.
    fn assert_sound(&self) {
        self.maps.unlimited(assert_sound);
    }
}

fn assert_sound(maps: &FakeMaps) {
    for (key, index) in maps.frontends().unwrap() {
        let descriptor = maps.descriptor(maps.published(index).unwrap()).unwrap();
        for block in [descriptor.internal, descriptor.external] {
            for slot in maps.slots(block).unwrap() {
                let backend = maps.backend(key.address.family(), slot.index).unwrap();
                assert_eq!(backend.generation, slot.generation, "{key} references a retired backend");
                assert_eq!(
                    backend.service, descriptor.service,
                    "{key} references another service port's backend"
                );
            }
        }
    }
}

fn family_of(descriptor: &Descriptor) -> IpFamily {
    frontend_key(descriptor.address, descriptor.port, descriptor.protocol)
        .map_or(IpFamily::V4, |key| key.address.family())
}

impl LbMaps for Watched {
    fn capacity(&self) -> Capacity {
        self.maps.capacity()
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, MapError> {
        self.maps.frontends()
    }

    fn insert_frontend(&mut self, key: FrontendKey, index: u32) -> Result<(), MapError> {
        assert_ne!(self.maps.published(index)?, 0, "{key} inserted before it has a descriptor");
        self.maps.insert_frontend(key, index)?;
        self.assert_sound();
        Ok(())
    }

    fn remove_frontend(&mut self, key: FrontendKey) -> Result<(), MapError> {
        self.maps.remove_frontend(key)
    }

    fn services(&self) -> Result<Vec<(u32, ServiceName)>, MapError> {
        self.maps.services()
    }

    fn insert_service(&mut self, index: u32, name: ServiceName) -> Result<(), MapError> {
        self.maps.insert_service(index, name)
    }

    fn remove_service(&mut self, index: u32) -> Result<(), MapError> {
        self.maps.remove_service(index)
    }

    fn published(&self, frontend: u32) -> Result<u32, MapError> {
        self.maps.published(frontend)
    }

    fn publish(&mut self, frontend: u32, descriptor: u32) -> Result<(), MapError> {
        let is_served = self.maps.frontends().unwrap().iter().any(|(_, index)| *index == frontend);
        assert!(!is_served || descriptor != 0, "a frontend that look-ups find has no descriptor");
        self.maps.publish(frontend, descriptor)?;
        self.mark(descriptor);
        self.assert_sound();
        Ok(())
    }

    fn descriptor(&self, index: u32) -> Result<Descriptor, MapError> {
        self.maps.descriptor(index)
    }

    fn write_descriptor(&mut self, index: u32, descriptor: &Descriptor) -> Result<(), MapError> {
        assert!(!self.descriptors.contains(&index), "descriptor {index} rewritten under its readers");
        self.maps.write_descriptor(index, descriptor)
    }

    fn slots(&self, block: Block) -> Result<Vec<BackendRef>, MapError> {
        self.maps.slots(block)
    }

    fn write_slots(&mut self, offset: u32, slots: &[BackendRef]) -> Result<(), MapError> {
        for at in (offset..).take(slots.len()) {
            assert!(!self.slots.contains(&at), "slot {at} rewritten under its readers");
        }
        self.maps.write_slots(offset, slots)
    }

    fn source_ranges(&self) -> Result<Vec<(u32, IpNetwork)>, MapError> {
        self.maps.source_ranges()
    }

    fn insert_source_range(&mut self, set: u32, network: IpNetwork) -> Result<(), MapError> {
        assert!(!self.ranges.contains(&set), "set {set} may be read by a program");
        self.maps.insert_source_range(set, network)
    }

    fn remove_source_range(&mut self, set: u32, network: IpNetwork) -> Result<(), MapError> {
        assert!(!self.ranges.contains(&set), "set {set} may be read by a program");
        self.maps.remove_source_range(set, network)
    }

    fn service_networks(&self) -> Result<Vec<(IpNetwork, Unclaimed)>, MapError> {
        self.maps.service_networks()
    }

    fn insert_service_network(&mut self, network: IpNetwork, unclaimed: Unclaimed) -> Result<(), MapError> {
        self.maps.insert_service_network(network, unclaimed)
    }

    fn remove_service_network(&mut self, network: IpNetwork) -> Result<(), MapError> {
        self.maps.remove_service_network(network)
    }

    fn backend(&self, family: IpFamily, index: u32) -> Result<BackendEntry, MapError> {
        self.maps.backend(family, index)
    }

    fn write_backend(&mut self, index: u32, entry: &BackendEntry) -> Result<(), MapError> {
        let family = IpFamily::of(entry.address.ip());
        assert!(!self.backends.contains(&(family, index)), "backend {index} rewritten under its readers");
        self.maps.write_backend(index, entry)
    }

    fn raise_generation(&mut self, family: IpFamily, index: u32, generation: u32) -> Result<(), MapError> {
        self.maps.raise_generation(family, index, generation)?;
        self.assert_sound();
        Ok(())
    }

    fn set_backend_flags(
        &mut self,
        family: IpFamily,
        index: u32,
        flags: BackendFlags,
    ) -> Result<(), MapError> {
        self.maps.set_backend_flags(family, index, flags)
    }

    fn release(&mut self) {
        self.maps.release();
    }
}

fn backends(family: IpFamily, numbers: &[u8]) -> Vec<Backend> {
    let address = |number: u8| match family {
        IpFamily::V4 => SocketAddr::from(([10, 0, 0, number], 80)),
        IpFamily::V6 => SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, number.into()], 80)),
    };
    let unique: std::collections::BTreeSet<u8> = numbers.iter().copied().collect();
    let backend = |number: u8| Backend {
        address: address(number),
        is_local: number.is_multiple_of(2),
        state: BackendState::Ready,
    };
    unique.into_iter().map(backend).collect()
}

/// A frontend of a numbered service port, with these backends.
fn frontend(key: FrontendKey, service: u8, policy: TrafficPolicy, numbers: &[u8]) -> Frontend {
    let all = backends(key.address.family(), numbers);
    let local: Vec<_> = all.iter().filter(|backend| backend.is_local).copied().collect();
    let external = if policy == TrafficPolicy::Local { local } else { all.clone() };
    Frontend {
        key,
        kind: FrontendKind::ExternalIp,
        service: ServicePortKey {
            service: ServiceKey::new("shop", &format!("s{service}")),
            port_name: "http".into(),
            protocol: key.protocol,
        },
        policy,
        internal: View::new(all.clone(), WhenEmpty::Reject),
        external: View::new(external, WhenEmpty::Drop),
        served_here: None,
        serving: all,
        masquerade: Masquerade::Always,
        affinity: NonZeroU32::new(service.into()),
        // Two different lists in all, so that sets are shared, switched and freed.
        source_ranges: match numbers.len() % 3 {
            0 => Vec::new(),
            length => vec![IpNetwork::new([10, length as u8, 0, 0].into(), 16).unwrap()],
        },
        extra_sources: Vec::new(),
    }
}

fn key(number: u8) -> FrontendKey {
    let address = match number % 3 {
        0 => FrontendAddress::Ip([10, 96, 0, number].into()),
        1 => FrontendAddress::Ip([0xfd96, 0, 0, 0, 0, 0, 0, number.into()].into()),
        _ => FrontendAddress::NodePort(IpFamily::V4),
    };
    FrontendKey { address, port: 8000 + u16::from(number), protocol: Protocol::Tcp }
}

fn adopt(maps: FakeMaps) -> Reconciler<Watched> {
    adopt_with(maps, UNLIMITED)
}

/// Budgets that count and refuse nothing.
const UNLIMITED: Budget = Budget { service: u8::MAX, namespace: u8::MAX, name_server: None };

fn adopt_with(maps: FakeMaps, budget: Budget) -> Reconciler<Watched> {
    Reconciler::adopt_with(Watched::new(maps), Some(budget)).unwrap()
}

/// The dump of maps that were written once, from nothing.
fn fresh(wanted: impl IntoIterator<Item = Frontend>) -> String {
    let mut reconciler = adopt(FakeMaps::new(CAPACITY));
    let pass = reconciler.apply_all(wanted);
    assert!(pass.failed.is_empty(), "{:?}", pass.failed);
    dump(reconciler.maps()).unwrap()
}

fn reclaim(reconciler: &mut Reconciler<Watched>, pass: &Pass) {
    if let Some(epoch) = pass.grace {
        reconciler.maps.grace_period();
        reconciler.reclaim(epoch);
    }
}

#[test]
fn an_unchanged_frontend_is_not_written_again() {
    let mut reconciler = adopt(FakeMaps::new(CAPACITY));
    let wanted = frontend(key(0), 1, TrafficPolicy::Local, &[1, 2, 3]);
    assert_eq!(reconciler.apply([(wanted.key, Some(wanted.clone()))]).changed, 1);
    let again = reconciler.apply([(wanted.key, Some(wanted))]);
    assert_eq!((again.changed, again.grace), (0, None));
}

#[test]
fn local_views_share_the_slots_of_the_whole() {
    let mut reconciler = adopt(FakeMaps::new(CAPACITY));
    reconciler.apply_all([frontend(key(0), 1, TrafficPolicy::Local, &[1, 2, 3, 4])]);
    assert_eq!(slots_used(&reconciler), 4);
    expect_test::expect![[r#"
        BE shop/s1:http/TCP 10.0.0.1:80 flags=ALIVE|IN_CLUSTER_SET
        BE shop/s1:http/TCP 10.0.0.2:80 flags=ALIVE|IN_CLUSTER_SET|IN_LOCAL_SET|LOCAL
        BE shop/s1:http/TCP 10.0.0.3:80 flags=ALIVE|IN_CLUSTER_SET
        BE shop/s1:http/TCP 10.0.0.4:80 flags=ALIVE|IN_CLUSTER_SET|IN_LOCAL_SET|LOCAL
        FE 10.96.0.0:8000/TCP service=shop/s1:http/TCP flags=EXTERNAL_LOCAL|EXTERNAL_DROPS|SOURCE_RANGES|MASQUERADE_ALWAYS affinity=1 internal=[10.0.0.2:80,10.0.0.4:80,10.0.0.1:80,10.0.0.3:80] external=[10.0.0.2:80,10.0.0.4:80] sources=[10.1.0.0/16]
    "#]]
    .assert_eq(&dump(reconciler.maps()).unwrap());
}

fn slots_used(reconciler: &Reconciler<Watched>) -> u32 {
    reconciler.fill().iter().find(|fill| fill.map == "SLOTS").map_or(0, |fill| fill.used)
}

#[test]
fn frontends_of_a_service_port_share_a_block() {
    let keys = [0, 2, 3, 5, 6].map(key);
    let all = |numbers: &[u8]| {
        // The local set is the first part of the whole.
        let policy = |at| if at % 2 == 0 { TrafficPolicy::Cluster } else { TrafficPolicy::Local };
        let put = |(at, key): (usize, FrontendKey)| (key, Some(frontend(key, 1, policy(at), numbers)));
        keys.into_iter().enumerate().map(put).collect::<Vec<_>>()
    };
    // A block and its successor have room, and a second one of the same size has none.
    let mut reconciler = adopt(FakeMaps::new(Capacity { slots: 9, ..CAPACITY }));
    let pass = reconciler.apply(all(&[1, 2, 3, 4, 5]));
    assert!(pass.failed.is_empty(), "{:?}", pass.failed);
    assert_eq!(slots_used(&reconciler), 5);
    let pass = reconciler.apply(all(&[2, 3, 4, 5]));
    assert!(pass.failed.is_empty(), "{:?}", pass.failed);
    assert_eq!(slots_used(&reconciler), 9, "the old block waits for its readers");
    reclaim(&mut reconciler, &pass);
    assert_eq!(slots_used(&reconciler), 4);

    // A successor finds the same block, and frees it with its last frontend.
    let mut successor = adopt(reconciler.maps.maps.clone());
    assert_eq!(slots_used(&successor), 4);
    let pass = successor.apply_all(all(&[2, 3, 4, 5]).into_iter().filter_map(|(_, wanted)| wanted));
    assert_eq!((pass.changed, slots_used(&successor)), (0, 4));
    for (left, key) in keys.into_iter().enumerate().rev() {
        let pass = successor.apply([(key, None)]);
        reclaim(&mut successor, &pass);
        assert_eq!(slots_used(&successor), if left > 0 { 4 } else { 0 }, "{left} frontends are left");
    }
}

fn errors(pass: &Pass) -> Vec<(FrontendKey, String)> {
    pass.failed.iter().map(|(key, error)| (*key, error.to_string())).collect()
}

#[test]
fn a_service_beyond_its_share_is_named_and_the_others_are_served() {
    let budget = || Budget { service: 25, namespace: 50, ..UNLIMITED };
    let used_up = |table: &str, share: u32| {
        format!("Service shop/s1 has used up its share of {table} ({share} entries)")
    };
    for (capacity, reason) in [
        (Capacity { frontends: 12, ..CAPACITY }, used_up("FRONTENDS", 3)),
        (Capacity { slots: 8, ..CAPACITY }, used_up("SLOTS", 2)),
        (Capacity { backends: 8, ..CAPACITY }, used_up("BACKENDS_V4", 2)),
    ] {
        let mut reconciler = adopt_with(FakeMaps::new(capacity), budget());
        let large = [0, 2, 3, 5].map(|n| frontend(key(n), 1, TrafficPolicy::Cluster, &[1, 2, 3]));
        let small = frontend(key(6), 2, TrafficPolicy::Cluster, &[1, 2]);
        let pass = reconciler.apply_all(large.into_iter().chain([small]));
        let failed = errors(&pass);
        assert!(
            !failed.is_empty() && failed.iter().all(|(key, error)| key.port != 8006 && *error == reason),
            "{failed:?}"
        );
        assert!(dump(reconciler.maps()).unwrap().contains("10.96.0.6:8006/TCP"), "{reason}");
    }
}

#[test]
fn a_namespace_beyond_its_share_leaves_room_for_others() {
    let budget = Budget { service: 25, namespace: 50, ..UNLIMITED };
    let mut reconciler = adopt_with(FakeMaps::new(Capacity { services: 8, ..CAPACITY }), budget);
    let of = |namespace: &str, number: u8| {
        let mut one = frontend(key(3 * number), number + 1, TrafficPolicy::Cluster, &[1]);
        one.service.service = ServiceKey { namespace: namespace.into(), ..one.service.service };
        one
    };
    let pass =
        reconciler.apply_all((0..6).map(|n| of("shop", n)).chain([of("other", 6), of("kube-system", 7)]));
    let reason = "namespace shop has used up its share of SERVICES (4 entries)";
    assert_eq!(errors(&pass), [4, 5].map(|n| (key(3 * n), reason.to_owned())));
    // Room appears when a Service of the namespace goes.
    let (_, error) = &pass.failed[0];
    assert_eq!(reconciler.room(error), 0);
    let pass = reconciler.apply([(key(0), None)]);
    reclaim(&mut reconciler, &pass);
    assert_eq!(reconciler.room(error), 1);
    assert!(reconciler.apply([(key(12), Some(of("shop", 4)))]).failed.is_empty());
}

#[test]
fn a_rollout_needs_no_more_than_the_share_that_it_keeps() {
    // The new block and backends are beside the old ones for a while.
    let capacity = Capacity { slots: 16, backends: 16, ..CAPACITY };
    let mut reconciler =
        adopt_with(FakeMaps::new(capacity), Budget { service: 25, namespace: 50, ..UNLIMITED });
    let all = |numbers: &[u8]| {
        let frontends = [0, 2, 3].map(key).map(|key| frontend(key, 1, TrafficPolicy::Cluster, numbers));
        frontends.map(|frontend| (frontend.key, Some(frontend)))
    };
    for numbers in [[1, 2, 3, 4], [3, 4, 5, 6], [7, 8, 1, 2]] {
        let pass = reconciler.apply(all(&numbers));
        assert_eq!(errors(&pass), []);
        reclaim(&mut reconciler, &pass);
    }
    assert_eq!(errors(&reconciler.apply(all(&[1, 2, 3, 4, 5]))).len(), 3, "more than before");
}

/// A frontend of a Service in a namespace, open to these networks.
fn open_to(number: u8, namespace: &str, networks: std::ops::Range<u8>) -> Frontend {
    let mut one = frontend(key(3 * number), number + 1, TrafficPolicy::Cluster, &[1]);
    one.service.service = ServiceKey { namespace: namespace.into(), ..one.service.service };
    one.source_ranges =
        networks.map(|network| IpNetwork::new([10, network, 0, 0].into(), 16).unwrap()).collect();
    one
}

fn ranges_used(reconciler: &Reconciler<Watched>) -> u32 {
    reconciler.fill().iter().find(|fill| fill.map == "SOURCE_RANGES_V4").map_or(0, |fill| fill.used)
}

fn is_published(reconciler: &Reconciler<Watched>, number: u8) -> bool {
    reconciler.maps.maps.frontends().unwrap().iter().any(|(at, _)| *at == key(3 * number))
}

#[test]
fn source_ranges_have_shares_too() {
    let budget = Budget { service: 25, namespace: 50, ..UNLIMITED };
    let mut reconciler =
        adopt_with(FakeMaps::new(Capacity { source_ranges: 16, ..CAPACITY }), budget.clone());
    let pass = reconciler.apply_all([
        open_to(0, "shop", 0..5),
        open_to(1, "shop", 0..4),
        // Of equal lists the namespace has the entries once.
        open_to(2, "shop", 0..4),
        open_to(3, "shop", 4..8),
        open_to(4, "shop", 8..9),
        open_to(5, "other", 10..14),
    ]);
    let reason = |owner: &str, share: u32| {
        format!("{owner} has used up its share of SOURCE_RANGES_V4 ({share} entries)")
    };
    let (service, namespace) = (reason("Service shop/s1", 4), reason("namespace shop", 8));
    assert_eq!(errors(&pass), [(key(0), service), (key(12), namespace)]);
    assert_eq!(ranges_used(&reconciler), 12);
    // Another list of the same length, and then room for the one that waits.
    let (_, error) = &pass.failed[1];
    let before = reconciler.room(error);
    let pass = reconciler.apply([(key(9), Some(open_to(3, "shop", 5..9)))]);
    assert_eq!(errors(&pass), []);
    reclaim(&mut reconciler, &pass);
    let pass = reconciler.apply([(key(9), Some(open_to(3, "shop", 5..8)))]);
    assert!(pass.failed.is_empty() && reconciler.room(error) > before);
    reclaim(&mut reconciler, &pass);
    assert!(reconciler.apply([(key(12), Some(open_to(4, "shop", 8..9)))]).failed.is_empty());
    // A later agent counts the same.
    let Reconciler { maps, ledger, .. } = reconciler;
    assert_eq!(adopt_with(maps.maps, budget).ledger, ledger);
}

#[test]
fn a_service_with_two_addresses_may_change_to_all_of_its_share() {
    let budget = Budget { service: 25, namespace: 50, ..UNLIMITED };
    let mut reconciler = adopt_with(FakeMaps::new(Capacity { source_ranges: 16, ..CAPACITY }), budget);
    let both = |networks: std::ops::Range<u8>| {
        [0, 1].map(|number| {
            let mut one = open_to(number, "shop", networks.clone());
            one.service.service = ServiceKey::new("shop", "web");
            (one.key, Some(one))
        })
    };
    for networks in [0..3, 3..7, 7..11] {
        let pass = reconciler.apply(both(networks));
        assert_eq!(errors(&pass), []);
        reclaim(&mut reconciler, &pass);
    }
}

#[test]
fn ranges_without_room_close_a_frontend_that_admits_more() {
    let (open, narrow, same) = (0..0, 0..2, 0..4);
    for (earlier, wanted, stays) in [
        (open.clone(), 0..9, false),
        (narrow.clone(), 1..10, false),
        // Sources that are wanted still; the others wait.
        (narrow.clone(), 0..9, true),
        (same, open, true),
    ] {
        let budget = Budget { service: 50, ..UNLIMITED };
        let capacity = Capacity { source_ranges: 16, ..CAPACITY };
        let mut reconciler = adopt_with(FakeMaps::new(capacity), budget);
        let case = format!("{earlier:?} to {wanted:?}");
        let pass = reconciler.apply_all([open_to(0, "shop", earlier), open_to(1, "shop", 0..1)]);
        assert_eq!(errors(&pass), [], "{case}");
        let pass = reconciler.apply([(key(0), Some(open_to(0, "shop", wanted.clone())))]);
        assert_eq!(pass.failed.len(), usize::from(!wanted.is_empty()), "{case}");
        assert_eq!((is_published(&reconciler, 0), is_published(&reconciler, 1)), (stays, true), "{case}");
        reclaim(&mut reconciler, &pass);
        assert_eq!(errors(&reconciler.apply([(key(0), Some(open_to(0, "shop", 0..8)))])), [], "{case}");
    }
}

#[test]
fn a_frontend_without_room_in_another_table_does_not_stay_open() {
    let mut reconciler = adopt(FakeMaps::new(Capacity { slots: 3, backends: 5, ..CAPACITY }));
    for backends in [[1, 2, 3, 4].as_slice(), &[1, 2, 3, 4, 5, 6]] {
        assert_eq!(errors(&reconciler.apply([(key(0), Some(open_to(0, "shop", 0..0)))])), []);
        let wanted = frontend(key(0), 1, TrafficPolicy::Cluster, backends);
        let wanted = Frontend { source_ranges: open_to(0, "shop", 0..1).source_ranges, ..wanted };
        let pass = reconciler.apply([(key(0), Some(wanted))]);
        assert_eq!((pass.failed.len(), is_published(&reconciler, 0)), (1, false), "{backends:?}");
        reclaim(&mut reconciler, &pass);
    }
}

#[test]
fn ranges_that_do_not_fit_are_not_begun() {
    let mut reconciler = adopt(FakeMaps::new(Capacity { source_ranges: 8, ..CAPACITY }));
    let pass = reconciler.apply_all([open_to(0, "shop", 0..6), open_to(1, "shop", 6..9)]);
    assert_eq!(errors(&pass), [(key(3), "SOURCE_RANGES_V4 is full (8 entries)".to_owned())]);
    let (_, error) = &pass.failed[0];
    assert_eq!((ranges_used(&reconciler), reconciler.room(error)), (6, 2));
    let pass = reconciler.apply([(key(0), None)]);
    reconciler.maps.grace_period();
    assert!(reconciler.reclaim(pass.grace.unwrap()), "room for the other");
    assert_eq!(reconciler.room(error), 8);
    assert!(reconciler.apply([(key(3), Some(open_to(1, "shop", 6..9)))]).failed.is_empty());
}

#[test]
fn a_large_service_is_within_the_default_budgets() {
    let capacity = Capacity {
        frontends: 1 << 17,
        descriptors: 1 << 18,
        slots: 1 << 19,
        backends: 1 << 18,
        services: 1 << 16,
        source_ranges: 1 << 16,
    };
    let budget =
        Budget { service: Budget::SERVICE_SHARE, namespace: Budget::NAMESPACE_SHARE, name_server: None };
    let mut reconciler = Reconciler::adopt_with(FakeMaps::new(capacity), Some(budget)).unwrap();
    let backend = |n: u32| Backend {
        address: SocketAddr::new(std::net::Ipv4Addr::from(0x0a00_0000 + n).into(), 80),
        is_local: n < 50,
        state: BackendState::Ready,
    };
    let view = View::new((0..5000).map(backend).collect(), WhenEmpty::Reject);
    let frontends = (0..14).map(|n| Frontend {
        internal: view.clone(),
        external: view.clone(),
        ..frontend(key(3 * n), 1, TrafficPolicy::Cluster, &[])
    });
    assert_eq!(errors(&reconciler.apply_all(frontends)), []);
    let slots = reconciler.fill().into_iter().find(|fill| fill.map == "SLOTS");
    assert_eq!(slots.map(|fill| fill.used), Some(5000));
}

#[test]
fn a_block_of_equal_indices_in_the_other_family_is_another_one() {
    let mut reconciler = adopt(FakeMaps::new(CAPACITY));
    let both = [key(0), key(1)].map(|key| frontend(key, 1, TrafficPolicy::Cluster, &[1, 2]));
    assert!(reconciler.apply_all(both).failed.is_empty());
    assert_eq!(slots_used(&reconciler), 4);
}

#[test]
fn a_backend_that_is_added_again_has_a_new_generation() {
    let mut reconciler = adopt(FakeMaps::new(CAPACITY));
    let with = |numbers: &[u8]| frontend(key(0), 1, TrafficPolicy::Cluster, numbers);
    reconciler.apply_all([with(&[1, 2])]);
    let before = reconciler.maps.backend(IpFamily::V4, 0).unwrap();
    let pass = reconciler.apply_all([with(&[2])]);
    reclaim(&mut reconciler, &pass);
    reconciler.apply_all([with(&[1, 2])]);
    let after = reconciler.maps.backend(IpFamily::V4, 0).unwrap();
    assert_eq!(before.address, after.address);
    assert_ne!(before.generation, after.generation);
}

#[test]
fn a_serving_backend_that_is_no_longer_offered_stays_alive() {
    let mut reconciler = adopt(FakeMaps::new(CAPACITY));
    let mut wanted = frontend(key(0), 1, TrafficPolicy::Cluster, &[1, 2]);
    reconciler.apply_all([wanted.clone()]);
    wanted.internal = View::new(backends(IpFamily::V4, &[2]), WhenEmpty::Reject);
    wanted.external = wanted.internal.clone();
    reconciler.apply_all([wanted]);
    let entry = reconciler.maps.backend(IpFamily::V4, 0).unwrap();
    assert_eq!(entry.flags, BackendFlags::ALIVE, "alive, and in no set");
}

#[test]
fn a_full_map_fails_one_frontend_and_not_the_others() {
    let mut reconciler = adopt(FakeMaps::new(Capacity { slots: 3, ..CAPACITY }));
    let (big, small) = (key(0), key(3));
    let wanted = [
        frontend(big, 1, TrafficPolicy::Cluster, &[1, 2, 3, 4]),
        frontend(small, 2, TrafficPolicy::Cluster, &[1, 2]),
    ];
    let pass = reconciler.apply_all(wanted);
    let failed: Vec<_> = pass.failed.iter().map(|(key, error)| (*key, error.to_string())).collect();
    assert_eq!(failed, [(big, "SLOTS is full (3 entries)".to_owned())]);
    assert_eq!(pass.changed, 1);
}

#[test]
fn what_comes_first_has_room_whatever_its_name() {
    let frontends = |order: [u8; 2]| {
        order.map(|service| match service {
            1 => frontend(key(0), 1, TrafficPolicy::Cluster, &[1, 2, 3, 4]),
            other => frontend(key(2), other, TrafficPolicy::Cluster, &[1, 2]),
        })
    };
    for (order, without_room) in [([1, 9], key(2)), ([9, 1], key(0))] {
        for capacity in [Capacity { slots: 4, ..CAPACITY }, Capacity { services: 2, ..CAPACITY }] {
            let mut reconciler = adopt(FakeMaps::new(capacity));
            let pass = reconciler.apply_all(frontends(order));
            let failed: Vec<_> = pass.failed.iter().map(|(key, _)| *key).collect();
            assert_eq!(failed, [without_room], "{order:?}, {capacity:?}");
        }
    }
}

#[test]
fn a_service_port_without_an_id_fails_in_both_families() {
    let mut reconciler = adopt(FakeMaps::new(Capacity { services: 1, ..CAPACITY }));
    let both = [key(0), key(1)].map(|key| frontend(key, 1, TrafficPolicy::Cluster, &[1]));
    let pass = reconciler.apply_all(both);
    assert_eq!((pass.failed.len(), reconciler.len()), (2, 0));
}

#[test]
fn an_array_that_cannot_be_mapped_fails_its_frontends_until_it_can() {
    let old = frontend(key(0), 1, TrafficPolicy::Cluster, &[1, 2]);
    let new = frontend(key(0), 2, TrafficPolicy::Local, &[2, 3, 4, 5, 6]);
    let mut failures = 0;
    for mappings in 0..20 {
        let mut reconciler = adopt(FakeMaps::new(CAPACITY));
        let pass = reconciler.apply_all([old.clone()]);
        reclaim(&mut reconciler, &pass);
        reconciler.maps.maps.mappings_left.set(Some(mappings));
        let pass = reconciler.apply([(new.key, Some(new.clone()))]);
        reconciler.maps.maps.stop_failing();
        for (failed, error) in &pass.failed {
            failures += 1;
            assert_eq!((*failed, error.to_string().starts_with("cannot map ")), (new.key, true), "{error}");
        }
        assert_eq!(pass.failed.is_empty(), pass.retry.is_empty(), "{mappings}");
        reclaim(&mut reconciler, &pass);
        let pass = reconciler.apply(pass.retry.iter().map(|key| (*key, Some(new.clone()))));
        assert!(pass.failed.is_empty(), "{mappings}: {:?}", pass.failed);
        reclaim(&mut reconciler, &pass);
        assert_eq!(dump(reconciler.maps()).unwrap(), fresh([new.clone()]), "{mappings}");
    }
    assert!(failures > 3, "{failures} of the parts are needed");
}

#[test]
fn a_set_of_ranges_of_a_failed_frontend_makes_no_room() {
    let mut reconciler = adopt(FakeMaps::new(Capacity { slots: 3, ..CAPACITY }));
    let wanted = frontend(key(0), 1, TrafficPolicy::Cluster, &[1, 2, 3, 4]);
    assert!(!wanted.source_ranges.is_empty());
    let pass = reconciler.apply([(wanted.key, Some(wanted))]);
    assert_eq!(pass.failed.len(), 1);
    reconciler.maps.grace_period();
    assert!(!reconciler.reclaim(pass.grace.unwrap()), "otherwise the retries would never end");
}

#[test]
fn a_frontend_whose_service_port_has_no_label_is_removed() {
    let mut reconciler = Reconciler::adopt(FakeMaps::new(CAPACITY)).unwrap();
    reconciler.apply_all([frontend(key(0), 1, TrafficPolicy::Cluster, &[1])]);
    let mut maps = reconciler.maps.clone();
    for (id, _) in maps.services().unwrap() {
        maps.remove_service(id).unwrap();
    }
    let mut successor = Reconciler::adopt(maps).unwrap();
    assert_eq!(successor.len(), 1, "clients are served until the index is synced");
    assert_eq!(successor.apply_all([]).changed, 1);
    assert_eq!(dump(successor.maps()).unwrap(), "");
}

#[test]
fn a_backend_is_retired_once_all_frontends_of_its_service_port_are_flipped() {
    let mut reconciler = adopt(FakeMaps::new(Capacity { descriptors: 4, ..CAPACITY }));
    let keys = [key(0), key(3)];
    let both =
        |numbers: &[u8]| keys.map(|key| (key, Some(frontend(key, 1, TrafficPolicy::Cluster, numbers))));
    assert!(reconciler.apply(both(&[1, 2])).failed.is_empty());
    let pass = reconciler.apply(both(&[2]));
    assert_eq!((pass.failed.len(), pass.retry.as_slice()), (1, keys.as_slice()), "one descriptor was free");
    let gone = |reconciler: &Reconciler<Watched>| reconciler.maps.backend(IpFamily::V4, 0).unwrap().flags;
    assert_eq!(
        gone(&reconciler),
        BackendFlags::ALIVE,
        "in no set, and alive for the frontend that still references it"
    );
    reclaim(&mut reconciler, &pass);
    assert!(reconciler.apply(both(&[2])).retry.is_empty());
    assert_eq!(gone(&reconciler), BackendFlags::default());
}

#[test]
fn a_backend_is_retired_with_the_frontend_that_another_service_takes_over() {
    let mut reconciler = adopt(FakeMaps::new(CAPACITY));
    let [stays, moves] = [key(0), key(3)];
    let put =
        |key, service, numbers: &[u8]| (key, Some(frontend(key, service, TrafficPolicy::Cluster, numbers)));
    reconciler.apply([put(stays, 1, &[1, 2]), put(moves, 1, &[1, 2])]);
    reconciler.apply([put(stays, 1, &[2]), put(moves, 2, &[5])]);
    assert_eq!(reconciler.maps.backend(IpFamily::V4, 0).unwrap().flags, BackendFlags::default());
    assert_eq!(
        dump(reconciler.maps()).unwrap(),
        fresh(
            [stays, moves]
                .into_iter()
                .zip([(1, [2]), (2, [5])])
                .filter_map(|(key, (service, numbers))| { put(key, service, &numbers).1 })
        )
    );
}

#[test]
fn a_backend_is_retired_if_its_frontend_moves_at_the_second_attempt() {
    let mut reconciler = adopt(FakeMaps::new(Capacity { descriptors: 4, ..CAPACITY }));
    let [stays, moves] = [key(0), key(3)];
    let put =
        |key, service, numbers: &[u8]| (key, Some(frontend(key, service, TrafficPolicy::Cluster, numbers)));
    reconciler.apply([put(stays, 1, &[1, 2]), put(moves, 1, &[1, 2])]);
    let next = BTreeMap::from([put(stays, 1, &[2]), put(moves, 2, &[5])]);
    let pass = reconciler.apply(next.clone());
    assert_eq!(pass.failed.len(), 1, "one descriptor was free");
    reclaim(&mut reconciler, &pass);
    let again = reconciler.apply(pass.retry.into_iter().map(|key| (key, next[&key].clone())));
    assert!(again.retry.is_empty());
    assert_eq!(reconciler.maps.backend(IpFamily::V4, 0).unwrap().flags, BackendFlags::default());
}

#[test]
fn a_service_port_that_loses_a_frontend_keeps_the_backends_of_the_others() {
    let mut reconciler = adopt(FakeMaps::new(CAPACITY));
    let [stays, moves] = [key(0), key(3)];
    let put =
        |key, service, numbers: &[u8]| (key, Some(frontend(key, service, TrafficPolicy::Cluster, numbers)));
    reconciler.apply([put(stays, 2, &[1]), put(moves, 2, &[1])]);
    let before = reconciler.maps.backend(IpFamily::V4, 0).unwrap();
    // The service port that takes over is first by name.
    reconciler.apply([put(moves, 1, &[5])]);
    assert_eq!(reconciler.maps.backend(IpFamily::V4, 0).unwrap(), before);
}

/// One change of a cluster, as the index would report it.
#[derive(Clone, Debug)]
enum Step {
    Put {
        key: u8,
        service: u8,
        is_local: bool,
        backends: Vec<u8>,
    },
    Remove {
        key: u8,
    },
    /// The agent dies after this number of system calls in the next steps.
    Die {
        calls: u8,
    },
    /// Like `Die`, after this number of parts of arrays were mapped.
    DieUnmapped {
        mappings: u8,
    },
    GracePeriod,
}

/// Lets system calls or mappings fail later, if the step says so.
fn inject(maps: &mut FakeMaps, step: &Step) {
    match step {
        Step::Die { calls } => maps.calls_left = Some((*calls).into()),
        Step::DieUnmapped { mappings } => maps.mappings_left.set(Some((*mappings).into())),
        Step::Put { .. } | Step::Remove { .. } | Step::GracePeriod => {}
    }
}

fn step() -> impl Strategy<Value = Step> {
    let put = (0..12_u8, 1..5_u8, any::<bool>(), prop::collection::vec(1..9_u8, 0..6))
        .prop_map(|(key, service, is_local, backends)| Step::Put { key, service, is_local, backends });
    prop_oneof![
        6 => put,
        2 => (0..12_u8).prop_map(|key| Step::Remove { key }),
        1 => (0..4_u8).prop_map(|calls| Step::Die { calls }),
        1 => (0..16_u8).prop_map(|mappings| Step::DieUnmapped { mappings }),
        2 => Just(Step::GracePeriod),
    ]
}

/// The changes that the index would report for a step; `wanted` is the state from then on.
fn changes(wanted: &mut BTreeMap<FrontendKey, Frontend>, step: Step) -> Vec<(FrontendKey, Option<Frontend>)> {
    match step {
        Step::Put { key: number, service, is_local, backends } => {
            let policy = if is_local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
            let put = frontend(key(number), service, policy, &backends);
            wanted.insert(put.key, put.clone());
            let siblings = consistent(wanted, &put);
            wanted.extend(siblings.iter().map(|sibling| (sibling.key, sibling.clone())));
            siblings.into_iter().map(|sibling| (sibling.key, Some(sibling))).collect()
        }
        Step::Remove { key: number } => {
            wanted.remove(&key(number));
            vec![(key(number), None)]
        }
        Step::Die { .. } | Step::DieUnmapped { .. } | Step::GracePeriod => Vec::new(),
    }
}

/// The same, and the siblings of a frontend that is removed or moves: the index touches all frontends of a
/// changed Service.
fn complete_changes(
    wanted: &mut BTreeMap<FrontendKey, Frontend>,
    step: Step,
) -> BTreeMap<FrontendKey, Option<Frontend>> {
    let left = match &step {
        Step::Put { key: number, .. } | Step::Remove { key: number } => wanted.get(&key(*number)).cloned(),
        Step::Die { .. } | Step::DieUnmapped { .. } | Step::GracePeriod => None,
    };
    let changes = changes(wanted, step);
    let siblings = left.iter().flat_map(|left| consistent(wanted, left));
    siblings.map(|sibling| (sibling.key, Some(sibling))).chain(changes).collect()
}

/// The frontends of the changed service port, all with the same backends, as in the index.
fn consistent(wanted: &BTreeMap<FrontendKey, Frontend>, changed: &Frontend) -> Vec<Frontend> {
    let same = |other: &&Frontend| {
        other.service == changed.service && other.key.address.family() == changed.key.address.family()
    };
    let numbers: Vec<u8> = changed
        .serving
        .iter()
        .map(|backend| backend.address.to_string())
        .map(|text| last_number(&text))
        .collect();
    let service: u8 = changed.service.service.name.trim_start_matches('s').parse().unwrap();
    wanted.values().filter(same).map(|other| frontend(other.key, service, other.policy, &numbers)).collect()
}

fn last_number(address: &str) -> u8 {
    let host = address.trim_end_matches(":80").trim_end_matches(']');
    host.rsplit(['.', ':']).next().unwrap().parse().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn failed_and_retried_changes_end_like_a_fresh_start(steps in prop::collection::vec(step(), 1..60)) {
        let mut reconciler = adopt(FakeMaps::new(CAPACITY));
        let mut wanted: BTreeMap<FrontendKey, Frontend> = BTreeMap::new();
        for step in steps {
            // Failing writes, without a restart of the agent.
            inject(&mut reconciler.maps.maps, &step);
            let mut pass = reconciler.apply(complete_changes(&mut wanted, step));
            if !pass.retry.is_empty() {
                reconciler.maps.maps.stop_failing();
                reclaim(&mut reconciler, &pass);
                pass = reconciler.apply(pass.retry.iter().map(|key| (*key, wanted.get(key).cloned())));
            }
            prop_assert!(pass.failed.is_empty() && pass.retry.is_empty(), "{:?}", pass);
            reclaim(&mut reconciler, &pass);
        }
        reconciler.maps.maps.stop_failing();
        prop_assert_eq!(dump(reconciler.maps()).unwrap(), fresh(wanted.values().cloned()));
        let adopted = adopt(reconciler.maps.maps.clone());
        prop_assert_eq!(reconciler.ledger, adopted.ledger);
    }

    #[test]
    fn any_history_ends_like_a_fresh_start(steps in prop::collection::vec(step(), 1..60)) {
        let mut reconciler = adopt(FakeMaps::new(CAPACITY));
        let mut wanted: BTreeMap<FrontendKey, Frontend> = BTreeMap::new();
        let mut waiting = None;
        for step in steps {
            inject(&mut reconciler.maps.maps, &step);
            if matches!(step, Step::GracePeriod)
                && let Some(epoch) = waiting.take()
            {
                reconciler.maps.grace_period();
                reconciler.reclaim(epoch);
            }
            let pass = reconciler.apply(changes(&mut wanted, step));
            waiting = pass.grace.or(waiting);
            if !pass.failed.is_empty() {
                // The agent is dead; its successor adopts the maps.
                let mut maps = reconciler.maps.maps.clone();
                maps.stop_failing();
                reconciler = adopt(maps);
                let pass = reconciler.apply_all(wanted.values().cloned());
                waiting = pass.grace;
                // While retired entries wait, a tiny map may be full for a moment.
                prop_assert!(pass.failed.is_empty(), "{:?}", pass.failed);
            }
        }
        reconciler.maps.maps.stop_failing();
        if let Some(epoch) = waiting {
            reconciler.maps.grace_period();
            reconciler.reclaim(epoch);
        }
        let pass = reconciler.apply_all(wanted.values().cloned());
        prop_assert!(pass.failed.is_empty(), "{:?}", pass.failed);
        reclaim(&mut reconciler, &pass);
        prop_assert_eq!(dump(reconciler.maps()).unwrap(), fresh(wanted.values().cloned()));
        // No leaks: as many entries are in use as after a fresh start.
        let mut fresh = adopt(FakeMaps::new(CAPACITY));
        fresh.apply_all(wanted.values().cloned());
        prop_assert_eq!(reconciler.fill(), fresh.fill());
        prop_assert_eq!(reconciler.ledger, fresh.ledger);
    }
}
