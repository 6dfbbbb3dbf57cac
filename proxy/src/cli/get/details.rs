//! Labels, ages, pods and nodes from the running agent. The maps do not hold them, so without an agent they are unknown.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use dns::config::{Labels, Selector};
use serde::de::DeserializeOwned;

use crate::{
    cli::control,
    observe::{
        control::ControlRequest,
        objects::{EndpointDetails, Pods, ServiceDetails},
    },
};

/// The control socket of the agent; none need listen.
pub struct Details {
    pub socket: PathBuf,
}

impl Details {
    /// The Services by `NAMESPACE/NAME`.
    pub fn services(&self) -> HashMap<String, ServiceDetails> {
        let services: Vec<ServiceDetails> = self.known(ControlRequest::Services);
        services.into_iter().map(|service| (service.service.clone(), service)).collect()
    }

    /// The endpoints by Service, `NAMESPACE/NAME`, and address.
    pub fn endpoints(&self) -> HashMap<(String, IpAddr), EndpointDetails> {
        let endpoints: Vec<EndpointDetails> = self.known(ControlRequest::Endpoints);
        endpoints.into_iter().map(|one| ((one.service.clone(), one.address), one)).collect()
    }

    pub fn pods(&self) -> Pods {
        self.known(ControlRequest::Pods)
    }

    /// The Services, `NAMESPACE/NAME`, with these labels. Errors: the agent does not tell.
    pub fn labelled(&self, selector: &Selector) -> Result<BTreeSet<String>> {
        let socket = self.socket.display();
        let no_labels =
            || format!("labels are in the memory of a running agent only, and none tells at {socket}");
        let services: Vec<ServiceDetails> = self.ask(ControlRequest::Services)?.with_context(no_labels)?;
        let has_labels =
            |service: &ServiceDetails| selector.matches(&Labels::from_iter(service.labels.clone()));
        Ok(services.into_iter().filter(has_labels).map(|service| service.service).collect())
    }

    /// `None`: no agent listens, or its loop is busy.
    fn ask<T: DeserializeOwned>(&self, request: ControlRequest) -> Result<Option<T>> {
        Ok(control::request::<Option<T>>(&self.socket, request)?.flatten())
    }

    /// Nothing, if the agent does not tell: another version, or it hangs. The maps are read all the same.
    fn known<T: DeserializeOwned + Default>(&self, request: ControlRequest) -> T {
        self.ask(request).ok().flatten().unwrap_or_default()
    }
}
