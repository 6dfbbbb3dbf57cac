//! The choice among backends of which some are suspected, against the shares of the model.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use proxy::{
    datapath::{Explainer, now},
    index::Change,
    k8s::object::Object,
    live::question,
    model::{
        address::{IpFamily, Protocol},
        flow::Flow,
        health::{Suspicion, shares},
    },
    reconcile::LbMaps as _,
};
use proxy_ebpf::abi::{
    BackendHealth, BackendRef, Config, ConfigFlags, HealthFault, HealthWord, flow_state::TICK_SHIFT, map,
};
use serde_json::json;

use super::{
    fixture::{self, ProgramFixture, network},
    objects,
};
use crate::lab::rng::Rng;

const CLUSTER_IP: [&str; 2] = ["10.96.9.2", "fd00:96::9:2"];
const CLIENT: [&str; 2] = ["198.51.100.7", "2001:db8::7"];
/// The device of test runs.
const LOOPBACK: u32 = 1;
/// Decisions per case and backend: an expected number of 60 is within 60 % of it but once in 100,000 times.
const EACH: u32 = 60;
const TOLERANCE: f64 = 0.6;

/// Writes random suspicions to the maps of sets of random sizes, and lets the programs choose. Returns the number of backends of each
/// kind: sound, silent, with another fault.
pub fn choices_among_suspected(cases: u64, rng: &mut Rng) -> Result<[u64; 3]> {
    network()?.run(|| {
        let flags = ConfigFlags::RECORDS_HEALTH.with(ConfigFlags::ACTS_ON_HEALTH, true);
        let config = Config { flags, ..fixture::CONFIG };
        let mut fixture = ProgramFixture::new(None, config)?;
        let mut explainer = fixture.explainer(config)?;
        let mut kinds = [0; 3];
        for case in 0..cases {
            let v6 = usize::from(rng.coin());
            let size = 1 + rng.below(9) as usize;
            fixture.load_objects(objects::policy(), service(v6, size)?)?;
            let faults: Vec<_> = (0..size).map(|_| fault(rng)).collect();
            let seed = rng.seed;
            choose(&fixture, &mut explainer, v6, &faults)
                .with_context(|| format!("case {case}, IPv{}, {faults:?}, seed {seed}", 4 + 2 * v6))?;
            for fault in faults {
                kinds[fault.map_or(0, |fault| if fault == HealthFault::Silent { 1 } else { 2 })] += 1;
            }
        }
        Ok(kinds)
    })
}

fn fault(rng: &mut Rng) -> Option<HealthFault> {
    match rng.below(4) {
        0 => Some(HealthFault::Silent),
        1 => HealthFault::ALL.into_iter().nth(1 + rng.below(3) as usize),
        _ => None,
    }
}

fn choose(
    fixture: &ProgramFixture,
    explainer: &mut Explainer,
    v6: usize,
    faults: &[Option<HealthFault>],
) -> Result<()> {
    let family = IpFamily::BOTH[v6];
    let backends = backends(fixture, family)?;
    ensure!(backends.len() == faults.len(), "{} backends", backends.len());
    let tick = (now().as_nanos() >> TICK_SHIFT) as u32;
    let mut table = fixture.array::<BackendHealth>(map::BACKEND_HEALTH)?;
    for (backend, fault) in backends.iter().zip(faults) {
        // For a long time, so that none is tried meanwhile; the word of an earlier backend with the index is of no concern.
        let later = tick.wrapping_add(HealthWord::MEMORY);
        let word = match fault {
            Some(fault) => HealthWord::default().failed(backend.generation, *fault, later),
            None => {
                HealthWord::default().failed(backend.generation.wrapping_add(1), HealthFault::Silent, later)
            }
        };
        let index = BackendHealth::index(u32::from(v6 == 1), backend.index);
        table.set(index, BackendHealth { word, since: tick, zero: 0 }, 0)?;
        let suspicion = fixture.reconciler.maps().backend_health(family, *backend)?;
        ensure!(suspicion.map(|Suspicion { fault, .. }| fault) == *fault, "read as {suspicion:?}");
    }
    fixture.array::<u64>(map::SUSPICION)?.set(0, u64::from(tick.wrapping_add(4 * HealthWord::MEMORY)), 0)?;
    let flow = Flow {
        source: CLIENT[v6].parse()?,
        destination: SocketAddr::new(CLUSTER_IP[v6].parse()?, 80),
        protocol: Protocol::Tcp,
    };
    let asked = question(&flow, 0, LOOPBACK);
    let count = EACH * u32::try_from(backends.len())?;
    let mut chosen = vec![0_u32; backends.len()];
    for at in 0..count {
        // Sockets and packets share the decision.
        let answer = if at % 2 == 0 { explainer.packet(&asked)? } else { explainer.socket(&asked)? };
        let place = backends.iter().position(|backend| *backend == answer.reference);
        chosen[place.with_context(|| format!("chose {:?}", answer.reference))?] += 1;
    }
    for ((share, count_of), fault) in shares(faults).into_iter().zip(&chosen).zip(faults) {
        let want = share * f64::from(count);
        let is_near = (f64::from(*count_of) - want).abs() <= TOLERANCE * f64::from(EACH).max(want);
        ensure!(share > 0.0 || *count_of == 0, "{fault:?} was chosen {count_of} times: {chosen:?}");
        ensure!(is_near, "{fault:?}: {count_of} of {count}, expected {want:.1}: {chosen:?}");
    }
    Ok(())
}

/// The references of the only service port's backends.
fn backends(fixture: &ProgramFixture, family: IpFamily) -> Result<Vec<BackendRef>> {
    let maps = fixture.reconciler.maps();
    let mut found = Vec::new();
    for index in 0..*maps.extent()?.backends.get(family) {
        let entry = maps.backend(family, index)?;
        if entry.flags.contains(proxy_ebpf::abi::BackendFlags::ALIVE) {
            found.push(BackendRef { index, generation: entry.generation });
        }
    }
    Ok(found)
}

fn service(v6: usize, size: usize) -> Result<Vec<Change>> {
    let family = ["IPv4", "IPv6"][v6];
    let address = |at: usize| -> IpAddr {
        let at = at as u16;
        if v6 == 0 {
            Ipv4Addr::from(0x0a08_0001 + u32::from(at)).into()
        } else {
            Ipv6Addr::new(0xfd00, 8, 0, 0, 0, 0, 0, 1 + at).into()
        }
    };
    let endpoint =
        |at| json!({"addresses": [address(at)], "nodeName": "node-2", "conditions": {"ready": true}});
    let endpoints: Vec<_> = (0..size).map(endpoint).collect();
    let service = json!({"metadata": {"name": "web", "namespace": "shop"},
        "spec": {"clusterIP": CLUSTER_IP[v6], "clusterIPs": [CLUSTER_IP[v6]], "ipFamilies": [family],
            "ports": [{"port": 80, "protocol": "TCP"}]}});
    let slice = json!({"metadata": {"name": "web", "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": family, "ports": [{"port": 8080, "protocol": "TCP", "name": ""}], "endpoints": endpoints});
    let objects = [
        Object::Service(serde_json::from_value(service)?),
        Object::EndpointSlice(serde_json::from_value(slice)?),
    ];
    let mut changes = Vec::new();
    for object in objects {
        changes.extend(object.change(objects::NODE_NAME)?.map(|read| read.value));
    }
    Ok(changes)
}
