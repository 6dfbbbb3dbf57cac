//! Fields that the API does not have, as kubectl's strict validation reports them.

use k8s_openapi::api::{
    core::v1::{Endpoints, Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::object::Kind;

/// The paths of unknown fields. Empty also for an object with a field of the wrong type: that is reported elsewhere.
pub fn unknown_fields(kind: Kind, object: &Value) -> Vec<String> {
    match kind {
        Kind::Service => unknown::<Service>(object),
        Kind::EndpointSlice => unknown::<EndpointSlice>(object),
        Kind::Endpoints => unknown::<Endpoints>(object),
        Kind::Node => unknown::<Node>(object),
        Kind::ServiceCidr => unknown::<ServiceCIDR>(object),
        Kind::Namespace => unknown::<Namespace>(object),
        Kind::Pod => unknown::<Pod>(object),
        // Its type here has only the fields in use.
        Kind::ServiceImport => Vec::new(),
    }
}

fn unknown<T: DeserializeOwned>(object: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    let read: Result<T, _> = serde_ignored::deserialize(object, |path| unknown.push(path.to_string()));
    // The path names optional fields with a question mark: `spec.?.ports.?.0.prot`.
    let plain = |path: String| path.split('.').filter(|step| *step != "?").collect::<Vec<_>>().join(".");
    read.map(|_| unknown.into_iter().map(plain).collect()).unwrap_or_default()
}
