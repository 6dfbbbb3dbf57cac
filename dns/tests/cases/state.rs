//! The format of the case files.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Deserialize)]
struct File {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
pub struct Group {
    pub id: String,
    #[serde(default)]
    pub config: Settings,
    pub upstream: Option<Zone>,
    #[serde(default)]
    pub stub_domains: BTreeMap<String, Zone>,
    pub objects: Vec<Value>,
    pub queries: Vec<Query>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Settings {
    pub zones: Vec<String>,
    pub pods: String,
    pub ttl: u32,
    pub fallthrough: Vec<String>,
    pub namespaces: Vec<String>,
    pub ignore_empty_service: bool,
    pub endpoint_pod_names: bool,
    pub synced: bool,
    pub server_ips: Vec<String>,
    pub multicluster_zones: Vec<String>,
    pub zonal: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            zones: vec!["cluster.local".to_owned()],
            pods: "disabled".to_owned(),
            ttl: 5,
            fallthrough: Vec::new(),
            namespaces: Vec::new(),
            ignore_empty_service: false,
            endpoint_pod_names: false,
            synced: true,
            server_ips: Vec::new(),
            multicluster_zones: Vec::new(),
            zonal: false,
        }
    }
}

/// The records of an upstream: `name ttl type rdata`, one per line.
#[derive(Clone, Debug, Deserialize)]
pub struct Zone {
    pub records: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Query {
    pub id: String,
    pub qname: String,
    pub qtype: String,
    #[serde(default = "query_opcode")]
    pub opcode: Value,
    #[serde(default = "internet")]
    pub qclass: String,
    #[serde(default = "one")]
    pub qdcount: u16,
    #[serde(default = "yes")]
    pub rd: bool,
    pub edns: Option<Edns>,
    pub transport: Option<String>,
    pub opt: Option<bool>,
    pub tc: Option<bool>,
    pub ra: Option<bool>,
    pub max_len: Option<usize>,
    #[serde(default)]
    pub case_exact_owner: bool,
    pub answer_exact_count: Option<usize>,
    pub authority_zone: Option<String>,
    pub soa_rdata_check: Option<String>,
    pub level: String,
    #[serde(flatten)]
    pub expected: Expectation,
    #[serde(default)]
    pub also_accept: Vec<Expectation>,
    #[serde(default)]
    pub notes: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Expectation {
    pub rcode: String,
    #[serde(default)]
    pub answer: Vec<Record>,
    pub answer_mode: Option<String>,
    pub rcode_any: Option<Vec<String>>,
    #[serde(default)]
    pub extra: Vec<Record>,
    pub authority_soa: Option<bool>,
    #[serde(default = "yes")]
    pub authority_soa_check: bool,
    pub aa: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Edns {
    #[serde(default = "flag_day")]
    pub udp_size: u16,
    #[serde(default, rename = "do")]
    pub dnssec_ok: bool,
    #[serde(default)]
    pub version: u8,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Record {
    pub name: String,
    #[serde(rename = "type")]
    pub rtype: String,
    pub ttl: Option<u32>,
    pub rdata: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

impl Query {
    /// The transports to test: both, unless the case names one or is about message sizes over UDP.
    pub fn transports(&self) -> Vec<Transport> {
        let is_about_udp = self.tc.is_some() || self.max_len.is_some();
        match self.transport.as_deref() {
            Some("tcp") => vec![Transport::Tcp],
            Some(_) => vec![Transport::Udp],
            None if is_about_udp => vec![Transport::Udp],
            None => vec![Transport::Udp, Transport::Tcp],
        }
    }
}

fn query_opcode() -> Value {
    Value::from(0)
}

fn internet() -> String {
    "IN".to_owned()
}

fn one() -> u16 {
    1
}

fn yes() -> bool {
    true
}

fn flag_day() -> u16 {
    1232
}

pub fn groups() -> Vec<Group> {
    let files =
        [include_str!("../../testdata/cases/dns.json"), include_str!("../../testdata/cases/more.json")];
    files.into_iter().flat_map(|text| serde_json::from_str::<File>(text).unwrap().groups).collect()
}
