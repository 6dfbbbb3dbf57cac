//! The name of a frontend in JSON output and in tables.

use serde::Serialize;

use crate::model::{
    address::IpFamily,
    frontend::{Frontend, FrontendAddress, View},
};

#[derive(Debug, Serialize)]
pub struct FrontendName {
    service: String,
    port_name: String,
    kind: &'static str,
    address: String,
    port: u16,
    protocol: String,
}

impl From<&Frontend> for FrontendName {
    fn from(frontend: &Frontend) -> Self {
        Self {
            service: frontend.service.service.to_string(),
            port_name: frontend.service.port_name.to_string(),
            kind: frontend.kind.name(),
            address: frontend.key.address.to_string(),
            port: frontend.key.port,
            protocol: frontend.key.protocol.to_string(),
        }
    }
}

/// The address of a frontend in a table. The NodePorts of the two families differ, too.
pub fn address_cell(address: FrontendAddress) -> String {
    match address {
        FrontendAddress::NodePort(IpFamily::V6) => "[*]".to_owned(),
        FrontendAddress::NodePort(IpFamily::V4) | FrontendAddress::Ip(_) => address.to_string(),
    }
}

/// The addresses of the backends of a view that the data plane does not refuse, sorted as text.
pub fn backends(frontend: &Frontend, view: &View) -> Vec<String> {
    let usable = view.backends.iter().filter(|backend| !frontend.refuses(backend));
    let mut backends: Vec<_> = usable.map(|backend| backend.address.to_string()).collect();
    backends.sort_unstable();
    backends
}
