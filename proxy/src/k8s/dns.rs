//! What cluster DNS is fed with: Services, and everything that tells their endpoints.

use std::collections::HashSet;

use dns::zone::Record;
use k8s_openapi::api::{
    core::v1::{Endpoints, Service},
    discovery::v1::EndpointSlice,
};

use super::{endpoints, key, object::Object};
use crate::model::service::ServiceKey;

/// The records that these objects make.
pub fn records<'a>(objects: impl Iterator<Item = &'a Object>) -> Vec<Record> {
    let (mut services, mut slices, mut unmirrored) = (Vec::new(), Vec::new(), Vec::new());
    for object in objects {
        match object {
            Object::Service(service) => services.push(&**service),
            Object::EndpointSlice(slice) => slices.push(&**slice),
            Object::Endpoints(endpoints) => unmirrored.push(&**endpoints),
            Object::Node(_) | Object::ServiceCidr(_) | Object::Namespace(_) | Object::Pod(_) => {}
        }
    }
    let mirrored = mirrored(&services, &unmirrored);
    slices.extend(&mirrored);
    dns::zone::records(services, slices)
}

/// The control plane mirrors the Endpoints of Services that exist and select no pods.
fn mirrored(services: &[&Service], unmirrored: &[&Endpoints]) -> Vec<EndpointSlice> {
    let selects = |service: &Service| {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|selector| !selector.is_empty())
    };
    let without_selector = services.iter().filter(|service| !selects(service));
    let owners: HashSet<ServiceKey> =
        without_selector.filter_map(|service| key(&service.metadata).ok()).collect();
    let has_owner = |object: &Endpoints| key(&object.metadata).is_ok_and(|key| owners.contains(&key));
    let wanted = unmirrored.iter().filter(|object| has_owner(object));
    wanted.filter_map(|object| endpoints::mirror(object).ok()).flat_map(|read| read.value).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn endpoints_make_records_where_the_control_plane_would_mirror_them() {
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
            // The Service, its one endpoint, and the way back.
            assert_eq!(records(objects.iter()).len(), want, "{name}");
        }
    }
}
