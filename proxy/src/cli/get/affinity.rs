//! `get affinity`: one row per client of a service port with ClientIP affinity.
//!
//! ```text
//! {"affinity": [{"client": "10.244.1.9", "service": "shop/web", "port_name": "http", "protocol": "TCP",
//!                "family": "IPv4", "backend": "10.244.1.4:8080", "state": "followed|expired|gone|off",
//!                "age_seconds": 12, "expires_in_seconds": 10788, "pod": "shop/web-0"|null}]}
//! ```
//!
//! `client` is an address. An entry of the socket LB is of a network namespace, as an unconnected socket has no source
//! address: its client is the pod's address of this family, or `netns:COOKIE` if the pod is gone or this process has no
//! right to enter its namespace. `pod` has this address; a running agent knows the pods of this node that are endpoints.
//! Tables have the pod, the address, or the cookie, in this order. Only `followed` entries have an effect. The others are shown with `--stale`; the LRU
//! map evicts them: `expired`, `gone` (the backend was removed, then `backend` is null, or no frontend selects it any
//! more), and `off` (the service port has no affinity any more). `expires_in_seconds` is null except for `followed`.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use proxy_ebpf::abi::{AffinityEntry, AffinityKey, BackendFlags};
use serde::{Deserialize, Serialize};

use super::{
    labels::{Labels, ServicePort},
    listing::Row,
    selection::Selection,
};
use crate::{
    cli::human_duration::human_duration,
    model::address::IpFamily,
    observe::objects::Pods,
    reconcile::{LbMaps, MapError},
};

/// A backend in neither set gets no new flows.
const SETS: u8 = BackendFlags::IN_CLUSTER_SET.0 | BackendFlags::IN_LOCAL_SET.0;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AffinityRow {
    client: String,
    #[serde(flatten)]
    service: ServicePort,
    protocol: Option<String>,
    family: String,
    backend: Option<SocketAddr>,
    state: State,
    age_seconds: u64,
    expires_in_seconds: Option<u64>,
    pod: Option<String>,
    /// On the clock of the BPF programs (monotonic).
    #[serde(skip)]
    last_used: Duration,
    /// The cookie of the client's network namespace, if the entry is of one.
    #[serde(skip)]
    netns: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Followed,
    Expired,
    Gone,
    Off,
}

/// Reads the rows, sorted by service port and client. `now` is on the clock of the BPF programs.
pub fn read(
    maps: &impl LbMaps,
    labels: &Labels,
    selection: &Selection,
    entries: impl Fn(IpFamily) -> Result<Vec<(AffinityKey, AffinityEntry)>, MapError>,
    now: Duration,
) -> Result<Vec<AffinityRow>> {
    let timeouts = timeouts(maps)?;
    let mut rows = Vec::new();
    for family in IpFamily::BOTH {
        for (key, entry) in entries(family)? {
            let service = labels.get(key.service);
            if !selection.takes(service) {
                continue;
            }
            let row = AffinityRow {
                service: service.into(),
                protocol: service.map(|service| service.protocol.to_string()),
                ..AffinityRow::new(maps, family, &key, &entry, timeouts.get(&key.service).copied(), now)?
            };
            rows.push(row);
        }
    }
    sort(&mut rows);
    Ok(rows)
}

/// Sorts by service port and client. Once more after `locate`: the cookies of namespaces are in no order.
pub fn sort(rows: &mut [AffinityRow]) {
    rows.sort_by(|a, b| (&a.service, &a.client, &a.family).cmp(&(&b.service, &b.client, &b.family)));
}

/// The timeouts of service ports with affinity. All frontends of a service port have the same.
fn timeouts(maps: &impl LbMaps) -> Result<HashMap<u32, Duration>, MapError> {
    let mut timeouts = HashMap::new();
    for (_, index) in maps.frontends()? {
        let descriptor = maps.descriptor(maps.published(index)?)?;
        if descriptor.affinity_seconds != 0 {
            timeouts.insert(descriptor.service, Duration::from_secs(descriptor.affinity_seconds.into()));
        }
    }
    Ok(timeouts)
}

