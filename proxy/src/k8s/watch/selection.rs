//! The objects to list and watch.

use super::api::Query;
use crate::k8s::{HEADLESS, SERVICE_PROXY_NAME, object::Kind, reader::Reader};

/// A kind with its label and field selectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    pub kind: Kind,
    pub labels: Option<String>,
    pub fields: Option<String>,
}

/// Returns the selections for the load balancer and DNS, which share one watch per kind. Without DNS, selectors exclude
/// the objects that only DNS needs: headless Services, Services of other proxies, Namespaces.
pub fn selections(reader: &Reader) -> Vec<Selection> {
    let lb_only = |selector: String| reader.dns.is_none().then_some(selector);
    let all = |kind| Selection { kind, labels: None, fields: None };
    let mut selections = vec![
        Selection {
            labels: lb_only(format!("!{SERVICE_PROXY_NAME}")),
            fields: lb_only("spec.clusterIP!=None".to_owned()),
            ..all(Kind::Service)
        },
        Selection { labels: lb_only(format!("!{HEADLESS}")), ..all(Kind::EndpointSlice) },
    ];
    if !reader.node_name.is_empty() {
        let own = format!("metadata.name={}", reader.node_name);
        selections.extend([Selection { fields: Some(own), ..all(Kind::Node) }, all(Kind::ServiceCidr)]);
    }
    if let Some(dns) = &reader.dns {
        selections.push(all(Kind::Namespace));
        // The address of a terminated pod may already belong to another pod.
        let not_terminated = "status.phase!=Succeeded,status.phase!=Failed".to_owned();
        selections.extend(dns.pods.then(|| Selection { fields: Some(not_terminated), ..all(Kind::Pod) }));
        selections.extend(dns.multicluster.then(|| all(Kind::ServiceImport)));
    }
    selections
}

impl Selection {
    pub fn path(&self) -> &'static str {
        match self.kind {
            Kind::Service => "/api/v1/services",
            Kind::EndpointSlice => "/apis/discovery.k8s.io/v1/endpointslices",
            Kind::Endpoints => "/api/v1/endpoints",
            Kind::Node => "/api/v1/nodes",
            Kind::ServiceCidr => "/apis/networking.k8s.io/v1/servicecidrs",
            Kind::Namespace => "/api/v1/namespaces",
            Kind::Pod => "/api/v1/pods",
            Kind::ServiceImport => "/apis/multicluster.x-k8s.io/v1alpha1/serviceimports",
        }
    }

    pub fn query(&self) -> Query {
        Query::default()
            .with_some("labelSelector", self.labels.as_ref())
            .with_some("fieldSelector", self.fields.as_ref())
    }

    /// Whether the agent works without this kind, if the server does not serve it or RBAC forbids it.
    pub fn is_optional(&self) -> bool {
        matches!(self.kind, Kind::ServiceCidr | Kind::ServiceImport)
    }
}

#[cfg(test)]
mod tests {
    use dns::cluster::zone::ReadOptions;

    use super::*;

    #[test]
    fn without_dns_selectors_exclude_the_objects_of_dns() {
        let requests = |dns| {
            let reader = Reader { node_name: "node-1".to_owned(), dns };
            selections(&reader)
                .iter()
                .map(|selection| selection.query().target(selection.path()))
                .collect::<Vec<_>>()
        };
        let lb = requests(None);
        assert_eq!(
            lb,
            [
                "/api/v1/services?labelSelector=!service.kubernetes.io/service-proxy-name&fieldSelector=spec.clusterIP!%3DNone",
                "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=!service.kubernetes.io/headless",
                "/api/v1/nodes?fieldSelector=metadata.name%3Dnode-1",
                "/apis/networking.k8s.io/v1/servicecidrs",
            ]
        );
        let dns = requests(Some(ReadOptions { pods: true, multicluster: true, ..ReadOptions::default() }));
        assert_eq!(
            dns,
            [
                "/api/v1/services",
                "/apis/discovery.k8s.io/v1/endpointslices",
                "/api/v1/nodes?fieldSelector=metadata.name%3Dnode-1",
                "/apis/networking.k8s.io/v1/servicecidrs",
                "/api/v1/namespaces",
                "/api/v1/pods?fieldSelector=status.phase!%3DSucceeded,status.phase!%3DFailed",
                "/apis/multicluster.x-k8s.io/v1alpha1/serviceimports",
            ]
        );
    }
}
