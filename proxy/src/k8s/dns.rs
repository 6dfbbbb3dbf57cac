//! Conversion of objects to changes of the DNS zone: Services, EndpointSlices, Endpoints, Namespaces, Pods.

use std::sync::Arc;

use dns::{
    address::parse_ip,
    cluster::{
        snapshot::Index,
        zone::{self, Change, ObjectName, ReadOptions, ServiceKey},
    },
};

use k8s_openapi::api::core::v1::PodStatus;

use super::{
    HEADLESS, endpoints, has_label,
    object::{Kind, Object, ObjectId},
    service_import,
};

/// Returns the change of the DNS zone that an object causes, or `None` if DNS does not use it.
pub fn change(object: &Object, options: &ReadOptions) -> Option<Change> {
    let id = object.id().ok()?;
    Some(match object {
        Object::Service(service) => {
            if !options.selects(service.metadata.labels.as_ref()) {
                return Some(Change::Service(key(&id)?, None));
            }
            let read = zone::service(service, options);
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
        Object::ServiceImport(import) if options.multicluster => {
            Change::Import(key(&id)?, Some(Arc::new(service_import::read(&import.spec))))
        }
        Object::Node(_) | Object::ServiceCidr(_) | Object::ServiceImport(_) => return None,
    })
}

/// The addresses of an object that have no records, as they cannot be parsed. `is_lb_on`: without those that the load
/// balancer's conversion reports.
pub fn unreadable_addresses<'o>(object: &'o Object, options: &ReadOptions, is_lb_on: bool) -> Vec<&'o str> {
    let mut stated: Vec<&str> = Vec::new();
    match object {
        Object::Service(service) if !is_lb_on => {
            let spec = service.spec.iter();
            let ips = spec.flat_map(|spec| spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten()));
            stated.extend(ips.map(String::as_str).filter(|ip| !["", "None"].contains(ip)));
        }
        Object::EndpointSlice(slice) => {
            let is_reported = is_lb_on && !has_label(&slice.metadata, HEADLESS);
            if !is_reported && slice.address_type != "FQDN" {
                let endpoints = slice.endpoints.iter().flatten();
                stated
                    .extend(endpoints.filter_map(|endpoint| endpoint.addresses.first()).map(String::as_str));
            }
        }
        Object::Pod(pod) if options.pods => {
            let ips = |status: &'o PodStatus| {
                let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
                all.chain(status.pod_ip.as_deref())
            };
            stated.extend(pod.status.iter().flat_map(ips));
        }
        Object::Service(_)
        | Object::Pod(_)
        | Object::Endpoints(_)
        | Object::Namespace(_)
        | Object::Node(_)
        | Object::ServiceCidr(_)
        | Object::ServiceImport(_) => {}
    }
    stated.retain(|text| parse_ip(text).is_none());
    stated.sort_unstable();
    stated.dedup();
    stated
}

