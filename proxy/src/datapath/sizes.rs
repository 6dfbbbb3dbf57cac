//! The sizes of the pinned maps. A map keeps its size across restarts until a larger one is wanted.
//!
//! No map can grow, so a larger one takes its place: the pin of the old one is set aside, the programs are loaded onto
//! the new one, what cannot be derived again is copied, the first pass writes the rest, and the links get the new
//! programs one by one. Until then the old programs serve with the old maps. An agent that dies in between leaves the
//! old pins aside, and its successor continues.
//!
//! Maps that refer to each other by index change together.

use proxy_ebpf::abi::{FLOWS_PER_BUCKET, FlowCounters, MapSpec, map};

use crate::config::TableSizes;

/// Maps that change together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapGroup {
    /// Written from objects. Backends and service ports keep their indices, which flows and affinity refer to.
    Derived,
    Flows,
    /// Counters of connections, by the indices of backends and service ports. Programs of two sets of tables can count in one.
    Connections,
    /// By the indices of backends. What is lost is found out anew.
    Health,
}

/// The size of a map at the next load.
#[derive(Clone, Copy, Debug)]
pub struct MapSize {
    pub spec: &'static MapSpec,
    pub entries: u32,
    /// The pinned map is to be set aside.
    pub is_outgrown: bool,
}

/// The group of a map whose size can be configured.
pub fn group(spec: &MapSpec) -> Option<MapGroup> {
    match spec.name {
        map::FLOWS_V4
        | map::FLOWS_V6
        | map::FLOW_COUNTERS_V4
        | map::FLOW_COUNTERS_V6
        | map::CONNTRACK_V4
        | map::CONNTRACK_V6 => Some(MapGroup::Flows),
        map::SERVICE_CONNECTIONS | map::BACKEND_CONNECTIONS_V4 | map::BACKEND_CONNECTIONS_V6 => {
            Some(MapGroup::Connections)
        }
        map::BACKEND_HEALTH => Some(MapGroup::Health),
        map::FRONTENDS_V4
        | map::FRONTENDS_V6
        | map::FRONTEND_STATE
        | map::DESCRIPTORS
        | map::SLOTS
        | map::BACKENDS_V4
        | map::BACKENDS_V6
        | map::SERVICES
        | map::SERVICE_STATS
        | map::SOURCE_RANGES_V4
        | map::SOURCE_RANGES_V6
        | map::SERVICE_NETWORKS_V4
        | map::SERVICE_NETWORKS_V6 => Some(MapGroup::Derived),
        _ => None,
    }
}

/// The wanted entries of a map, if they are configured.
fn wanted(spec: &MapSpec, sizes: &TableSizes) -> Option<u32> {
    let TableSizes { flows, frontends, backends, slots, service_ports, source_ranges } = *sizes;
    match spec.name {
        map::FLOWS_V4 | map::FLOWS_V6 => flows,
        map::FLOW_COUNTERS_V4 | map::FLOW_COUNTERS_V6 => {
            flows.map(|flows| flows.saturating_mul(FlowCounters::DIRECTIONS))
        }
        map::CONNTRACK_V4 | map::CONNTRACK_V6 => flows.map(|flows| flows.div_ceil(FLOWS_PER_BUCKET)),
        map::FRONTENDS_V4
        | map::FRONTENDS_V6
        | map::FRONTEND_STATE
        | map::SERVICE_NETWORKS_V4
        | map::SERVICE_NETWORKS_V6 => frontends,
        // An eighth more, for replaced descriptors during their grace period.
        map::DESCRIPTORS => frontends.map(|frontends| frontends.saturating_add(frontends / 8)),
        map::SLOTS => slots,
        map::BACKENDS_V4 | map::BACKENDS_V6 | map::BACKEND_CONNECTIONS_V4 | map::BACKEND_CONNECTIONS_V6 => {
            backends
        }
        // Of both families.
        map::BACKEND_HEALTH => backends.map(|backends| backends.saturating_mul(2)),
        map::SERVICES | map::SERVICE_STATS | map::SERVICE_CONNECTIONS => service_ports,
        map::SOURCE_RANGES_V4 | map::SOURCE_RANGES_V6 => source_ranges,
        _ => None,
    }
}

/// The map of the indices by which another one counts.
fn indexed_by(spec: &MapSpec) -> Option<&'static str> {
    match spec.name {
        map::SERVICE_CONNECTIONS => Some(map::SERVICE_STATS),
        map::BACKEND_CONNECTIONS_V4 => Some(map::BACKENDS_V4),
        map::BACKEND_CONNECTIONS_V6 => Some(map::BACKENDS_V6),
        _ => None,
    }
}

