//! The cluster's objects, and the names of the queries.

use serde_json::{Value, json};

use crate::lab::api_server::objects::{service, slice};

/// Names of one kind, and the expected answers.
pub struct Group {
    pub name: &'static str,
    /// With the qtype.
    pub names: Vec<(String, u16)>,
    pub expect: Expect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// At least this many records; all of them, unless the answer is truncated.
    Records(u16),
    Missing,
    /// For a mixture.
    Anything,
}

/// Services, of which every tenth is headless: most of those with few endpoints, some with many.
pub struct Population {
    services: u32,
}

const A: u16 = 1;
const SRV: u16 = 33;
const ENDPOINTS: u32 = 10;
const FEW: u32 = 3;
const MANY: u32 = 100;
/// Names in the queries, 10,000 in total.
const CLUSTER_IP_NAMES: u32 = 5000;
const HEADLESS_NAMES: u32 = 500;
const MANY_NAMES: u32 = 100;
const SRV_NAMES: u32 = 2000;
const MISSING_NAMES: u32 = 2000;
const EXTERNAL_NAMES: u32 = 400;
/// Every hundredth Service has many endpoints, and every other tenth has few.
const HEADLESS_STRIDE: u32 = 10;
const MANY_STRIDE: u32 = 100;

impl Population {
    pub fn new(services: u16) -> Self {
        Self { services: services.into() }
    }

    pub fn objects(&self) -> impl Iterator<Item = Value> {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}});
        let pairs = (0..self.services).flat_map(|number| {
            let name = name(number);
            let mut object = service(&name, number + 1);
            if endpoints(number) != ENDPOINTS {
                object["spec"]["clusterIP"] = json!("None");
                object["spec"]["clusterIPs"] = json!(["None"]);
            }
            let first = number * MANY;
            [object, slice(&name, first..first + endpoints(number))]
        });
        std::iter::once(namespace).chain(pairs)
    }

    /// A name that resolves once all objects are known: the last one in the list.
    pub fn last(&self) -> String {
        let last = (0..self.services).rev().find(|number| endpoints(*number) == ENDPOINTS);
        svc(last.unwrap_or_default())
    }

    /// Each kind alone, and all of them together.
    pub fn groups(&self) -> Vec<Group> {
        let pick = |count_of_endpoints: u32, count: u32| -> Vec<String> {
            let fitting =
                (0..self.services).filter(|number| endpoints(*number) == count_of_endpoints).map(svc);
            let fitting: Vec<String> = fitting.collect();
            fitting
                .iter()
                .cycle()
                .take(if fitting.is_empty() { 0 } else { count as usize })
                .cloned()
                .collect()
        };
        let srv = pick(ENDPOINTS, SRV_NAMES).into_iter().map(|name| format!("_http._tcp.{name}"));
        let group = |name, names: Vec<String>, kind, expect| Group {
            name,
            names: names.into_iter().map(|name| (name, kind)).collect(),
            expect,
        };
        let mut groups = vec![
            group("ClusterIP", pick(ENDPOINTS, CLUSTER_IP_NAMES), A, Expect::Records(1)),
            group("headless, 3", pick(FEW, HEADLESS_NAMES), A, Expect::Records(3)),
            group("headless, 100", pick(MANY, MANY_NAMES), A, Expect::Records(1)),
            group("SRV", srv.collect(), SRV, Expect::Records(1)),
            group("NXDOMAIN", (0..MISSING_NAMES).map(missing).collect(), A, Expect::Missing),
            group("external, cached", (0..EXTERNAL_NAMES).map(external).collect(), A, Expect::Records(1)),
        ];
        let all = groups.iter().flat_map(|group| group.names.clone()).collect();
        groups.push(Group { name: "all together", names: all, expect: Expect::Anything });
        groups
    }
}

fn endpoints(number: u32) -> u32 {
    match number {
        _ if number.is_multiple_of(MANY_STRIDE) => MANY,
        _ if number.is_multiple_of(HEADLESS_STRIDE) => FEW,
        _ => ENDPOINTS,
    }
}

fn name(number: u32) -> String {
    format!("service-{number}")
}

fn svc(number: u32) -> String {
    format!("{}.default.svc.cluster.local", name(number))
}

/// As a search list expands them.
fn missing(number: u32) -> String {
    format!("www-{number}.example.com.default.svc.cluster.local")
}

fn external(number: u32) -> String {
    format!("www-{number}.example.com")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_names_are_queried() {
        let population = Population::new(10_000);
        assert_eq!(population.groups().last().unwrap().names.len(), 10_000);
        assert_eq!(population.objects().count(), 20_001);
        assert_eq!(population.last(), "service-9999.default.svc.cluster.local");
    }
}
