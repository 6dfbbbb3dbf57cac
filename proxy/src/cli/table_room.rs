//! Services that would find no room, or exceed their share, in tables of the default sizes.

use std::collections::BTreeMap;

use proxy_ebpf::abi::map;

use crate::{
    index::Index,
    model::{frontend::Frontend, service::ServiceKey},
    reconcile::{Budget, Capacity, FakeMaps, MapError, Reconciler},
    update::Skipped,
};

/// The default sizes.
const CAPACITY: Capacity = Capacity {
    frontends: map::MAX_FRONTENDS,
    descriptors: map::MAX_DESCRIPTORS,
    slots: map::MAX_SLOTS,
    backends: map::MAX_BACKENDS,
    services: map::MAX_SERVICES,
};

/// Writes the frontends to maps in memory, in the order of an agent's first pass, and returns those that fail, by
/// Service and reason.
pub fn unplaced(
    index: &Index,
    frontends: &[Frontend],
    name_server: Option<ServiceKey>,
) -> Result<Vec<Skipped>, MapError> {
    if fits(frontends) {
        return Ok(Vec::new());
    }
    let (service, namespace) = (Budget::SERVICE_SHARE, Budget::NAMESPACE_SHARE);
    let budget = Budget { service, namespace, name_server };
    let mut reconciler = Reconciler::adopt_with(FakeMaps::new(CAPACITY), Some(budget))?;
    let pass = reconciler.apply_all(index.frontends());
    let mut counts: BTreeMap<(ServiceKey, String), usize> = BTreeMap::new();
    for (key, error) in &pass.failed {
        let owner = index.owner(key).cloned();
        *counts.entry((owner.unwrap_or_else(|| ServiceKey::new("", "")), error.to_string())).or_default() +=
            1;
    }
    let skipped = counts.into_iter().map(|((service, error), count)| Skipped {
        object: format!("Service {service}"),
        reason: format!("{count} frontends are not served: {error}"),
    });
    Ok(skipped.collect())
}

/// Whether all of them fit into the share of one Service.
fn fits(frontends: &[Frontend]) -> bool {
    let share = |entries: u32| entries as usize * usize::from(Budget::SERVICE_SHARE) / 100;
    let endpoints: usize = frontends.iter().map(|one| one.internal.backends.len() + one.serving.len()).sum();
    frontends.len() <= share(CAPACITY.services) && endpoints <= share(CAPACITY.backends)
}