/// The size of each map, given the entries of the pinned ones; `None`: it is missing.
///
/// A group of which one map is too small is replaced, and so is one of which a map is missing: another agent died while
/// it set them aside.
pub fn plan(present: &[(&'static MapSpec, Option<u32>)], sizes: &TableSizes) -> Vec<MapSize> {
    let of =
        |wanted_group: MapGroup| present.iter().filter(move |(spec, _)| group(spec) == Some(wanted_group));
    let is_replaced = |group: MapGroup| {
        let is_small = |(spec, entries): &(&'static MapSpec, Option<u32>)| {
            entries.is_none_or(|entries| wanted(spec, sizes).is_some_and(|wanted| wanted > entries))
        };
        of(group).any(is_small)
    };
    let replaced = [MapGroup::Derived, MapGroup::Flows, MapGroup::Connections, MapGroup::Health]
        .map(|group| (group, is_replaced(group)));
    let size = |(spec, entries): &(&'static MapSpec, Option<u32>)| {
        let is_replaced = replaced.iter().any(|(group_of, is)| *is && group(spec) == Some(*group_of));
        // A version that had no counters may have left larger tables than the default.
        let indices = indexed_by(spec).and_then(|name| present.iter().find(|(spec, _)| spec.name == name));
        let enough = wanted(spec, sizes).unwrap_or_else(|| entries.unwrap_or(spec.capacity));
        let enough = indices.and_then(|(_, entries)| *entries).map_or(enough, |entries| enough.max(entries));
        MapSize {
            spec,
            entries: entries
                .map_or(enough, |entries| if is_replaced { enough.max(entries) } else { entries }),
            is_outgrown: is_replaced && entries.is_some(),
        }
    };
    present.iter().map(size).collect()
}

#[cfg(test)]
mod tests {
    use proxy_ebpf::abi::MAPS;

    use super::*;

    fn sizes_of(plan: &[MapSize], names: &[&str]) -> Vec<(u32, bool)> {
        let size = |name: &&str| plan.iter().find(|size| size.spec.name == *name).unwrap();
        names.iter().map(size).map(|size| (size.entries, size.is_outgrown)).collect()
    }

    fn present(entries: impl Fn(&MapSpec) -> Option<u32>) -> Vec<(&'static MapSpec, Option<u32>)> {
        MAPS.iter().map(|spec| (spec, entries(spec))).collect()
    }

    const SHOWN: [&str; 6] =
        ["FRONTENDS_V6", "DESCRIPTORS", "SLOTS", "FLOWS_V4", "CONNTRACK_V4", "AFFINITY_V4"];

    #[test]
    fn new_maps_have_the_configured_sizes_or_the_defaults() {
        let frontends = TableSizes { frontends: Some(8000), flows: Some(2000), ..TableSizes::default() };
        for (sizes, want) in [
            (TableSizes::default(), [131_072, 147_456, 524_288, 131_072, 131_072, 131_072]),
            (frontends, [8000, 9000, 524_288, 2000, 2000, 131_072]),
        ] {
            let plan = plan(&present(|_| None), &sizes);
            assert_eq!(sizes_of(&plan, &SHOWN), want.map(|entries| (entries, false)));
        }
    }

    #[test]
    fn pinned_maps_keep_their_sizes_until_larger_ones_are_wanted() {
        let there = present(|spec| Some(if group(spec).is_some() { 5000 } else { spec.capacity }));
        let kept = [5000, 5000, 5000, 5000, 5000, 131_072].map(|entries| (entries, false));
        for sizes in [
            TableSizes::default(),
            TableSizes { slots: Some(4000), flows: Some(1024), ..TableSizes::default() },
        ] {
            assert_eq!(sizes_of(&plan(&there, &sizes), &SHOWN), kept, "{sizes:?}");
        }
        let slots = TableSizes { slots: Some(6000), ..TableSizes::default() };
        let grown =
            [(5000, true), (5000, true), (6000, true), (5000, false), (5000, false), (131_072, false)];
        assert_eq!(sizes_of(&plan(&there, &slots), &SHOWN), grown);
        let ranges = TableSizes { source_ranges: Some(6000), ..TableSizes::default() };
        let names = ["SOURCE_RANGES_V4", "SOURCE_RANGES_V6", "SLOTS", "FLOWS_V4"];
        let grown = [(6000, true), (6000, true), (5000, true), (5000, false)];
        assert_eq!(sizes_of(&plan(&there, &ranges), &names), grown);
        let flows = TableSizes { flows: Some(6000), ..TableSizes::default() };
        let grown =
            [(5000, false), (5000, false), (5000, false), (6000, true), (6000, true), (131_072, false)];
        assert_eq!(sizes_of(&plan(&there, &flows), &SHOWN), grown);
    }

    #[test]
    fn counters_are_as_many_as_what_they_count() {
        let earlier = present(|spec| match spec.name {
            map::BACKENDS_V4 => Some(300_000),
            _ if group(spec) == Some(MapGroup::Connections) => None,
            _ => Some(spec.capacity),
        });
        let names = ["BACKEND_CONNECTIONS_V4", "BACKEND_CONNECTIONS_V6", "SERVICE_CONNECTIONS"];
        let created = [300_000, 262_144, 65_536].map(|entries| (entries, false));
        assert_eq!(sizes_of(&plan(&earlier, &TableSizes::default()), &names), created);
        let there = present(|spec| Some(spec.capacity));
        let more = TableSizes { service_ports: Some(70_000), ..TableSizes::default() };
        let grown = [(262_144, true), (262_144, true), (70_000, true)];
        assert_eq!(sizes_of(&plan(&there, &more), &names), grown);
        let slots = TableSizes { slots: Some(600_000), ..TableSizes::default() };
        let kept = [262_144, 262_144, 65_536].map(|entries| (entries, false));
        assert_eq!(sizes_of(&plan(&there, &slots), &names), kept);
    }

    #[test]
    fn a_group_that_was_partly_set_aside_is_replaced_whole() {
        let there = present(|spec| (spec.name != map::FRONTENDS_V4).then_some(spec.capacity));
        let plan = plan(&there, &TableSizes::default());
        let outgrown = plan.iter().filter(|size| size.is_outgrown);
        assert!(outgrown.clone().all(|size| group(size.spec) == Some(MapGroup::Derived)));
        assert_eq!(outgrown.count(), 12);
    }
}
