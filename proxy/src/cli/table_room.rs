//! Frontends that would find no room, or exceed the share of their Service or namespace, in new tables.

use std::collections::BTreeMap;

use super::table_args::TableArgs;
use crate::{
    config::TableShares,
    index::{Index, NotProgrammed},
    model::{frontend::Frontend, reason::ReasonCode, service::ServiceKey},
    reconcile::{Budget, Capacity, FakeMaps, MapError, Reconciler},
    update::Skipped,
};

/// Writes the frontends to maps in memory, in the order of an agent's first pass, and returns those that fail, with the
/// reason.
pub fn not_programmed(
    index: &Index,
    tables: &TableArgs,
    name_server: Option<ServiceKey>,
) -> Result<NotProgrammed, MapError> {
    let (capacity, TableShares { service, namespace }) = (tables.capacity(), tables.shares());
    if fits(index.frontends(), &capacity, service.min(namespace)) {
        return Ok(NotProgrammed::new());
    }
    let budget = Budget { service, namespace, name_server };
    let mut reconciler = Reconciler::adopt_with(FakeMaps::new(capacity), Some(budget))?;
    let pass = reconciler.apply_all(index.frontends());
    Ok(pass.failed.into_iter().map(|(key, error)| (key, error.to_string())).collect())
}

/// The frontends that are not programmed by Service and reason.
pub fn skipped(index: &Index, not_programmed: &NotProgrammed) -> Vec<Skipped> {
    let mut counts: BTreeMap<(ServiceKey, &str), usize> = BTreeMap::new();
    for (key, error) in not_programmed {
        let owner = index.owner(key).cloned();
        *counts.entry((owner.unwrap_or_else(|| ServiceKey::new("", "")), error)).or_default() += 1;
    }
    let skipped = counts.into_iter().map(|((service, error), count)| Skipped {
        object: format!("Service {service}"),
        reason: format!("{count} frontends are not served: {error}"),
        reason_code: ReasonCode::NotProgrammed.name(),
    });
    skipped.collect()
}

/// Whether all of them fit into the smallest share.
fn fits(frontends: impl Iterator<Item = Frontend>, capacity: &Capacity, percent: u8) -> bool {
    let share = |entries: u32| entries as usize * usize::from(percent) / 100;
    let (mut count, mut endpoints, mut ranges) = (0, 0, 0);
    for frontend in frontends {
        count += 1;
        endpoints += frontend.internal.backends.len() + frontend.serving.len();
        ranges += frontend.source_ranges.len() + frontend.extra_sources.len();
    }
    count <= share(capacity.services.min(capacity.frontends))
        && endpoints <= share(capacity.backends.min(capacity.slots))
        && ranges <= share(capacity.source_ranges)
}
