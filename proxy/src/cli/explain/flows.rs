//! The flows that the arguments name.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Result, bail};

use super::target::{Destination, ServiceName, SourceName};
use crate::{
    index::Index,
    model::{
        address::IpFamily,
        flow::Flow,
        frontend::{FrontendAddress, FrontendKey},
        service::ServicePortKey,
    },
    observe::objects::{Objects, Pods},
};

/// What names are looked up in.
pub struct Known {
    /// The pods of this node by address; `Err`: why they are not known.
    pub pods: Result<Pods, String>,
    pub frontends: BTreeSet<(FrontendKey, ServicePortKey)>,
    /// The addresses of the node, those of the first rank first.
    pub node: Vec<IpAddr>,
    /// The addresses of the node that serve NodePorts.
    pub node_ports: Vec<IpAddr>,
}

/// The flows among objects of files.
pub fn of_objects(
    service: Option<&ServiceName>,
    from: Option<&SourceName>,
    to: Option<Destination>,
    index: &Index,
) -> Result<Vec<Flow>> {
    let node = IpFamily::BOTH.map(|family| index.node().primary(family));
    let node_ports = node.map(|address| index.node().nodeport_addresses(IpFamily::of(address), address));
    let known = Known {
        pods: Ok(Objects::of(index).pods()),
        frontends: index.frontends().map(|frontend| (frontend.key, frontend.service)).collect(),
        node: node.to_vec(),
        node_ports: node_ports.concat(),
    };
    known.flows(service, from, to)
}

impl Known {
    /// One flow to a destination, or one to each frontend of a Service.
    pub fn flows(
        &self,
        service: Option<&ServiceName>,
        from: Option<&SourceName>,
        to: Option<Destination>,
    ) -> Result<Vec<Flow>> {
        let sources = self.sources(from)?;
        let source = |to: &SocketAddr| {
            let of_family = sources.iter().copied().find(|source| source.is_ipv4() == to.is_ipv4());
            (of_family, of_family.or(sources.first().copied()))
        };
        if let Some(Destination { address, protocol }) = to {
            let (_, source) = source(&address);
            let flow = source.map(|source| Flow { source, destination: address, protocol });
            return Ok(flow.into_iter().collect());
        }
        let Some(service) = service else { return Ok(Vec::new()) };
        let frontends = self.frontends.iter().filter(|(key, of)| service.takes(of, key.port));
        let destinations = frontends.filter_map(|(key, _)| {
            Some((SocketAddr::new(self.address(key.address)?, key.port), key.protocol))
        });
        let flows = destinations.filter_map(|(destination, protocol)| {
            let (source, _) = source(&destination);
            Some(Flow { source: source?, destination, protocol })
        });
        let flows: Vec<_> = flows.collect();
        if flows.is_empty() {
            bail!("no frontend of {} is served on this node to this source", service.text());
        }
        Ok(flows)
    }

    fn sources(&self, from: Option<&SourceName>) -> Result<Vec<IpAddr>> {
        match from {
            Some(SourceName::Address(address)) => Ok(vec![*address]),
            Some(SourceName::Pod(name)) => {
                let pods = match &self.pods {
                    Ok(pods) => pods,
                    Err(reason) => bail!("no pod is known by name, give the address of {name}: {reason}"),
                };
                let named = pods.iter().filter(|(_, pod)| *pod == name);
                let addresses: Vec<_> = named.map(|(address, _)| *address).collect();
                if addresses.is_empty() {
                    bail!("no endpoint on this node is the pod {name}: give its address instead of its name");
                }
                Ok(addresses)
            }
            None => Ok(self.node.clone()),
        }
    }

    /// An address to dial.
    fn address(&self, address: FrontendAddress) -> Option<IpAddr> {
        match address {
            FrontendAddress::Ip(address) => Some(address),
            FrontendAddress::NodePort(family) => {
                self.node_ports.iter().copied().find(|address| IpFamily::of(*address) == family)
            }
        }
    }
}