/// Returns the change of the DNS zone when an object is deleted.
pub fn removal(id: &ObjectId) -> Option<Change> {
    Some(match id.kind {
        Kind::Service => Change::Service(key(id)?, None),
        Kind::EndpointSlice => Change::Slice(object_name(id), None),
        Kind::Endpoints => Change::Endpoints(key(id)?, None),
        Kind::Namespace => Change::Namespace(id.name.clone(), false),
        Kind::Pod => Change::Pod(object_name(id), None),
        Kind::ServiceImport => Change::Import(key(id)?, None),
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
                Some(Change::Slice(..) | Change::Endpoints(..) | Change::Import(..)) | None => {
                    panic!("{kind}")
                }
            };
            assert_eq!(is_present, want, "{kind} {labels}");
        }
    }

    #[test]
    fn imported_services_are_read_for_zones_of_several_clusters_only() {
        let spec = json!({"type": "ClusterSetIP", "ips": ["10.42.0.1", "x"],
            "ports": [{"name": "tcp", "port": 42, "protocol": "TCP"}]});
        let import = json!({"metadata": {"name": "hello", "namespace": "demo"}, "spec": spec});
        let import = Object::ServiceImport(serde_json::from_value(import).unwrap());
        let labels = json!({"multicluster.kubernetes.io/service-name": "hello",
            "multicluster.kubernetes.io/source-cluster": "East"});
        let slice = json!({"metadata": {"name": "x", "namespace": "demo", "labels": labels},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.1.0.1"]}]});
        let slice = Object::EndpointSlice(serde_json::from_value(slice).unwrap());
        let options = ReadOptions { multicluster: true, ..ReadOptions::default() };
        let Some(Change::Import(key, Some(service))) = change(&import, &options) else { panic!() };
        assert_eq!(key.to_string(), "demo/hello");
        let zone::ServiceKind::ClusterIp { addresses, ports } = &service.kind else { panic!() };
        assert_eq!((addresses.len(), ports.len()), (1, 1));
        let Some(Change::Slice(_, Some(slice_read))) = change(&slice, &options) else { panic!() };
        assert_eq!(slice_read.cluster.as_deref(), Some("east"));
        assert!(change(&import, &ReadOptions::default()).is_none());
        assert!(matches!(change(&slice, &ReadOptions::default()), Some(Change::Slice(_, None))));
    }

    /// As in the load balancer, leading zeros are decimal.
    #[test]
    fn addresses_with_leading_zeros_have_records() {
        let service = |name: &str, ip: &str| {
            let ports = json!([{"name": "http", "port": 80}]);
            let value = json!({"metadata": {"name": name}, "spec": {"clusterIP": ip, "ports": ports}});
            Object::Service(serde_json::from_value(value).unwrap())
        };
        let slice = json!({
            "metadata": {"name": "hl-x", "labels": {"kubernetes.io/service-name": "hl"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["010.244.001.020"]}],
        });
        let plain = service("plain", "10.96.0.041");
        assert_eq!(records([&plain].into_iter()), records([&service("plain", "10.96.0.41")].into_iter()));
        let headless = [service("hl", "None"), Object::EndpointSlice(serde_json::from_value(slice).unwrap())];
        // The Service, its endpoint, and the PTR record.
        assert_eq!(records(headless.iter()), 3);
    }

    #[test]
    fn unreadable_addresses_are_named() {
        let slice = |headless: bool| {
            let labels = if headless { json!({HEADLESS: ""}) } else { json!({}) };
            let endpoints = json!([{"addresses": ["10.244.1.300"]}, {"addresses": ["010.244.001.020"]}]);
            let value =
                json!({"metadata": {"labels": labels}, "addressType": "IPv4", "endpoints": endpoints});
            Object::EndpointSlice(serde_json::from_value(value).unwrap())
        };
        let spec = json!({"clusterIP": "10.96.0.x", "clusterIPs": ["10.96.0.x"]});
        let service = Object::Service(serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap());
        let status = json!({"podIP": "10.244.1.x", "podIPs": [{"ip": "10.244.1.x"}, {"ip": "fd00::01"}]});
        let pod = Object::Pod(serde_json::from_value(json!({"metadata": {}, "status": status})).unwrap());
        let options = ReadOptions { pods: true, ..ReadOptions::default() };
        // With the load balancer, only those that its conversion does not report.
        for (object, alone, beside_lb) in [
            (slice(true), vec!["10.244.1.300"], vec!["10.244.1.300"]),
            (slice(false), vec!["10.244.1.300"], vec![]),
            (service, vec!["10.96.0.x"], vec![]),
            (pod.clone(), vec!["10.244.1.x"], vec!["10.244.1.x"]),
        ] {
            assert_eq!(unreadable_addresses(&object, &options, false), alone);
            assert_eq!(unreadable_addresses(&object, &options, true), beside_lb);
        }
        assert!(unreadable_addresses(&pod, &ReadOptions::default(), false).is_empty(), "no pod has a name");
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
