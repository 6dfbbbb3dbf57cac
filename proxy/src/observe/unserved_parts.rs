//! Reports of the parts of Services that have no effect although the objects are valid. Some appear for a moment, while
//! the objects of one change arrive, so only those that last are reported.

use std::collections::BTreeSet;

use crate::model::{service::ServiceKey, unserved::Unserved};

/// Limit of new reports at a time; the others follow.
const MAX_REPORTS: usize = 10;

/// The parts that were reported.
#[derive(Debug, Default)]
pub struct UnservedParts {
    seen: BTreeSet<(ServiceKey, String)>,
    reported: BTreeSet<(ServiceKey, String)>,
}

impl UnservedParts {
    /// The parts to report: those that were there the last time, and were not reported.
    pub fn update(&mut self, unserved: &[(ServiceKey, Unserved)]) -> Vec<(ServiceKey, String)> {
        let now: BTreeSet<_> =
            unserved.iter().map(|(service, part)| (service.clone(), part.to_string())).collect();
        self.reported.retain(|part| now.contains(part));
        let lasting = now.intersection(&self.seen).filter(|part| !self.reported.contains(*part));
        let new: Vec<_> = lasting.take(MAX_REPORTS).cloned().collect();
        self.reported.extend(new.iter().cloned());
        self.seen = now;
        new
    }

    /// Whether the next update may have reports although nothing has changed.
    pub fn is_behind(&self) -> bool {
        self.seen.len() > self.reported.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        address::{IpFamily, Protocol},
        service::ServicePortKey,
    };

    fn parts(ports: impl IntoIterator<Item = u16>) -> Vec<(ServiceKey, Unserved)> {
        let service = ServiceKey::new("shop", "web");
        let owner = ServicePortKey {
            service: ServiceKey::new("shop", "other"),
            port_name: "http".into(),
            protocol: Protocol::Tcp,
        };
        let part = |port| Unserved::HealthCheckPort { port, family: IpFamily::V4, owner: owner.clone() };
        ports.into_iter().map(|port| (service.clone(), part(port))).collect()
    }

    #[test]
    fn what_lasts_is_reported_once_and_again_when_it_returns() {
        let mut reports = UnservedParts::default();
        let mut count = |ports: &[u16]| reports.update(&parts(ports.iter().copied())).len();
        assert_eq!([count(&[1]), count(&[2]), count(&[2, 3]), count(&[2, 3])], [0, 0, 1, 1]);
        assert_eq!([count(&[]), count(&[2]), count(&[2])], [0, 0, 1]);
    }

    #[test]
    fn many_are_reported_a_few_at_a_time() {
        let mut reports = UnservedParts::default();
        let counts: Vec<_> = (0..5).map(|_| reports.update(&parts(1..=25)).len()).collect();
        assert_eq!((counts, reports.is_behind()), (vec![0, 10, 10, 5, 0], false));
    }
}
