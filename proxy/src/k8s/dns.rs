//! Conversion of objects to changes of the DNS zone: Services, EndpointSlices, Endpoints, Namespaces, Pods.

use std::sync::Arc;

use dns::cluster::{
    snapshot::Index,
    zone::{self, Change, ObjectName, ReadOptions, ServiceKey},
};

use super::{
    endpoints,
    object::{Kind, Object, ObjectId},
};

/// Returns the change of the DNS zone that an object causes, or `None` if DNS does not use it.
pub fn change(object: &Object, options: &ReadOptions) -> Option<Change> {
    let id = object.id().ok()?;
    Some(match object {
        Object::Service(service) => {
            if !options.selects(service.metadata.labels.as_ref()) {
                return Some(Change::Service(key(&id)?, None));
            }
            let read = zone::service(service);
            if zone::is_unresolvable_alias(service, &read) {
                let reason = "spec.externalName is an address or not a domain name: no CNAME record";
                tracing::warn!(object = %id, reason, "ExternalName Service ignored");
            }
            Change::Service(key(&id)?, Some(Arc::new(read)))
        }
        Object::EndpointSlice(slice) => {
            let name = object_name(&id);
            let slice = zone::slice(&name, slice, options).map(Arc::new);
            Change::Slice(name, slice)
        }
        Object::Endpoints(endpoints) => {
            // Invalid fields were reported when the load balancer's conversion read the object.
            let slices = endpoints::mirror(endpoints).ok()?.value;
            let name = object_name(&id);
            let slices = slices.iter().filter_map(|slice| zone::slice(&name, slice, options));
            Change::Endpoints(key(&id)?, Some(slices.map(Arc::new).collect()))
        }
        Object::Namespace(namespace) => {
            Change::Namespace(id.name, options.selects_namespace(namespace.metadata.labels.as_ref()))
        }
        Object::Pod(pod) => {
            let is_wanted = options.pods && options.selects(pod.metadata.labels.as_ref());
            let pod = zone::pod(pod).filter(|_| is_wanted);
            Change::Pod(object_name(&id), pod.map(Arc::new))
        }
        Object::Node(_) | Object::ServiceCidr(_) => return None,
    })
}

/// Returns the change of the DNS zone when an object is deleted.
pub fn removal(id: &ObjectId) -> Option<Change> {
    Some(match id.kind {
        Kind::Service => Change::Service(key(id)?, None),
        Kind::EndpointSlice => Change::Slice(object_name(id), None),
        Kind::Endpoints => Change::Endpoints(key(id)?, None),
        Kind::Namespace => Change::Namespace(id.name.clone(), false),
        Kind::Pod => Change::Pod(object_name(id), None),
        Kind::Node | Kind::ServiceCidr => return None,
    })
}

/// Counts the DNS records of these objects.
pub fn records<'a>(objects: impl Iterator<Item = &'a Object>) -> usize {
    let mut index = Index::default();
    objects
        .filter_map(|object| change(object, &ReadOptions::default()))
        .for_each(|change| index.apply(change));
    index.snapshot(0).records().count()
}

fn key(id: &ObjectId) -> Option<ServiceKey> {
    ServiceKey::new(&id.namespace, &id.name)
}

fn object_name(id: &ObjectId) -> ObjectName {
    ObjectName { namespace: id.namespace.clone(), name: id.name.clone() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_objects_with_the_labels_have_records() {
        let options = ReadOptions {
            labels: Some("tier=web".parse().unwrap()),
            namespace_labels: Some("!hidden".parse().unwrap()),
            pods: true,
            ..ReadOptions::default()
        };
        let object = |kind: &str, labels: serde_json::Value| {
            let metadata = json!({"name": "x", "namespace": "shop", "labels": labels});
            let status = json!({"podIP": "10.1.0.1", "phase": "Running"});
            let value = json!({"metadata": metadata, "spec": {"clusterIP": "10.96.0.1", "containers": []}});
            match kind {
                "Service" => Object::Service(serde_json::from_value(value).unwrap()),
                "Pod" => {
                    let value = json!({"metadata": metadata, "status": status});
                    Object::Pod(serde_json::from_value(value).unwrap())
                }
                _ => Object::Namespace(serde_json::from_value(json!({"metadata": metadata})).unwrap()),
            }
        };
        for (kind, labels, want) in [
            ("Service", json!({"tier": "web"}), true),
            ("Service", json!({"tier": "api"}), false),
            ("Service", json!(null), false),
            ("Pod", json!({"tier": "web"}), true),
            ("Pod", json!({}), false),
            ("Namespace", json!({"hidden": ""}), false),
            ("Namespace", json!(null), true),
        ] {
            let is_present = match change(&object(kind, labels.clone()), &options) {
                Some(Change::Service(_, service)) => service.is_some(),
                Some(Change::Pod(_, pod)) => pod.is_some(),
                Some(Change::Namespace(_, exists)) => exists,
                Some(Change::Slice(..) | Change::Endpoints(..)) | None => panic!("{kind}"),
            };
            assert_eq!(is_present, want, "{kind} {labels}");
        }
    }

    #[test]
    fn endpoints_have_records_if_the_control_plane_would_mirror_them() {
        let endpoints = json!({"metadata": {"name": "db"}, "subsets": [{"addresses": [{"ip": "10.1.0.1"}]}]});
        for (name, selector, want) in [
            ("no selector", json!(null), 3),
            ("an empty one", json!({}), 3),
            ("pods are selected", json!({"app": "db"}), 0),
        ] {
            let service =
                json!({"metadata": {"name": "db"}, "spec": {"clusterIP": "None", "selector": selector}});
            let objects = [
                Object::Service(serde_json::from_value(service).unwrap()),
                Object::Endpoints(serde_json::from_value(endpoints.clone()).unwrap()),
            ];
            // The Service, its one endpoint, and the PTR record.
            assert_eq!(records(objects.iter()), want, "{name}");
        }
    }
}
