//! How a frontend is named in the output of every verb.

use serde::Serialize;

use crate::model::frontend::{Frontend, View};

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

/// In the order of their text, as every dump of a reference proxy has them.
pub fn backends(view: &View) -> Vec<String> {
    let mut backends: Vec<_> = view.backends.iter().map(|backend| backend.address.to_string()).collect();
    backends.sort_unstable();
    backends
}
