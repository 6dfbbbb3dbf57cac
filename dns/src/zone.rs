//! The records that Services and their endpoints make: plain values, before anybody asks for them.
//!
//! Names are relative to the cluster domain, except the reverse ones, which end in `arpa`.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::{
        core::v1::{Service, ServiceSpec},
        discovery::v1::{Endpoint, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Record {
    pub name: String,
    pub data: Data,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Data {
    Address(IpAddr),
    Srv { port: u16, target: String },
    Ptr(String),
    Cname(String),
}

/// Every record, each once: an address may stand in two slices while endpoints move. Sorted within a Service.
pub fn records<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
) -> Vec<Record> {
    let mut by_service: BTreeMap<(String, String), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        if let Some(owner) = owner(slice) {
            by_service.entry(owner).or_default().push(slice);
        }
    }
    let mut records = Vec::new();
    for service in services {
        let Some(key) = key(&service.metadata) else { continue };
        let slices = by_service.get(&key).map(Vec::as_slice).unwrap_or_default();
        let mut zone = Zone { records: Vec::new() };
        zone.service(&format!("{}.{}.svc", key.1, key.0), service, slices);
        zone.records.sort_unstable();
        zone.records.dedup();
        records.append(&mut zone.records);
    }
    records
}

/// The part of the zone that one Service makes.
struct Zone {
    records: Vec<Record>,
}

impl Zone {
    fn add(&mut self, name: impl Into<String>, data: Data) {
        self.records.push(Record { name: name.into(), data });
    }

    fn service(&mut self, name: &str, service: &Service, slices: &[&EndpointSlice]) {
        let Some(spec) = &service.spec else { return };
        if spec.type_.as_deref() == Some("ExternalName") {
            self.external_name(name, spec);
            return;
        }
        match spec.cluster_ip.as_deref() {
            None | Some("") => {}
            Some("None") => self.headless(name, slices),
            Some(_) => self.cluster_ip(name, spec, slices),
        }
    }

    /// A name that is an address by itself stands for nothing.
    fn external_name(&mut self, name: &str, spec: &ServiceSpec) {
        let target = spec.external_name.as_deref().unwrap_or_default().trim_end_matches('.');
        if !target.is_empty() && target.parse::<IpAddr>().is_err() {
            self.add(name, Data::Cname(target.to_lowercase()));
        }
    }

    fn cluster_ip(&mut self, name: &str, spec: &ServiceSpec, slices: &[&EndpointSlice]) {
        let first = spec.cluster_ip.iter();
        for address in first.chain(spec.cluster_ips.iter().flatten()).filter_map(|text| address(text)) {
            self.add(name, Data::Address(address));
            self.add(reverse_name(address), Data::Ptr(name.to_owned()));
        }
        for port in spec.ports.iter().flatten() {
            let stated = port.name.as_deref().filter(|stated| !stated.is_empty());
            let (Some(stated), Ok(number)) = (stated, u16::try_from(port.port)) else { continue };
            let srv = srv_name(stated, port.protocol.as_deref(), name);
            self.add(srv, Data::Srv { port: number, target: name.to_owned() });
        }
        for (endpoint, address) in ready(slices) {
            self.endpoint(name, endpoint, address);
        }
    }

    fn headless(&mut self, name: &str, slices: &[&EndpointSlice]) {
        for (endpoint, address) in ready(slices) {
            self.add(name, Data::Address(address));
            self.endpoint(name, endpoint, address);
        }
        for slice in slices {
            for (endpoint, address) in ready(&[slice]) {
                self.endpoint_ports(name, slice, &endpoint_name(name, endpoint, address));
            }
        }
    }

    fn endpoint(&mut self, service: &str, endpoint: &Endpoint, address: IpAddr) {
        let name = endpoint_name(service, endpoint, address);
        self.add(reverse_name(address), Data::Ptr(name.clone()));
        self.add(name, Data::Address(address));
    }

    /// The port of a headless Service is the port of its pods: nobody translates one into the other.
    fn endpoint_ports(&mut self, service: &str, slice: &EndpointSlice, target: &str) {
        for port in slice.ports.iter().flatten() {
            let stated = port.name.as_deref().filter(|stated| !stated.is_empty());
            let number = port.port.and_then(|number| u16::try_from(number).ok());
            let (Some(stated), Some(number)) = (stated, number) else { continue };
            let srv = srv_name(stated, port.protocol.as_deref(), service);
            self.add(srv, Data::Srv { port: number, target: target.to_owned() });
        }
    }
}

fn key(metadata: &ObjectMeta) -> Option<(String, String)> {
    let name = metadata.name.as_deref()?;
    Some((namespace(metadata), name.to_lowercase()))
}

fn owner(slice: &EndpointSlice) -> Option<(String, String)> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some((namespace(&slice.metadata), name.to_lowercase()))
}

fn namespace(metadata: &ObjectMeta) -> String {
    metadata.namespace.as_deref().unwrap_or("default").to_lowercase()
}

