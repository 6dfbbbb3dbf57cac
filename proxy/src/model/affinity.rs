//! Session affinity: the last backend of each client, per service port. This is the reference for the tables of
//! the data plane.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    time::Duration,
};

use super::{frontend::View, service::ServicePortKey};

/// Time since an arbitrary epoch: the table reads no clock.
type Time = Duration;

#[derive(Clone, Debug, Default)]
pub struct AffinityTable {
    entries: HashMap<(ServicePortKey, IpAddr), AffinityEntry>,
}

#[derive(Clone, Copy, Debug)]
struct AffinityEntry {
    backend: SocketAddr,
    /// Start of the client's last flow.
    last_flow: Time,
    /// The timeout at that time: a changed timeout applies to new entries only.
    timeout: Duration,
}

impl AffinityTable {
    /// Chooses the backend of a new flow. An entry is used only if its backend is permitted to this flow;
    /// otherwise `pick` chooses among the permitted ones, and the entry is replaced. All addresses of a service
    /// port share one entry per client. Returns `None` if no backend is permitted.
    pub fn choose(
        &mut self,
        service: &ServicePortKey,
        client: IpAddr,
        view: &View,
        timeout: Option<NonZeroU32>,
        now: Time,
        pick: impl FnOnce(usize) -> usize,
    ) -> Option<SocketAddr> {
        let permitted = &view.backends;
        let key = (service.clone(), client);
        let unexpired = self.entries.get(&key).filter(|entry| now < entry.last_flow + entry.timeout);
        let remembered = unexpired.filter(|_| timeout.is_some()).map(|entry| entry.backend);
        let still_permitted =
            remembered.filter(|backend| permitted.iter().any(|other| other.address == *backend));
        let backend = match still_permitted {
            Some(backend) => backend,
            None => permitted.get(pick(permitted.len()))?.address,
        };
        match timeout {
            Some(seconds) => {
                let timeout = Duration::from_secs(seconds.get().into());
                self.entries.insert(key, AffinityEntry { backend, last_flow: now, timeout });
            }
            None => drop(self.entries.remove(&key)),
        }
        Some(backend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        address::Protocol,
        backend::{Backend, BackendState},
        frontend::WhenEmpty,
        service::ServiceKey,
    };

    const TEN: Option<NonZeroU32> = NonZeroU32::new(10);

    fn view(addresses: &[&str]) -> View {
        let backend = |text: &&str| Backend {
            address: text.parse().unwrap(),
            is_local: false,
            state: BackendState::Ready,
        };
        View::new(addresses.iter().map(backend).collect(), WhenEmpty::Reject)
    }

    /// One flow: time, client, port of the Service, permitted backends, index that a random pick would return,
    /// result.
    type Step =
        (&'static str, u64, &'static str, &'static str, &'static [&'static str], usize, Option<&'static str>);

    #[test]
    fn a_client_keeps_its_backend_while_that_is_permitted() {
        let (a, b, c) = ("10.1.0.1:80", "10.1.0.2:80", "10.1.0.3:80");
        let all: &[&str] = Box::leak(Box::new([a, b, c]));
        let steps: [Step; 9] = [
            ("the first flow gets a random backend", 0, "10.9.0.1", "http", all, 1, Some(b)),
            ("the second stays", 9, "10.9.0.1", "http", all, 2, Some(b)),
            ("each flow restarts the timer", 18, "10.9.0.1", "http", all, 2, Some(b)),
            ("another client has its own entry", 18, "10.9.0.2", "http", all, 0, Some(a)),
            ("another port too", 18, "10.9.0.1", "https", all, 2, Some(c)),
            ("after the timeout the choice is random", 28, "10.9.0.1", "http", all, 0, Some(a)),
            (
                "a backend that is not permitted is not used",
                29,
                "10.9.0.1",
                "http",
                Box::leak(Box::new([b, c])),
                1,
                Some(c),
            ),
            ("and its entry is replaced", 30, "10.9.0.1", "http", all, 0, Some(c)),
            ("no permitted backend, no choice", 31, "10.9.0.1", "http", &[], 0, None),
        ];
        let mut table = AffinityTable::default();
        for (step, at, client, port, permitted, random, want) in steps {
            let service = ServicePortKey {
                service: ServiceKey::new("shop", "web"),
                port_name: port.into(),
                protocol: Protocol::Tcp,
            };
            let (client, now) = (client.parse().unwrap(), Duration::from_secs(at));
            let got = table.choose(&service, client, &view(permitted), TEN, now, |_| random);
            assert_eq!(got.map(|backend| backend.to_string()).as_deref(), want, "{step}");
        }
    }

    #[test]
    fn without_affinity_nothing_is_remembered() {
        let service = ServicePortKey {
            service: ServiceKey::new("shop", "web"),
            port_name: "".into(),
            protocol: Protocol::Udp,
        };
        let (client, now) = ("10.9.0.1".parse().unwrap(), Duration::from_secs(1));
        let view = view(&["10.1.0.1:80", "10.1.0.2:80"]);
        let mut table = AffinityTable::default();
        for (timeout, random, want) in [(TEN, 0, 0), (None, 1, 1), (TEN, 1, 1)] {
            let got = table.choose(&service, client, &view, timeout, now, |_| random);
            assert_eq!(got, Some(view.backends[want].address), "{timeout:?}");
        }
    }
}
