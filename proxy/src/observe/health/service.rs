//! The response of a healthCheckNodePort: whether a load balancer should send a Service's traffic to this
//! node.

use serde::Serialize;

use super::HealthResponse;
use crate::model::{address::PerFamily, service::ServiceKey};

/// A Service with a healthCheckNodePort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceHealth {
    pub port: u16,
    /// Ready pods of this node; `None` for a family that the Service does not have.
    pub local_endpoints: PerFamily<Option<usize>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: ServiceBody<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct ServiceBody<'a> {
    namespace: &'a str,
    name: &'a str,
}

/// The state of the node is not considered: established flows of a draining node are up to the Service.
pub fn service_response(
    service: &ServiceKey,
    local_endpoints: usize,
    is_proxy_healthy: bool,
) -> HealthResponse {
    let body = Body {
        service: ServiceBody { namespace: &service.namespace, name: &service.name },
        local_endpoints,
        service_proxy_healthy: is_proxy_healthy,
    };
    HealthResponse { is_ok: local_endpoints > 0 && is_proxy_healthy, body: with_tabs(&body) }
}

/// Indented by tabs, as kube-proxy's.
fn with_tabs(body: &Body<'_>) -> String {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    // Serialising plain values into memory does not fail, and JSON is UTF-8.
    let written = body.serialize(&mut serializer);
    written.ok().and_then(|()| String::from_utf8(text).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_kube_proxys() {
        let service = ServiceKey::new("shop", "web");
        for (count, is_healthy, status) in [(0, true, 503), (2, true, 200), (2, false, 503), (0, false, 503)]
        {
            let response = service_response(&service, count, is_healthy);
            assert_eq!(response.status(), status, "{count} {is_healthy}");
            let want = format!(
                "{{\n\t\"service\": {{\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t}},\n\
                 \t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {is_healthy}\n}}"
            );
            assert_eq!(response.body, want);
        }
    }
}