impl AffinityRow {
    fn new(
        maps: &impl LbMaps,
        family: IpFamily,
        key: &AffinityKey,
        entry: &AffinityEntry,
        timeout: Option<Duration>,
        now: Duration,
    ) -> Result<Self, MapError> {
        let last_used = Duration::from_nanos(entry.last_used);
        let age = now.saturating_sub(last_used);
        let backend = maps.backend(family, entry.backend.index)?;
        let is_alive = backend.generation == entry.backend.generation
            && backend.flags.contains(BackendFlags::ALIVE)
            && backend.service == key.service;
        let is_selectable = is_alive && backend.flags.0 & SETS != 0;
        let state = match timeout {
            None => State::Off,
            Some(_) if !is_selectable => State::Gone,
            Some(timeout) if age > timeout => State::Expired,
            Some(_) => State::Followed,
        };
        let left = timeout.filter(|_| state == State::Followed).map(|timeout| (timeout - age).as_secs());
        Ok(Self {
            client: client(key),
            service: None.into(),
            protocol: None,
            family: family.to_string(),
            backend: is_alive.then_some(backend.address),
            state,
            age_seconds: age.as_secs(),
            expires_in_seconds: left,
            pod: None,
            last_used,
            netns: key.netns(),
        })
    }

    pub fn is_of_netns(&self) -> bool {
        self.netns.is_some()
    }

    /// Names the client by its address, given the addresses of network namespaces by cookie.
    pub fn locate(&mut self, addresses: &HashMap<u64, Vec<IpAddr>>) {
        let known = self.netns.and_then(|cookie| addresses.get(&cookie)).into_iter().flatten();
        let of_family = known.filter(|address| IpFamily::of(**address).to_string() == self.family);
        if let Some(address) = of_family.min() {
            self.client = address.to_string();
        }
    }

    /// Names the client by its pod, once its address is known.
    pub fn set_pod(&mut self, pods: &Pods) {
        self.pod = self.client.parse().ok().and_then(|address: IpAddr| pods.get(&address).cloned());
    }

    /// Whether the client's next connection goes to this backend.
    pub fn is_followed(&self) -> bool {
        self.state == State::Followed
    }
}

fn client(key: &AffinityKey) -> String {
    match key.netns() {
        Some(cookie) => format!("netns:{cookie}"),
        None => IpAddr::from(Ipv6Addr::from(key.client)).to_canonical().to_string(),
    }
}

impl Row for AffinityRow {
    const LIST: &'static str = "affinity";

    fn service(&self) -> Option<&ServicePort> {
        Some(&self.service)
    }

    fn id(&self) -> String {
        // A pod may have an entry of its namespace and one of its address.
        let netns = self.netns.map(|cookie| format!(" in netns:{cookie}")).unwrap_or_default();
        format!("{}{netns} ({}) of {}", self.client, self.family, self.service.text())
    }

    fn name(&self) -> String {
        self.client.clone()
    }

    fn header(is_wide: bool) -> Vec<&'static str> {
        let mut header = vec!["CLIENT", "SERVICE", "BACKEND", "AGE", "EXPIRES IN"];
        header.extend(is_wide.then_some(["PROTOCOL", "STATE", "ADDRESS"]).into_iter().flatten());
        header
    }

    fn cells(&self, is_wide: bool) -> Vec<String> {
        let backend = self.backend.map_or_else(|| "-".to_owned(), |backend| backend.to_string());
        let time = |seconds: u64| human_duration(seconds.cast_signed());
        let left = self.expires_in_seconds.map_or_else(|| self.state.text().to_owned(), time);
        let client = self.pod.as_ref().unwrap_or(&self.client).clone();
        let mut cells = vec![client, self.service.text(), backend, time(self.age_seconds), left];
        if is_wide {
            let protocol = self.protocol.clone().unwrap_or_else(|| "?".to_owned());
            cells.extend([protocol, self.state.text().to_owned(), self.client.clone()]);
        }
        cells
    }

    fn is_unchanged(&self, earlier: &Self) -> bool {
        let key = |row: &Self| (row.backend, row.state, row.last_used, row.pod.clone());
        key(self) == key(earlier)
    }
}

impl State {
    fn text(self) -> &'static str {
        match self {
            Self::Followed => "followed",
            Self::Expired => "expired",
            Self::Gone => "gone",
            Self::Off => "off",
        }
    }
}
