//! From Kubernetes objects to the narrow values of the model. Nothing else names Kubernetes types.
//!
//! A value that makes an object meaningless rejects that object alone; one that kube-proxy tolerates is left out and
//! reported.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use self::names::intern;
use crate::model::{
    address::{IpFamily, Protocol, UnknownProtocol, parse_ip},
    service::ServiceKey,
};

pub mod access;
pub mod dns;
pub mod endpoint_slice;
pub mod endpoints;
pub mod events;
mod names;
pub mod node;
pub mod object;
pub mod reader;
pub mod service;
pub mod service_cidr;
pub mod watch;

/// Its presence, with whatever value, gives a Service to another proxy.
const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Its presence hides the slices of headless Services, which only DNS needs.
const HEADLESS: &str = "service.kubernetes.io/headless";
const DEFAULT_NAMESPACE: &str = "default";

/// Why an object, or a part of one, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    #[error("metadata.name is missing")]
    Nameless,
    #[error("{field}: {value} is not a port (1 to 65535)")]
    Port { field: String, value: i32 },
    #[error("{field}: `{value}` is not an IP address")]
    Address { field: String, value: String },
    #[error("{field}: {value} stands for every address and is none itself")]
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

/// The value of an object, and what of it had to be left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read<T> {
    pub value: T,
    pub left_out: Vec<ObjectError>,
}

impl<T> Read<T> {
    fn whole(value: T) -> Self {
        Self { value, left_out: Vec::new() }
    }

    fn map<U>(self, convert: impl FnOnce(T) -> U) -> Read<U> {
        Read { value: convert(self.value), left_out: self.left_out }
    }
}

/// Namespace and name. Files need not say `default`, so we do.
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

/// Absent means TCP, as the API server would have filled in; empty is how Go spells absent.
fn protocol(field: impl FnOnce() -> String, value: Option<&str>) -> Result<Protocol, ObjectError> {
    let parsed = value.filter(|text| !text.is_empty()).unwrap_or("TCP").parse();
    parsed.map_err(|source| ObjectError::Protocol { field: field(), source })
}

/// An address that something can be reached at. The unspecified one is none: to the programs it is the key of NodePorts,
/// so that a Service with it would be served at every address of the node.
fn dialled(field: impl Fn() -> String, text: &str) -> Result<IpAddr, ObjectError> {
    match parse_ip(text) {
        Some(value) if value.is_unspecified() => Err(ObjectError::Unspecified { field: field(), value }),
        Some(value) => Ok(value),
        None => Err(ObjectError::Address { field: field(), value: text.to_owned() }),
    }
}

/// One that has to belong to a family: nothing is ever translated across.
fn address(field: impl Fn() -> String, text: &str, family: IpFamily) -> Result<IpAddr, ObjectError> {
    let value = dialled(&field, text)?;
    if IpFamily::of(value) != family {
        return Err(ObjectError::Family { field: field(), value, family });
    }
    Ok(value)
}

#[cfg(test)]
mod tests;
