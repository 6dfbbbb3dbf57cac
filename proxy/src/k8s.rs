//! Conversion of Kubernetes objects to the values of the model. No other module names Kubernetes types.
//!
//! An invalid value that the object cannot do without rejects this object only. An invalid value that kube-proxy
//! tolerates is ignored and reported.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use self::names::intern;
use crate::model::{
    address::{IpFamily, Protocol, UnknownProtocol, parse_ip},
    service::ServiceKey,
};

pub mod access;
pub mod defaults;
pub mod dns;
pub mod endpoint_slice;
pub mod endpoints;
pub mod events;
pub mod lenient;
mod names;
pub mod node;
pub mod object;
pub mod reader;
pub mod service;
pub mod service_cidr;
pub mod service_import;
pub mod strict;
pub mod tree;
pub mod watch;

/// Label that assigns a Service to another proxy. Its presence counts, not its value.
const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Label on the slices of headless Services, which only DNS needs.
const HEADLESS: &str = "service.kubernetes.io/headless";
const DEFAULT_NAMESPACE: &str = "default";

/// The reason an object, or one of its fields, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    #[error("metadata.name is missing")]
    Nameless,
    #[error("{field}: {value} is not a port (1 to 65535)")]
    Port { field: String, value: i32 },
    #[error("{field}: `{value}` is not an IP address")]
    Address { field: String, value: String },
    #[error("{field}: {value} is the unspecified address")]
    Unspecified { field: String, value: IpAddr },
    #[error("{field}: {value} is not an {family} address")]
    Family { field: String, value: IpAddr, family: IpFamily },
    #[error("{field}: `{value}` is not a network in CIDR notation")]
    Network { field: String, value: String },
    #[error("{field}: {source}")]
    Protocol {
        field: String,
        #[source]
        source: UnknownProtocol,
    },
    #[error("spec.clusterIP is empty: an API server would assign an address, a file has to state it")]
    NoClusterIp,
    #[error("spec.clusterIPs has no address for any of spec.ipFamilies")]
    NoClusterIps,
    #[error("addressType `{0}` is none of IPv4, IPv6, FQDN")]
    AddressType(String),
}

/// The model value of an object, and the errors of the fields that were ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed<T> {
    pub value: T,
    pub ignored: Vec<ObjectError>,
}

impl<T> Parsed<T> {
    fn complete(value: T) -> Self {
        Self { value, ignored: Vec::new() }
    }

    fn map<U>(self, convert: impl FnOnce(T) -> U) -> Parsed<U> {
        Parsed { value: convert(self.value), ignored: self.ignored }
    }
}

/// Namespace and name. Manifest files may omit the namespace: it is then `default`.
pub fn key(metadata: &ObjectMeta) -> Result<ServiceKey, ObjectError> {
    let name = metadata.name.as_deref().filter(|name| !name.is_empty()).ok_or(ObjectError::Nameless)?;
    let namespace = metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    Ok(ServiceKey { namespace: intern(namespace.unwrap_or(DEFAULT_NAMESPACE)), name: intern(name) })
}

fn has_label(metadata: &ObjectMeta, label: &str) -> bool {
    metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(label))
}

fn label<'a>(metadata: &'a ObjectMeta, label: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(label).map(String::as_str)
}

fn port(field: impl FnOnce() -> String, value: i32) -> Result<u16, ObjectError> {
    match u16::try_from(value) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(ObjectError::Port { field: field(), value }),
    }
}

/// Absent or empty (Go's zero value) means TCP, the API server's default.
fn protocol(field: impl FnOnce() -> String, value: Option<&str>) -> Result<Protocol, ObjectError> {
    let parsed = value.filter(|text| !text.is_empty()).unwrap_or("TCP").parse();
    parsed.map_err(|source| ObjectError::Protocol { field: field(), source })
}

/// Parses an address other than the unspecified one. In the maps the unspecified address is the key of NodePorts: a
/// Service with it would be served at every address of the node.
fn specified_address(field: impl Fn() -> String, text: &str) -> Result<IpAddr, ObjectError> {
    match parse_ip(text) {
        Some(value) if value.is_unspecified() => Err(ObjectError::Unspecified { field: field(), value }),
        Some(value) => Ok(value),
        None => Err(ObjectError::Address { field: field(), value: text.to_owned() }),
    }
}

/// Parses an address of the given family: there is no translation between families.
fn address_of_family(
    field: impl Fn() -> String,
    text: &str,
    family: IpFamily,
) -> Result<IpAddr, ObjectError> {
    let value = specified_address(&field, text)?;
    if IpFamily::of(value) != family {
        return Err(ObjectError::Family { field: field(), value, family });
    }
    Ok(value)
}

#[cfg(test)]
mod tests;
