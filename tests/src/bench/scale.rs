//! The load of a large cluster on its API servers and on each agent, computed from the sizes of its objects.
//!
//! The Services are those of kubernetes/perf-tests' load test: half of the pods are in groups of 5, a quarter in groups of 30, a quarter
//! in groups of 250. Nothing is started: the objects are built, and their octets on the wire are counted.

use std::fmt;

use serde_json::{Value, json};

use crate::lab::api_server::objects::{service, slice};

/// Groups of pods, and the eighths of all pods that are in groups of this size.
const GROUPS: [(u32, u32); 3] = [(5, 4), (30, 2), (250, 2)];
const EIGHTHS: u32 = 8;
/// Endpoints in a slice, as kube-controller-manager fills them (`--max-endpoints-per-slice`).
const PER_SLICE: u32 = 100;
/// Updates of slices for a pod that is replaced: the new one is added, and becomes ready; the old one ends, and is removed.
const UPDATES: f64 = 4.0;

#[derive(Debug, Clone, Copy)]
pub struct Parameters {
    pub nodes: u32,
    pub services: u32,
    /// Pods that are replaced, per second.
    pub churn: f64,
    pub api_servers: u32,
    /// Bits per second that an API server can send.
    pub network: f64,
}

/// The results. Octets are those of JSON, which the agents read, without compression.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    parameters: Parameters,
    pods: f64,
    slices: f64,
    /// Of all Services and slices.
    listed: f64,
    /// Of one update of a slice, on average over the pods.
    update: f64,
}

pub fn compute(parameters: Parameters) -> Report {
    // Groups per pod, by size: the number of Services follows from the pods, so the pods follow from it.
    let groups_per_pod: f64 = GROUPS.iter().map(|(size, eighths)| share(*eighths) / f64::from(*size)).sum();
    let pods = f64::from(parameters.services) / groups_per_pod;
    let (mut slices, mut listed, mut update) = (0.0, 0.0, 0.0);
    for (size, eighths) in GROUPS {
        let groups = pods * share(eighths) / f64::from(size);
        let sizes = slices_of(size);
        slices += groups * sizes.len() as f64;
        let octets: f64 = sizes.iter().map(|endpoints| octets(&slice("service-12345", 0..*endpoints))).sum();
        listed += groups * (octets + octets_of_service());
        // A large slice has more pods that may change.
        let weighted = sizes.iter().map(|endpoints| f64::from(*endpoints) * octets_of_update(*endpoints));
        update += share(eighths) * weighted.sum::<f64>() / f64::from(size);
    }
    Report { parameters, pods, slices, listed, update }
}

fn share(eighths: u32) -> f64 {
    f64::from(eighths) / f64::from(EIGHTHS)
}

/// Full slices, and one for the rest.
fn slices_of(endpoints: u32) -> Vec<u32> {
    let mut sizes = vec![PER_SLICE; (endpoints / PER_SLICE) as usize];
    sizes.extend(Some(endpoints % PER_SLICE).filter(|rest| *rest != 0));
    sizes
}

fn octets(object: &Value) -> f64 {
    object.to_string().len() as f64
}

fn octets_of_service() -> f64 {
    octets(&service("service-12345", 12_345))
}

fn octets_of_update(endpoints: u32) -> f64 {
    octets(&json!({"type": "MODIFIED", "object": slice("service-12345", 0..endpoints)}))
}

impl Report {
    /// Octets per second that each agent receives.
    fn per_agent(&self) -> f64 {
        self.parameters.churn * UPDATES * self.update
    }

    fn agents_per_server(&self) -> f64 {
        f64::from(self.parameters.nodes) / f64::from(self.parameters.api_servers)
    }

    /// Octets per second that each API server sends to agents.
    fn per_server(&self) -> f64 {
        self.per_agent() * self.agents_per_server()
    }

    /// Pods per second at which an API server's network is full.
    fn highest_churn(&self) -> f64 {
        self.parameters.churn * self.parameters.network / 8.0 / self.per_server()
    }

    /// Seconds until all agents have listed everything anew.
    fn storm(&self) -> f64 {
        self.listed * self.agents_per_server() * 8.0 / self.parameters.network
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: f64 = (1 << 20) as f64;
        let Parameters { nodes, services, churn, api_servers, network } = self.parameters;
        let rows = [
            ("pods", format!("{:.0}, {:.0} on each node", self.pods, self.pods / f64::from(nodes))),
            ("EndpointSlices", format!("{:.0}", self.slices)),
            ("all Services and slices, listed once", format!("{:.0} MiB", self.listed / MIB)),
            ("an update of a slice, mean over the pods", format!("{:.1} KiB", self.update / 1024.0)),
            ("updates per second", format!("{:.0}", churn * UPDATES)),
            ("each agent receives", format!("{:.2} MiB/s", self.per_agent() / MIB)),
            ("each API server sends", format!("{:.0} MiB/s", self.per_server() / MIB)),
            ("its network is full at", format!("{:.0} pods replaced per second", self.highest_churn())),
            ("all agents list anew, at least", format!("{:.0} s", self.storm())),
        ];
        writeln!(
            f,
            "{nodes} nodes, {services} Services, {churn} pods replaced per second, {api_servers} API servers with {} Gbit/s\n",
            network / 1e9
        )?;
        rows.iter().try_for_each(|(name, value)| writeln!(f, "{name:<42}{value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMETERS: Parameters =
        Parameters { nodes: 5000, services: 50_000, churn: 100.0, api_servers: 3, network: 1e10 };

    #[test]
    fn the_load_grows_with_nodes_and_churn_and_not_with_services() {
        let base = compute(PARAMETERS);
        let nodes = compute(Parameters { nodes: 10_000, ..PARAMETERS });
        let churn = compute(Parameters { churn: 200.0, ..PARAMETERS });
        let services = compute(Parameters { services: 100_000, ..PARAMETERS });
        let is_double = |a: f64, b: f64| (a / b - 2.0).abs() < 1e-9;
        assert!(
            is_double(nodes.per_server(), base.per_server())
                && is_double(churn.per_agent(), base.per_agent())
        );
        assert!((services.per_agent() - base.per_agent()).abs() < 1e-6, "an update is of one slice");
        assert!(is_double(services.listed, base.listed) && is_double(services.storm(), base.storm()));
        assert!((churn.highest_churn() - base.highest_churn()).abs() < 1e-6);
    }

    #[test]
    fn groups_fill_slices_as_the_controller_does() {
        assert_eq!(slices_of(5), [5]);
        assert_eq!(slices_of(100), [100]);
        assert_eq!(slices_of(250), [100, 100, 50]);
        let report = compute(PARAMETERS);
        // 50,000 Services: 45,732 of 5 pods, 3,811 of 30 and 457 of 250, which have three slices.
        assert!((report.slices - 50_915.0).abs() < 5.0, "{}", report.slices);
        assert!((report.pods - 457_317.0).abs() < 1.0, "{}", report.pods);
    }
}
