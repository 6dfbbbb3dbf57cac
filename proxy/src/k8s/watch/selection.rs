//! Which objects are asked for.

use super::api::Query;
use crate::k8s::{HEADLESS, SERVICE_PROXY_NAME, object::Kind, reader::Reader};

/// The objects of one kind that are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    pub kind: Kind,
    pub labels: Option<String>,
    pub fields: Option<String>,
}

/// One watch serves the load balancer and DNS. The load balancer alone leaves at the server what only DNS needs: headless
/// Services, those of other proxies, namespaces.
pub fn selections(reader: &Reader) -> Vec<Selection> {
    let for_lb = |selector: String| reader.dns.is_none().then_some(selector);
    let all = |kind| Selection { kind, labels: None, fields: None };
    let mut selections = vec![
        Selection {
            labels: for_lb(format!("!{SERVICE_PROXY_NAME}")),
            fields: for_lb("spec.clusterIP!=None".to_owned()),
            ..all(Kind::Service)
        },
        Selection { labels: for_lb(format!("!{HEADLESS}")), ..all(Kind::EndpointSlice) },
    ];
    if !reader.node_name.is_empty() {
        let own = format!("metadata.name={}", reader.node_name);
        selections.extend([Selection { fields: Some(own), ..all(Kind::Node) }, all(Kind::ServiceCidr)]);
    }
    if let Some(dns) = &reader.dns {
        selections.push(all(Kind::Namespace));
        // A pod that has come to its end has no address of its own any more.
        let alive = "status.phase!=Succeeded,status.phase!=Failed".to_owned();
        selections.extend(dns.pods.then(|| Selection { fields: Some(alive), ..all(Kind::Pod) }));
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
        }
    }

    pub fn query(&self) -> Query {
        Query::default()
            .with_some("labelSelector", self.labels.as_ref())
            .with_some("fieldSelector", self.fields.as_ref())
    }

    /// Whether everything works without it, on a server that does not have it or does not let us see it.
    pub fn is_optional(&self) -> bool {
        self.kind == Kind::ServiceCidr
    }
}

#[cfg(test)]
mod tests {
    use dns::cluster::zone::ReadOptions;

    use super::*;

    #[test]
    fn the_load_balancer_alone_leaves_the_rest_at_the_server() {
        let requests = |dns| {
            let reader = Reader { node_name: "node-1".to_owned(), dns };
            selections(&reader)
                .iter()
                .map(|selection| selection.query().of(selection.path()))
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
        let dns = requests(Some(ReadOptions { pods: true, ..ReadOptions::default() }));
        assert_eq!(
            dns,
            [
                "/api/v1/services",
                "/apis/discovery.k8s.io/v1/endpointslices",
                "/api/v1/nodes?fieldSelector=metadata.name%3Dnode-1",
                "/apis/networking.k8s.io/v1/servicecidrs",
                "/api/v1/namespaces",
                "/api/v1/pods?fieldSelector=status.phase!%3DSucceeded,status.phase!%3DFailed",
            ]
        );
    }
}
