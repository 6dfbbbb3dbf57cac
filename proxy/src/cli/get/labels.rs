//! The names of service ports, which the agent stores in a map for this purpose.

use std::collections::HashMap;

use serde::Serialize;

use crate::{
    model::service::ServicePortKey,
    reconcile::{LbMaps, MapError, parse_label},
};

/// Service ports by their id in the maps.
#[derive(Debug, Default)]
pub struct Labels(HashMap<u32, ServicePortKey>);

impl Labels {
    pub fn read(maps: &impl LbMaps) -> Result<Self, MapError> {
        let labels = maps.services()?.into_iter();
        Ok(Self(labels.filter_map(|(id, label)| Some((id, parse_label(&label)?))).collect()))
    }

    /// Returns `None` for an id without a name: an agent that is killed between two writes may leave one.
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
    /// `NAMESPACE/NAME`; `?` for an id without a name.
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
    /// The text of a table cell.
    pub fn text(&self) -> String {
        match self.port_name.as_str() {
            "" => self.service.clone(),
            port => format!("{}:{port}", self.service),
        }
    }
}
