//! Budgets: the share of each table that one Service and one namespace may take, so that no tenant can use up a table
//! that all need. Services of the cluster itself have none.
//!
//! The ledger counts reachable entries by owner. Entries that wait for a grace period are nobody's, so that an update,
//! which needs its new entries beside the old ones, is not refused for its old ones.

use std::collections::HashMap;

use arcstr::ArcStr;

use super::{
    maps::{Capacity, MapError},
    tenant::{Table, Tenant},
};
use crate::model::service::ServiceKey;

/// Shares of each table, in percent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    pub service: u8,
    pub namespace: u8,
    /// The DNS Service, which has no budget.
    pub name_server: Option<ServiceKey>,
}

impl Budget {
    /// A quarter of a table is 32,768 frontends or 131,072 slots: more than a Service of 5,000 endpoints needs.
    pub const SERVICE_SHARE: u8 = 25;
    pub const NAMESPACE_SHARE: u8 = 50;
}

/// Entries by table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage([u32; 7]);

impl Usage {
    fn of(&self, table: Table) -> u32 {
        self.0.get(table as usize).copied().unwrap_or_default()
    }

    fn add(&mut self, table: Table, by: i64) {
        if let Some(used) = self.0.get_mut(table as usize) {
            let now = (i64::from(*used) + by).clamp(0, u32::MAX.into());
            *used = u32::try_from(now).unwrap_or_default();
        }
    }
}

/// Entries that a change adds, and those that it gives back in return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    pub more: u32,
    pub back: u32,
}

/// The entries of each Service and namespace, and their limits.
#[derive(Debug, PartialEq, Eq)]
pub struct Ledger {
    capacity: Capacity,
    /// `None`: no limits, and nothing is counted.
    budget: Option<Budget>,
    services: HashMap<ServiceKey, Usage>,
    namespaces: HashMap<ArcStr, Usage>,
}

impl Ledger {
    pub fn new(capacity: Capacity, budget: Option<Budget>) -> Self {
        Self { capacity, budget, services: HashMap::new(), namespaces: HashMap::new() }
    }

    /// Checks that a Service may have this many entries more than now.
    pub fn check(&self, service: &ServiceKey, table: Table, more: u32) -> Result<(), MapError> {
        if more == 0 {
            return Ok(());
        }
        self.check_tenants(service, table, |_, limit, used| used.saturating_add(more) <= limit)
    }

    /// Checks that a Service may have the entries that it has.
    pub fn check_present(&self, service: &ServiceKey, table: Table) -> Result<(), MapError> {
        self.check_tenants(service, table, |_, limit, used| used <= limit)
    }

    /// Checks that a Service may have `service_wants` entries in all, and its namespace `more` beside those that remain
    /// when it has given `back` some.
    pub fn check_exchange(
        &self,
        service: &ServiceKey,
        table: Table,
        service_wants: u32,
        Exchange { more, back }: Exchange,
    ) -> Result<(), MapError> {
        self.check_tenants(service, table, |tenant, limit, used| match tenant {
            Tenant::Service(_) => service_wants <= limit,
            // What is there already may stay, as others may have brought it about.
            Tenant::Namespace(_) => more <= back || used.saturating_sub(back).saturating_add(more) <= limit,
        })
    }

    fn check_tenants(
        &self,
        service: &ServiceKey,
        table: Table,
        is_within: impl Fn(&Tenant, u32, u32) -> bool,
    ) -> Result<(), MapError> {
        let Some(budget) = &self.budget else { return Ok(()) };
        if service.is_clusters_own(budget.name_server.as_ref()) {
            return Ok(());
        }
        for tenant in [Tenant::Service(service.clone()), Tenant::Namespace(service.namespace.clone())] {
            let share = self.limit(&tenant, table);
            if !is_within(&tenant, share, self.used(&tenant, table)) {
                return Err(MapError::OverBudget { map: table.name(), table, tenant, share });
            }
        }
        Ok(())
    }

    /// Counts entries that a Service takes, or gives back if negative.
    pub fn charge(&mut self, service: &ServiceKey, table: Table, by: i64) {
        self.charge_service(service, table, by);
        self.charge_namespace(&service.namespace, table, by);
    }

    /// Counts entries that the namespace of the Service has already.
    pub fn charge_service(&mut self, service: &ServiceKey, table: Table, by: i64) {
        if self.budget.is_some() && by != 0 {
            charge(&mut self.services, service, table, by);
        }
    }

