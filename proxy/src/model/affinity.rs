//! Session affinity: which backend a client was last sent to, per service port. The data plane keeps its own tables;
//! this is what they have to amount to.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    time::Duration,
};

use super::{frontend::View, service::ServicePortKey};

/// Time since some beginning: the table reads no clock.
type Time = Duration;

#[derive(Clone, Debug, Default)]
pub struct AffinityTable {
    remembered: HashMap<(ServicePortKey, IpAddr), Memory>,
}

#[derive(Clone, Copy, Debug)]
struct Memory {
    backend: SocketAddr,
    /// When the client last started a flow.
    last_flow: Time,
    /// As it was then: a changed timeout holds for new memories.
    timeout: Duration,
}

impl AffinityTable {
    /// The backend of a new flow. What is remembered counts only while it is permitted to this flow; otherwise `pick`
    /// chooses among those that are, and that is remembered. All addresses of a service port share the memory.
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
        let remembered = self.remembered.get(&key).filter(|memory| now < memory.last_flow + memory.timeout);
        let remembered = remembered.filter(|_| timeout.is_some()).map(|memory| memory.backend);
        let still_permitted =
            remembered.filter(|backend| permitted.iter().any(|other| other.address == *backend));
        let backend = match still_permitted {
            Some(backend) => backend,
            None => permitted.get(pick(permitted.len()))?.address,
        };
        match timeout {
            Some(seconds) => {
                let timeout = Duration::from_secs(seconds.get().into());
                self.remembered.insert(key, Memory { backend, last_flow: now, timeout });
            }
            None => drop(self.remembered.remove(&key)),
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

    /// One flow: when, from whom, to which port of the Service, what is permitted, which of it chance would pick.
    type Step =
        (&'static str, u64, &'static str, &'static str, &'static [&'static str], usize, Option<&'static str>);

    #[test]
    fn a_client_stays_where_it_was_while_that_is_permitted() {
        let (a, b, c) = ("10.1.0.1:80", "10.1.0.2:80", "10.1.0.3:80");
        let all: &[&str] = Box::leak(Box::new([a, b, c]));
        let steps: [Step; 9] = [
            ("the first flow goes where chance says", 0, "10.9.0.1", "http", all, 1, Some(b)),
            ("the second stays", 9, "10.9.0.1", "http", all, 2, Some(b)),
            ("each flow starts the timer anew", 18, "10.9.0.1", "http", all, 2, Some(b)),
            ("another client has its own memory", 18, "10.9.0.2", "http", all, 0, Some(a)),
            ("another port too", 18, "10.9.0.1", "https", all, 2, Some(c)),
            ("after the timeout chance decides", 28, "10.9.0.1", "http", all, 0, Some(a)),
            (
                "what is not permitted is not used",
                29,
                "10.9.0.1",
                "http",
                Box::leak(Box::new([b, c])),
                1,
                Some(c),
            ),
            ("and forgotten", 30, "10.9.0.1", "http", all, 0, Some(c)),
            ("nothing permitted, nothing chosen", 31, "10.9.0.1", "http", &[], 0, None),
        ];
        let mut table = AffinityTable::default();
        for (step, at, client, port, permitted, chance, want) in steps {
            let service = ServicePortKey {
                service: ServiceKey::new("shop", "web"),
                port_name: port.into(),
                protocol: Protocol::Tcp,
            };
            let (client, now) = (client.parse().unwrap(), Duration::from_secs(at));
            let got = table.choose(&service, client, &view(permitted), TEN, now, |_| chance);
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
        for (timeout, chance, want) in [(TEN, 0, 0), (None, 1, 1), (TEN, 1, 1)] {
            let got = table.choose(&service, client, &view, timeout, now, |_| chance);
            assert_eq!(got, Some(view.backends[want].address), "{timeout:?}");
        }
    }
}
