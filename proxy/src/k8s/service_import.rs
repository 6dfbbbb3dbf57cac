//! ServiceImports of the Multi-Cluster Services API (KEP-1645), which only DNS reads.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use ::dns::cluster::zone::{self, StatedPort};

/// The fields in use.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ServiceImport {
    pub metadata: ObjectMeta,
    pub spec: ServiceImportSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServiceImportSpec {
    /// `ClusterSetIP` or `Headless`.
    #[serde(rename = "type")]
    pub type_: String,
    /// The addresses of the Service in the cluster set.
    pub ips: Vec<String>,
    pub ports: Vec<ServiceImportPort>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServiceImportPort {
    pub name: Option<String>,
    pub protocol: Option<String>,
    pub port: i32,
}

/// The Service as DNS serves it.
pub fn read(ServiceImportSpec { type_, ips, ports }: &ServiceImportSpec) -> zone::Service {
    let ports = ports.iter().map(|port| StatedPort {
        name: port.name.as_deref(),
        protocol: port.protocol.as_deref(),
        number: port.port,
    });
    zone::import(type_ == "Headless", ips.iter().map(String::as_str), ports)
}
