//! Deserialisation of the fields in use only: `managedFields` alone is often larger than the rest of an object.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{
            Namespace, Node, NodeSpec, NodeStatus, Pod, PodStatus, Service, ServiceSpec, ServiceStatus,
        },
        discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
        networking::v1::{ServiceCIDR, ServiceCIDRSpec},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::versions::Name;
use crate::k8s::{
    endpoint_slice::TRIGGER_TIME,
    names::intern,
    object::{Kind, Object},
};

/// The metadata fields in use.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    name: String,
    namespace: String,
    resource_version: String,
    labels: Option<BTreeMap<String, String>>,
    deletion_timestamp: Option<Time>,
    annotations: Option<Annotations>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Annotations {
    #[serde(rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    triggered: Option<String>,
}

impl Annotations {
    fn full(&self) -> Option<BTreeMap<String, String>> {
        let triggered = self.triggered.clone()?;
        Some(BTreeMap::from([(TRIGGER_TIME.to_owned(), triggered)]))
    }
}

impl Metadata {
    /// The resourceVersion, which orders the states of an object; 0 if it is missing.
    pub fn version(&self) -> u64 {
        self.resource_version.parse().unwrap_or_default()
    }

    pub fn name(&self) -> Name {
        (intern(&self.namespace), intern(&self.name))
    }

    fn full(&self) -> ObjectMeta {
        let filled = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        ObjectMeta {
            name: filled(&self.name),
            namespace: filled(&self.namespace),
            labels: self.labels.clone(),
            deletion_timestamp: self.deletion_timestamp.clone(),
            annotations: self.annotations.as_ref().and_then(Annotations::full),
            ..ObjectMeta::default()
        }
    }
}

#[derive(Deserialize)]
struct Named {
    metadata: Metadata,
}

/// Reads the metadata only, of an object whose other fields may be malformed.
pub fn metadata(json: &[u8]) -> Result<Metadata, serde_json::Error> {
    serde_json::from_slice::<Named>(json).map(|named| named.metadata)
}

#[derive(Deserialize)]
struct Slim<Spec, Status> {
    metadata: Metadata,
    #[serde(default = "Option::default")]
    spec: Option<Spec>,
    #[serde(default = "Option::default")]
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimSlice {
    metadata: Metadata,
    #[serde(default)]
    address_type: String,
    #[serde(default)]
    endpoints: Option<Vec<Endpoint>>,
    #[serde(default)]
    ports: Option<Vec<EndpointPort>>,
}

/// A part of an object that is not in use.
type Unread = serde::de::IgnoredAny;

/// Reads an object of a kind, with its metadata.
pub fn read(kind: Kind, json: &[u8]) -> Result<(Metadata, Object), serde_json::Error> {
    match kind {
        Kind::Service => slim(json, |metadata, spec: Option<ServiceSpec>, status: Option<ServiceStatus>| {
            Object::Service(Box::new(Service { metadata, spec, status }))
        }),
        Kind::EndpointSlice => endpoint_slice(json),
        Kind::Node => slim(json, |metadata, spec: Option<NodeSpec>, status: Option<NodeStatus>| {
            Object::Node(Box::new(Node { metadata, spec, status }))
        }),
        Kind::ServiceCidr => slim(json, |metadata, spec: Option<ServiceCIDRSpec>, _: Option<Unread>| {
            Object::ServiceCidr(Box::new(ServiceCIDR { metadata, spec, status: None }))
        }),
        Kind::Namespace => slim(json, |metadata, _: Option<Unread>, _: Option<Unread>| {
            Object::Namespace(Box::new(Namespace { metadata, ..Namespace::default() }))
        }),
        Kind::Pod => slim(json, |metadata, _: Option<Unread>, status: Option<PodStatus>| {
            Object::Pod(Box::new(Pod { metadata, spec: None, status }))
        }),
        // Not watched: the control plane mirrors Endpoints to EndpointSlices.
        Kind::Endpoints => {
            let endpoints: k8s_openapi::api::core::v1::Endpoints = serde_json::from_slice(json)?;
            Ok((metadata(json)?, Object::Endpoints(Box::new(endpoints))))
        }
    }
}

fn slim<Spec: DeserializeOwned, Status: DeserializeOwned>(
    json: &[u8],
    build: impl FnOnce(ObjectMeta, Option<Spec>, Option<Status>) -> Object,
) -> Result<(Metadata, Object), serde_json::Error> {
    let Slim { metadata, spec, status } = serde_json::from_slice::<Slim<Spec, Status>>(json)?;
    let object = build(metadata.full(), spec, status);
    Ok((metadata, object))
}

fn endpoint_slice(json: &[u8]) -> Result<(Metadata, Object), serde_json::Error> {
    let SlimSlice { metadata, address_type, endpoints, ports } = serde_json::from_slice(json)?;
    let slice = EndpointSlice { address_type, endpoints, metadata: metadata.full(), ports };
    Ok((metadata, Object::EndpointSlice(Box::new(slice))))
}
