//! A Kubernetes object of any supported kind, and its conversion to a change of the index.

use std::{fmt, sync::Arc};

use arcstr::ArcStr;
use k8s_openapi::api::{
    core::v1::{Endpoints, Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
};

use super::{
    ObjectError, Parsed, endpoint_slice, endpoints, key, node, service, service_cidr,
    service_import::ServiceImport,
};
use crate::{
    index::Change,
    model::{
        backend::{SliceKey, SliceSource},
        service::ServiceKey,
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Service,
    EndpointSlice,
    Endpoints,
    Node,
    ServiceCidr,
    Namespace,
    Pod,
    /// A Service of several clusters.
    ServiceImport,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Service,
        Self::EndpointSlice,
        Self::Endpoints,
        Self::Node,
        Self::ServiceCidr,
        Self::Namespace,
        Self::Pod,
        Self::ServiceImport,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Endpoints => "Endpoints",
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::ServiceImport => "ServiceImport",
        }
    }

    /// The plural, for messages.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Service => "Services",
            Self::EndpointSlice => "EndpointSlices",
            Self::Endpoints => "Endpoints",
            Self::Node => "Nodes",
            Self::ServiceCidr => "ServiceCIDRs",
            Self::Namespace => "Namespaces",
            Self::Pod => "Pods",
            Self::ServiceImport => "ServiceImports",
        }
    }

    pub fn api_version(self) -> &'static str {
        match self {
            Self::Service | Self::Endpoints | Self::Node | Self::Namespace | Self::Pod => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::ServiceCidr => "networking.k8s.io/v1",
            // The oldest that is served; what is read is the same in v1beta1.
            Self::ServiceImport => "multicluster.x-k8s.io/v1alpha1",
        }
    }

    /// Whether files may state this version.
    pub fn is_read_as(self, api_version: &str) -> bool {
        let is_newer = self == Self::ServiceImport && api_version == "multicluster.x-k8s.io/v1beta1";
        api_version == self.api_version() || is_newer
    }

    pub fn is_namespaced(self) -> bool {
        match self {
            Self::Service | Self::EndpointSlice | Self::Endpoints | Self::Pod | Self::ServiceImport => true,
            Self::Node | Self::ServiceCidr | Self::Namespace => false,
        }
    }
}

/// Kind, namespace and name of an object. The namespace is empty for cluster-scoped kinds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    pub kind: Kind,
    pub namespace: ArcStr,
    pub name: ArcStr,
}

impl ObjectId {
    fn key(&self) -> ServiceKey {
        ServiceKey { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// Returns the change of the index when the object is deleted.
    pub fn removal(&self, node_name: &str) -> Option<Change> {
        match self.kind {
            Kind::Service => Some(Change::Service(self.key(), None)),
            Kind::EndpointSlice => Some(Change::Slice(slice_key(self.key()), None)),
            Kind::Endpoints => Some(Change::Endpoints(self.key(), None)),
            Kind::Node => (*self.name == *node_name).then_some(Change::Node(None)),
            Kind::ServiceCidr => Some(Change::ServiceCidr(self.name.clone(), None)),
            Kind::Namespace | Kind::Pod | Kind::ServiceImport => None,
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.name();
        if self.kind.is_namespaced() {
            write!(f, "{kind} {}/{}", self.namespace, self.name)
        } else {
            write!(f, "{kind} {}", self.name)
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Service(Box<Service>),
    EndpointSlice(Box<EndpointSlice>),
    Endpoints(Box<Endpoints>),
    Node(Box<Node>),
    ServiceCidr(Box<ServiceCIDR>),
    Namespace(Box<Namespace>),
    Pod(Box<Pod>),
    ServiceImport(Box<ServiceImport>),
}

impl Object {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Endpoints(_) => Kind::Endpoints,
            Self::Node(_) => Kind::Node,
            Self::ServiceCidr(_) => Kind::ServiceCidr,
            Self::Namespace(_) => Kind::Namespace,
            Self::Pod(_) => Kind::Pod,
            Self::ServiceImport(_) => Kind::ServiceImport,
        }
    }

    pub fn id(&self) -> Result<ObjectId, ObjectError> {
        let metadata = match self {
            Self::Service(object) => &object.metadata,
            Self::EndpointSlice(object) => &object.metadata,
            Self::Endpoints(object) => &object.metadata,
            Self::Node(object) => &object.metadata,
            Self::ServiceCidr(object) => &object.metadata,
            Self::Namespace(object) => &object.metadata,
            Self::Pod(object) => &object.metadata,
            Self::ServiceImport(object) => &object.metadata,
        };
        let ServiceKey { namespace, name } = key(metadata)?;
        let kind = self.kind();
        Ok(ObjectId { kind, namespace: if kind.is_namespaced() { namespace } else { "".into() }, name })
    }

    /// Converts the object to a change of the index, with the errors of ignored fields. Returns `None` if the index does
    /// not use the object.
    pub fn change(&self, node_name: &str) -> Result<Option<Parsed<Change>>, ObjectError> {
        let key = self.id()?.key();
        let name = key.name.clone();
        Ok(match self {
            Self::Service(object) => {
                Some(service::read(object)?.map(|info| Change::Service(key, Some(Arc::new(info)))))
            }
            Self::EndpointSlice(object) => Some(endpoint_slice::read(object, node_name)?.map_or_else(
                || Parsed::complete(Change::Slice(slice_key(key.clone()), None)),
                |read| read.map(|info| Change::Slice(slice_key(key.clone()), Some(Arc::new(info)))),
            )),
            Self::Endpoints(object) => Some(endpoints::read(object, node_name)?.map_or_else(
                || Parsed::complete(Change::Endpoints(key.clone(), None)),
                |read| read.map(|slices| Change::Endpoints(key.clone(), Some(slices))),
            )),
            Self::Node(object) if *name == *node_name => {
                Some(Parsed::complete(Change::Node(Some(node::read(object)?))))
            }
            Self::ServiceCidr(object) => {
                Some(service_cidr::read(object).map(|networks| Change::ServiceCidr(name, Some(networks))))
            }
            Self::Node(_) | Self::Namespace(_) | Self::Pod(_) | Self::ServiceImport(_) => None,
        })
    }
}

fn slice_key(ServiceKey { namespace, name }: ServiceKey) -> SliceKey {
    SliceKey { namespace, name, source: SliceSource::Slice }
}