/// Ready is what does not say it is not; serving and terminating do not count here.
fn ready<'a>(slices: &[&'a EndpointSlice]) -> Vec<(&'a Endpoint, IpAddr)> {
    let mut ready = Vec::new();
    for slice in slices.iter().filter(|slice| slice.address_type != "FQDN") {
        for endpoint in slice.endpoints.iter().flatten() {
            let is_ready =
                endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
            let address = endpoint.addresses.first().and_then(|text| address(text));
            ready.extend(address.filter(|_| is_ready).map(|address| (endpoint, address)));
        }
    }
    ready
}

fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(|address: IpAddr| address.to_canonical())
}

fn endpoint_name(service: &str, endpoint: &Endpoint, address: IpAddr) -> String {
    match endpoint.hostname.as_deref() {
        None | Some("") => format!("{}.{service}", dashed(address)),
        Some(hostname) => format!("{}.{service}", hostname.to_lowercase()),
    }
}

/// A label must not end in a dash, so an address that ends in `::` gets its last zero back.
fn dashed(address: IpAddr) -> String {
    let label = address.to_string().replace(['.', ':'], "-");
    if label.ends_with('-') { label + "0" } else { label }
}

fn srv_name(port: &str, protocol: Option<&str>, service: &str) -> String {
    format!("_{}._{}.{service}", port.to_lowercase(), protocol.unwrap_or("TCP").to_lowercase())
}

fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev().flat_map(|octet| [octet & 0xf, octet >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(name: &str, service: Value, slices: &[Value], want: &[&str]) {
        let service: Service = serde_json::from_value(service).unwrap();
        let slices: Vec<EndpointSlice> =
            slices.iter().map(|slice| serde_json::from_value(slice.clone()).unwrap()).collect();
        let got: Vec<_> = records([&service], &slices).into_iter().map(|record| text(&record)).collect();
        let mut want: Vec<_> = want.iter().map(ToString::to_string).collect();
        let mut sorted = got.clone();
        sorted.sort();
        want.sort();
        assert_eq!(sorted, want, "{name}");
    }

    fn text(record: &Record) -> String {
        match &record.data {
            Data::Address(address) => format!("{} {address}", record.name),
            Data::Srv { port, target } => format!("{} SRV {port} {target}", record.name),
            Data::Ptr(target) => format!("{} PTR {target}", record.name),
            Data::Cname(target) => format!("{} CNAME {target}", record.name),
        }
    }

    fn slice(endpoints: Value) -> Value {
        json!({"metadata": {"name": "s", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"port": 1}],
            "endpoints": endpoints})
    }

    #[test]
    fn services_make_the_records_of_the_dns_specification() {
        let metadata = json!({"name": "web", "namespace": "shop"});
        check(
            "a dual-stack ClusterIP",
            json!({"metadata": metadata, "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
                "ports": [{"name": "http", "port": 80}, {"port": 81, "protocol": "UDP"}]}}),
            &[],
            &[
                "web.shop.svc 10.96.0.1",
                "web.shop.svc fd00::1",
                "_http._tcp.web.shop.svc SRV 80 web.shop.svc",
                "1.0.96.10.in-addr.arpa PTR web.shop.svc",
                "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR web.shop.svc",
            ],
        );
        check(
            "a headless Service",
            json!({"metadata": metadata, "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}}),
            &[
                slice(json!([
                    {"addresses": ["10.1.0.1"], "hostname": "Web-0"},
                    {"addresses": ["10.1.0.2"]},
                    {"addresses": ["10.1.0.3"], "conditions": {"ready": false, "serving": true}}
                ])),
                slice(json!([{"addresses": ["10.1.0.2"], "conditions": {"ready": true}}])),
            ],
            &[
                "web.shop.svc 10.1.0.1",
                "web.shop.svc 10.1.0.2",
                "web-0.web.shop.svc 10.1.0.1",
                "10-1-0-2.web.shop.svc 10.1.0.2",
                "_http._tcp.web.shop.svc SRV 8080 web-0.web.shop.svc",
                "_http._tcp.web.shop.svc SRV 8080 10-1-0-2.web.shop.svc",
                "1.0.1.10.in-addr.arpa PTR web-0.web.shop.svc",
                "2.0.1.10.in-addr.arpa PTR 10-1-0-2.web.shop.svc",
            ],
        );
        check(
            "an ExternalName",
            json!({"metadata": metadata, "spec": {"type": "ExternalName", "externalName": "DB.example.org.",
                "clusterIP": "10.96.0.1"}}),
            &[slice(json!([{"addresses": ["10.1.0.1"]}]))],
            &["web.shop.svc CNAME db.example.org"],
        );
        check(
            "an ExternalName that is an address",
            json!({"metadata": metadata, "spec": {"type": "ExternalName", "externalName": "10.0.0.1"}}),
            &[],
            &[],
        );
        check("a Service without an address", json!({"metadata": metadata, "spec": {"ports": []}}), &[], &[]);
    }

    #[test]
    fn addresses_become_labels() {
        for (text, want) in [("10.1.0.5", "10-1-0-5"), ("fd00:1::a", "fd00-1--a"), ("fd00:1::", "fd00-1--0")]
        {
            assert_eq!(dashed(text.parse().unwrap()), want, "{text}");
        }
    }
}
