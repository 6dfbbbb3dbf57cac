//! The applications under `examples/`: their objects, and the pods in their EndpointSlices.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointSlice},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The directory `examples` of this repository.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

#[derive(Debug, Default)]
pub struct Example {
    /// Every object, as `kind/name`.
    pub objects: Vec<String>,
    pub services: Vec<Service>,
    pub slices: Vec<EndpointSlice>,
}

/// A pod named in the slices.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ExamplePod {
    pub node: String,
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
    pub ports: BTreeSet<u16>,
}

impl Example {
    pub fn load(directory: &Path) -> Result<Self> {
        let mut example = Self::default();
        let entries =
            fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
        paths.sort();
        for path in paths {
            example.read(&path).with_context(|| format!("cannot use {}", path.display()))?;
        }
        Ok(example)
    }

    /// The pods of all endpoints with a target reference, by name.
    pub fn pods(&self) -> Result<BTreeMap<String, ExamplePod>> {
        let mut pods = BTreeMap::<String, ExamplePod>::new();
        for slice in &self.slices {
            let ports = slice.ports.iter().flatten().filter_map(|port| port.port);
            let ports: BTreeSet<_> = ports.filter_map(|port| u16::try_from(port).ok()).collect();
            for endpoint in slice.endpoints.iter().flatten() {
                let Some(name) = pod_name(endpoint) else { continue };
                pods.entry(name.to_owned()).or_default().add_endpoint(endpoint, &ports)?;
            }
        }
        Ok(pods)
    }

    fn read(&mut self, path: &Path) -> Result<()> {
        let text = fs::read_to_string(path)?;
        for object in serde_saphyr::from_multiple::<Value>(&text)? {
            let kind = object["kind"].as_str().context("an object without kind")?.to_owned();
            let name = object["metadata"]["name"].as_str().context("an object without name")?;
            self.objects.push(format!("{kind}/{name}"));
            match kind.as_str() {
                "Service" => self.services.push(typed(object)?),
                "EndpointSlice" => self.slices.push(typed(object)?),
                _ => {}
            }
        }
        Ok(())
    }
}

impl ExamplePod {
    fn add_endpoint(&mut self, endpoint: &Endpoint, ports: &BTreeSet<u16>) -> Result<()> {
        let address = endpoint.addresses.first().context("an endpoint without address")?;
        match address.parse().with_context(|| format!("{address} is not an address"))? {
            IpAddr::V4(v4) => self.v4 = Some(v4),
            IpAddr::V6(v6) => self.v6 = Some(v6),
        }
        self.node = endpoint.node_name.clone().context("an endpoint without node")?;
        self.ports.extend(ports);
        Ok(())
    }
}

pub fn pod_name(endpoint: &Endpoint) -> Option<&str> {
    endpoint.target_ref.as_ref()?.name.as_deref()
}

fn typed<T: DeserializeOwned>(object: Value) -> Result<T> {
    Ok(serde_json::from_value(object)?)
}
