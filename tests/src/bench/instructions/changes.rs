//! From an object to the writes of the maps, without a kernel.

use std::hint::black_box;

use anyhow::{Context as _, Result, ensure};
use proxy::{
    index::{Change, Index},
    k8s::object::Object,
    model::policy::Policy,
    reconcile::{Capacity, FakeMaps, Reconciler},
};
use serde_json::Value;

use super::counted::counted;
use crate::lab::api_server::objects::{service, slice};

/// As `objects::endpoint` names nodes.
const NODE: &str = "node-1";
/// Services before the change.
const SERVICES: u32 = 200;
const ENDPOINTS: u32 = 10;
/// The number of the Service that changes.
const CHANGED: u32 = SERVICES / 2;
/// Of a large Service, in slices as Kubernetes makes them.
const SLICES: u32 = 50;
const PER_SLICE: u32 = 100;

pub fn read_service() -> Result<()> {
    let text = service("web", 1).to_string();
    counted(|| black_box(service_change(&text))).map(drop)
}

pub fn read_slice() -> Result<()> {
    let text = slice("web", 0..ENDPOINTS).to_string();
    counted(|| black_box(slice_change(&text))).map(drop)
}

pub fn add_service() -> Result<()> {
    let mut agent = Agent::with_services()?;
    let changes = [
        service_change(&service("new", SERVICES + 1).to_string())?,
        slice_of("new", 0, SERVICES, ENDPOINTS)?,
    ];
    counted(|| changes.into_iter().try_for_each(|change| agent.apply(change, 1)))
}

pub fn change_endpoint() -> Result<()> {
    let mut agent = Agent::with_services()?;
    let change = slice_of(&name(CHANGED), 0, CHANGED, ENDPOINTS - 1)?;
    counted(|| agent.apply(change, 1))
}

pub fn change_endpoint_of_many() -> Result<()> {
    let mut agent = Agent::with_services()?;
    agent.apply(service_change(&service("many", SERVICES + 1).to_string())?, 0)?;
    for number in 0..SLICES {
        agent.apply(slice_of("many", number, SERVICES + number * 10, PER_SLICE)?, 1)?;
    }
    let change = slice_of("many", SLICES / 2, SERVICES + SLICES / 2 * 10, PER_SLICE - 1)?;
    counted(|| agent.apply(change, 1))
}

/// The start of an agent whose predecessor left complete maps.
pub fn adopt() -> Result<()> {
    let Agent { index, reconciler } = Agent::with_services()?;
    let maps = reconciler.maps().clone();
    counted(|| {
        let mut successor = Reconciler::adopt(maps)?;
        let pass = successor.apply_all(index.frontends());
        ensure!(pass.failed.is_empty() && pass.changed == 0, "the maps were complete: {pass:?}");
        Ok(())
    })
}

/// Index and maps of an agent.
struct Agent {
    index: Index,
    reconciler: Reconciler<FakeMaps>,
}

impl Agent {
    fn with_services() -> Result<Self> {
        // As small as the objects permit: an adoption looks at every entry.
        let capacity = Capacity {
            frontends: 512,
            descriptors: 1024,
            slots: 1 << 15,
            backends: 1 << 13,
            services: 512,
            source_ranges: 64,
        };
        let mut index = Index::new(Policy { node_name: NODE.to_owned(), ..Policy::default() });
        for number in 0..SERVICES {
            index.apply(service_change(&service(&name(number), number + 1).to_string())?);
            index.apply(slice_of(&name(number), 0, number, ENDPOINTS)?);
        }
        let mut reconciler = Reconciler::adopt(FakeMaps::new(capacity))?;
        let pass = reconciler.apply_all(index.frontends());
        ensure!(pass.changed == SERVICES as usize, "not all frontends were written: {pass:?}");
        Ok(Self { index, reconciler })
    }

    /// A pass with one change. `written`: the frontends that it changes at least.
    fn apply(&mut self, change: Change, written: usize) -> Result<()> {
        let touched = self.index.apply(change);
        let pass = self.reconciler.apply(touched.iter().map(|key| (*key, self.index.frontend(key))));
        if let Some(epoch) = pass.grace {
            self.reconciler.reclaim(epoch);
        }
        ensure!(pass.failed.is_empty() && pass.changed >= written, "a pass wrote {pass:?}");
        Ok(())
    }
}

fn name(number: u32) -> String {
    format!("service-{number}")
}

fn service_change(text: &str) -> Result<Change> {
    change(&Object::Service(serde_json::from_str(text)?))
}

fn slice_change(text: &str) -> Result<Change> {
    change(&Object::EndpointSlice(serde_json::from_str(text)?))
}

/// One of the slices of a Service, with addresses of its own.
fn slice_of(service: &str, number: u32, place: u32, endpoints: u32) -> Result<Change> {
    let first = place * ENDPOINTS;
    let mut object = slice(service, first..first + endpoints);
    object["metadata"]["name"] = Value::from(format!("{service}-{number}"));
    slice_change(&object.to_string())
}

fn change(object: &Object) -> Result<Change> {
    let parsed = object.change(NODE)?.context("the object changes nothing")?;
    Ok(parsed.value)
}
