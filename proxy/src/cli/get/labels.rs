//! The names of service ports, as the agent left them in the maps for whoever looks.

use std::collections::HashMap;

use serde::Serialize;

use crate::{
    model::service::ServicePortKey,
    reconcile::{LbMaps, MapError, parse_label},
};

/// Service ports by the number the kernel knows them by.
#[derive(Debug, Default)]
pub struct Labels(HashMap<u32, ServicePortKey>);

impl Labels {
    pub fn read(maps: &impl LbMaps) -> Result<Self, MapError> {
        let labels = maps.services()?.into_iter();
        Ok(Self(labels.filter_map(|(id, label)| Some((id, parse_label(&label)?))).collect()))
    }

    /// An agent that dies between two writes may leave a number without a name, until the next one.
    pub fn get(&self, id: u32) -> Option<&ServicePortKey> {
        self.0.get(&id)
    }

    pub fn keys(&self) -> impl Iterator<Item = &ServicePortKey> {
        self.0.values()
    }
}

/// A service port in the output.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ServicePort {
    /// `NAMESPACE/NAME`; `?` where the name is lost.
    pub service: String,
    pub port_name: String,
}

impl From<Option<&ServicePortKey>> for ServicePort {
    fn from(key: Option<&ServicePortKey>) -> Self {
        Self {
            service: key.map_or_else(|| "?".to_owned(), |key| key.service.to_string()),
            port_name: key.map(|key| key.port_name.to_string()).unwrap_or_default(),
        }
    }
}

impl ServicePort {
    /// For a cell of a table.
    pub fn text(&self) -> String {
        match self.port_name.as_str() {
            "" => self.service.clone(),
            port => format!("{}:{port}", self.service),
        }
    }
}