    /// Counts entries that Services of a namespace share, once.
    pub fn charge_namespace(&mut self, namespace: &ArcStr, table: Table, by: i64) {
        if self.budget.is_some() && by != 0 {
            charge(&mut self.namespaces, namespace, table, by);
        }
    }

    /// The entries that a tenant may still take.
    pub fn room(&self, tenant: &Tenant, table: Table) -> u32 {
        self.limit(tenant, table).saturating_sub(self.used(tenant, table))
    }

    fn used(&self, tenant: &Tenant, table: Table) -> u32 {
        let usage = match tenant {
            Tenant::Service(key) => self.services.get(key),
            Tenant::Namespace(name) => self.namespaces.get(name),
        };
        usage.map_or(0, |usage| usage.of(table))
    }

    fn limit(&self, tenant: &Tenant, table: Table) -> u32 {
        let capacity = u64::from(capacity_of(table, &self.capacity));
        let percent = self.budget.as_ref().map_or(100, |budget| match tenant {
            Tenant::Service(_) => budget.service,
            Tenant::Namespace(_) => budget.namespace,
        });
        u32::try_from(capacity * u64::from(percent) / 100).unwrap_or(u32::MAX)
    }
}

fn capacity_of(table: Table, capacity: &Capacity) -> u32 {
    match table {
        Table::Frontends => capacity.frontends,
        Table::Slots => capacity.slots,
        Table::Services => capacity.services,
        Table::BackendsV4 | Table::BackendsV6 => capacity.backends,
        Table::SourceRangesV4 | Table::SourceRangesV6 => capacity.source_ranges,
    }
}

/// Owners without entries are forgotten.
fn charge<K: Clone + Eq + std::hash::Hash>(owners: &mut HashMap<K, Usage>, owner: &K, table: Table, by: i64) {
    let usage = match owners.get_mut(owner) {
        Some(usage) => usage,
        None => owners.entry(owner.clone()).or_default(),
    };
    usage.add(table, by);
    if *usage == Usage::default() {
        owners.remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: Capacity = Capacity {
        frontends: 100,
        descriptors: 100,
        slots: 100,
        backends: 100,
        services: 100,
        source_ranges: 100,
    };

    fn ledger() -> Ledger {
        let name_server = Some(ServiceKey::new("dns", "dns"));
        Ledger::new(CAPACITY, Some(Budget { service: 25, namespace: 50, name_server }))
    }

    #[test]
    fn a_service_has_a_share_and_its_namespace_another() {
        let mut ledger = ledger();
        let services = ["x", "y", "z"].map(|name| ServiceKey::new("shop", name));
        for service in &services[..2] {
            ledger.check(service, Table::Slots, 25).unwrap();
            ledger.charge(service, Table::Slots, 25);
        }
        let refused =
            |service: &ServiceKey| ledger.check(service, Table::Slots, 1).map_err(|error| error.to_string());
        let (one, all) = ("Service shop/x has", "namespace shop has");
        let rest = "used up its share of SLOTS";
        assert_eq!(refused(&services[0]), Err(format!("{one} {rest} (25 entries)")));
        assert_eq!(refused(&services[2]), Err(format!("{all} {rest} (50 entries)")));
        assert_eq!(refused(&ServiceKey::new("other", "x")), Ok(()));
        assert!(ledger.check(&services[0], Table::Slots, 0).is_ok(), "what it has may change");
        assert!(ledger.check(&services[0], Table::Services, 25).is_ok(), "another table");
    }

    #[test]
    fn what_is_given_back_is_room_and_leaves_no_trace() {
        let mut ledger = ledger();
        let service = ServiceKey::new("shop", "web");
        ledger.charge(&service, Table::BackendsV4, 25);
        assert!(ledger.check(&service, Table::BackendsV4, 1).is_err());
        ledger.charge(&service, Table::BackendsV4, -25);
        assert!(ledger.check(&service, Table::BackendsV4, 25).is_ok());
        assert!(ledger.services.is_empty() && ledger.namespaces.is_empty());
    }

    #[test]
    fn the_cluster_has_no_budget() {
        let ledger = ledger();
        for (namespace, name, is_free) in [
            ("kube-system", "anything", true),
            ("default", "kubernetes", true),
            ("dns", "dns", true),
            ("dns", "other", false),
            ("default", "web", false),
        ] {
            let service = ServiceKey::new(namespace, name);
            assert_eq!(ledger.check(&service, Table::Frontends, 99).is_ok(), is_free, "{service}");
        }
    }
}
