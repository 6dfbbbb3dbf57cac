//! One line in the log for each change of a Service, in words: what came, what went, and how long it took.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use tracing::info;

use crate::model::{
    frontend::{Frontend, FrontendKey, FrontendKind},
    service::{ServiceKey, ServicePortKey},
};

/// Lines per pass. A rollout of everything is one line for all others.
const MAX_LINES: usize = 20;

/// Follows the ClusterIPs: the other frontends of a Service have the same backends.
#[derive(Default)]
pub struct ServiceChanges {
    known: HashMap<FrontendKey, Known>,
    /// The changes of the present pass, by Service and port.
    pass: BTreeMap<ServiceKey, BTreeMap<FrontendKey, Change>>,
    hasher: RandomState,
}

struct Known {
    service: ServicePortKey,
    backends: usize,
    /// The sum of the hashes of the backends: the same set has the same sum.
    sum: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Added(usize),
    Removed,
    /// The number of backends before and after.
    Backends(usize, usize),
}

impl ServiceChanges {
    /// The resolved state of a frontend; `None`: it is deleted.
    pub fn update(&mut self, key: FrontendKey, frontend: Option<&Frontend>) {
        let Some(frontend) = frontend.filter(|frontend| frontend.kind == FrontendKind::ClusterIp) else {
            if let Some(known) = self.known.remove(&key) {
                self.note(known.service.service, key, Change::Removed);
            }
            return;
        };
        let addresses: BTreeSet<_> =
            frontend.internal.backends.iter().map(|backend| backend.address).collect();
        let sum =
            addresses.iter().fold(0_u64, |sum, address| sum.wrapping_add(self.hasher.hash_one(address)));
        let now = Known { service: frontend.service.clone(), backends: addresses.len(), sum };
        let service = now.service.service.clone();
        let backends = now.backends;
        match self.known.insert(key, now) {
            None => self.note(service, key, Change::Added(backends)),
            Some(known) if known.sum != sum => {
                self.note(service, key, Change::Backends(known.backends, backends));
            }
            Some(_) => {}
        }
    }

    fn note(&mut self, service: ServiceKey, key: FrontendKey, change: Change) {
        self.pass.entry(service).or_default().insert(key, change);
    }

    /// The pass has ended. A pass over everything is logged elsewhere, as a whole.
    pub fn log(&mut self, took: Duration, is_full_sync: bool) {
        let changes = std::mem::take(&mut self.pass);
        if is_full_sync {
            return;
        }
        let took_ms = took.as_secs_f64() * 1e3;
        for (service, ports) in changes.iter().take(MAX_LINES) {
            info!(%service, took_ms, "Service programmed: {}", Words(ports));
        }
        if let Some(others) = changes.len().checked_sub(MAX_LINES).filter(|others| *others > 0) {
            info!(services = others, took_ms, "more Services programmed");
        }
    }
}

/// `10.96.0.10:80/TCP has 3 backends, 2 more than before`, for each port.
struct Words<'a>(&'a BTreeMap<FrontendKey, Change>);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (key, change)) in self.0.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { "; " })?;
            match *change {
                Change::Added(backends) => write!(f, "{key} is new, with {}", count(backends))?,
                Change::Removed => write!(f, "{key} is gone")?,
                Change::Backends(before, now) if now > before => {
                    write!(f, "{key} has {}, {} more than before", count(now), now - before)?;
                }
                Change::Backends(before, now) if now < before => {
                    write!(f, "{key} has {}, {} fewer than before", count(now), before - now)?;
                }
                Change::Backends(_, now) => write!(f, "{key} has {}, others than before", count(now))?,
            }
        }
        Ok(())
    }
}

fn count(backends: usize) -> String {
    format!("{backends} backend{}", if backends == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{index::Index, manifests, model::policy::Policy};

    fn frontends(endpoints: &[&str]) -> Vec<Frontend> {
        let endpoints: Vec<_> = endpoints.iter().map(|ip| format!("{{addresses: [{ip}]}}")).collect();
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n\
             spec: {{clusterIP: 10.96.0.10, ports: [{{port: 80}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\n\
             ports: [{{port: 8080}}]\nendpoints: [{}]\n",
            endpoints.join(", ")
        );
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("web.yaml"), text).unwrap();
        let (index, _): (Index, _) = manifests::load(dir.path()).unwrap().to_index(Policy::default());
        index.frontends().collect()
    }

    #[test]
    fn a_change_is_told_in_words() {
        let mut changes = ServiceChanges::default();
        for (endpoints, want) in [
            (Some(&["10.1.0.1"][..]), "10.96.0.10:80/TCP is new, with 1 backend"),
            (Some(&["10.1.0.1"][..]), ""),
            (
                Some(&["10.1.0.1", "10.1.0.2", "10.1.0.3"][..]),
                "10.96.0.10:80/TCP has 3 backends, 2 more than before",
            ),
            (Some(&["10.1.0.2", "10.1.0.4"][..]), "10.96.0.10:80/TCP has 2 backends, 1 fewer than before"),
            (Some(&["10.1.0.2", "10.1.0.5"][..]), "10.96.0.10:80/TCP has 2 backends, others than before"),
            (None, "10.96.0.10:80/TCP is gone"),
        ] {
            match endpoints {
                Some(endpoints) => {
                    for frontend in frontends(endpoints) {
                        changes.update(frontend.key, Some(&frontend));
                    }
                }
                None => changes.update(frontends(&[])[0].key, None),
            }
            let words: Vec<_> = changes.pass.values().map(|ports| Words(ports).to_string()).collect();
            assert_eq!(words.join("\n"), want);
            changes.log(Duration::ZERO, false);
            assert!(changes.pass.is_empty());
        }
    }
}
