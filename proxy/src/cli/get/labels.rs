//! The names of service ports, which the agent stores in a map for this purpose.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{
    model::{
        address::Protocol,
        service::{ServiceKey, ServicePortKey},
    },
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

    /// Those of a report, whose ids have no meaning.
    pub fn of(keys: impl Iterator<Item = ServicePortKey>) -> Self {
        Self((0..).zip(keys).collect())
    }

    /// Returns `None` for an id without a name: an agent that is killed between two writes may leave one.
    pub fn get(&self, id: u32) -> Option<&ServicePortKey> {
        self.0.get(&id)
    }

    /// Ids and names.
    pub fn entries(&self) -> impl Iterator<Item = (u32, &ServicePortKey)> {
        self.0.iter().map(|(id, key)| (*id, key))
    }

    pub fn keys(&self) -> impl Iterator<Item = &ServicePortKey> {
        self.0.values()
    }
}

/// A service port in the output.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
    /// The name as a key; `None` for an id without a name. Which of its protocols it is has no effect on a selection.
    pub fn key(&self) -> Option<ServicePortKey> {
        let (namespace, name) = self.service.split_once('/')?;
        let service = ServiceKey::new(namespace, name);
        Some(ServicePortKey { service, port_name: self.port_name.as_str().into(), protocol: Protocol::Tcp })
    }

    /// The text of a table cell.
    pub fn text(&self) -> String {
        match self.port_name.as_str() {
            "" => self.service.clone(),
            port => format!("{}:{port}", self.service),
        }
    }
}
