//! The name of a frontend in JSON output and in tables.

use serde::Serialize;

use super::get::labels::ServicePort;
use crate::model::{
    address::IpFamily,
    frontend::{Frontend, FrontendAddress, FrontendKey, View},
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

impl FrontendName {
    /// The name of a frontend as the maps have it.
    pub fn of(key: FrontendKey, service: ServicePort, kind: &'static str) -> Self {
        let ServicePort { service, port_name } = service;
        let (address, protocol) = (key.address.to_string(), key.protocol.to_string());
        Self { service, port_name, kind, address, port: key.port, protocol }
    }

    /// The text of a table cell.
    pub fn text(&self) -> String {
        let Self { service, port_name, kind, address, port, protocol } = self;
        let address = if address.contains(':') { format!("[{address}]") } else { address.clone() };
        let name = if port_name.is_empty() { String::new() } else { format!(":{port_name}") };
        format!("{kind} {address}:{port}/{protocol} of {service}{name}")
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
