//! Reasons in words for an operator.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use ipnetwork::IpNetwork;
use proxy_ebpf::abi::DropReason;

use super::{HintEffect, MasqueradeCause, PolicyEffect, PolicyField, Reason, Translation};
use crate::model::{
    address::{IpFamily, Protocol},
    node::Source,
    service::{ServiceKey, ServicePortKey},
    unserved::{PortNames, SCTP_PORTS, label, list, mismatch},
};

/// A note behind a reason if pods are detected by interface.
pub const INFERRED_SOURCE: &str = " (pods are detected by their interface, which an address does not show: addresses in the \
     node's pod CIDRs, or else in --cluster-cidr, are assumed to be pods)";

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MixedFamilies => f.write_str(
                "source and destination differ in address family, and nothing translates between families",
            ),
            Self::NoFrontend { destination, protocol } => {
                write!(f, "no Service has {} with port {}/{protocol}", destination.ip(), destination.port())
            }
            Self::NotProgrammed { service, cause } => {
                write!(f, "the frontend of {service} is not programmed: {cause}")
            }
            Self::NodePortNotServed { service, destination, protocol, served_at } => {
                node_port_not_served(f, service, *destination, *protocol)?;
                served_at_instead(f, served_at)
            }
            Self::Translated(translation) => translated(f, translation),
            Self::SourceNotInRanges { service, source, ranges } => {
                source_not_in_ranges(f, service, *source, ranges)
            }
            Self::NoLocalEndpoint { service, policy, elsewhere } => {
                let are = if *elsewhere == 1 { "is" } else { "are" };
                write!(
                    f,
                    "{policy} is Local and this node has no ready endpoint of {service}; \
                     {elsewhere} {are} on other nodes"
                )
            }
            Self::NoEndpoint { service, family, total, unmatched } => {
                no_endpoint(f, service, *family, *total, unmatched)
            }
            Self::SctpPortDiffers { service, port, endpoint_ports } => write!(
                f,
                "the endpoints of {service} have port {} and not {port}, and {SCTP_PORTS}",
                list(endpoint_ports)
            ),
            Self::UndefinedPort { service, destination, protocol, defined } => {
                undefined_port(f, service, *destination, *protocol, defined)
            }
            Self::UnallocatedAddress { address, network } => write!(
                f,
                "{address} is inside the ServiceCIDR {network}, but not the ClusterIP of a Service served here"
            ),
            Self::Datapath { reason, service } => {
                f.write_str(describe(*reason).1)?;
                service.as_ref().map_or(Ok(()), |service| write!(f, " ({service})"))
            }
        }
    }
}

/// The source of the knowledge why a flow is refused.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The objects alone: the model gives a [`Reason`] with data.
    Objects,
    /// The state of the kernel or of the maps at that instant, or a limit of the programs.
    Kernel,
}

/// A refusal by its [`DropReason`] alone: one line per reason, which the compiler demands for a new one.
pub const fn describe(reason: DropReason) -> (Origin, &'static str) {
    use Origin::{Kernel, Objects};
    match reason {
        DropReason::NoEndpoint => (Objects, "no endpoint of the service port is ready"),
        DropReason::PolicyHasNoLocalEndpoint => {
            (Objects, "the policy is Local and this node has no ready endpoint")
        }
        DropReason::NeedsSourceAddress => {
            (Kernel, "source ranges apply, and the connect hook knows no source")
        }
        DropReason::FrontendChurn => (Kernel, "the frontend changed during every look-up"),
        DropReason::BackendChurn => (Kernel, "every backend tried had just been removed"),
        DropReason::SourceNotInRanges => (Objects, "loadBalancerSourceRanges do not include the client"),
        DropReason::UndefinedPort => (Objects, "the Service of this ClusterIP does not define the port"),
        DropReason::UnallocatedAddress => (Objects, "the address of a ServiceCIDR is not allocated"),
        DropReason::ConntrackFull => (Kernel, "the connection-tracking table is full of flows in use"),
        DropReason::ConntrackBucketFull => {
            (Kernel, "the bucket of the connection-tracking table is full of flows in use")
        }
        DropReason::NoMasqueradePort => (Kernel, "every masquerade port tried is in use to this backend"),
        DropReason::NoMasqueradeAddress => {
            (Kernel, "the outgoing interface has no address to masquerade with")
        }
        DropReason::FlowEnding => (Kernel, "the connection-tracking entry of the flow was being deleted"),
        DropReason::RewriteFailed => (Kernel, "the kernel refused to rewrite the packet"),
        DropReason::NoRouteToBackend => (Kernel, "there is no route from this node to the backend"),
        DropReason::SctpPortDiffers => {
            (Objects, "the port differs, and SCTP's checksum allows no translation of ports")
        }
        DropReason::FragmentNotHeld => {
            (Kernel, "a fragment could not be held until the first of its datagram")
        }
        DropReason::NoTranslatedPort => (Kernel, "every source port tried is in use to this backend"),
        DropReason::FrontendRemoved => {
            (Kernel, "the backend of a connected UDP socket is gone, and so is the frontend that it dialled")
        }
    }
}

fn node_port_not_served(
    f: &mut fmt::Formatter<'_>,
    service: &ServicePortKey,
    destination: SocketAddr,
    protocol: Protocol,
) -> fmt::Result {
    write!(f, "{}/{protocol} is a NodePort of {service}, but ", destination.port())?;
    let address = destination.ip();
    match address {
        IpAddr::V4(v4) if v4.is_loopback() => write!(
            f,
            "{address} serves NodePorts only to the node itself, and only with --localhost-nodeports and with \
             --nodeport-addresses that include it"
        ),
        IpAddr::V6(v6) if v6.is_loopback() => f.write_str(
            "::1 serves NodePorts over TCP only and to the node itself, with --localhost-nodeports and `localhost` among \
             --nodeport-addresses",
        ),
        IpAddr::V4(_) | IpAddr::V6(_) => write!(f, "--nodeport-addresses does not include {address}"),
    }
}

fn served_at_instead(f: &mut fmt::Formatter<'_>, addresses: &[IpAddr]) -> fmt::Result {
    let addresses: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
    match addresses.len() {
        0 => f.write_str("; no address of this node serves it"),
        1 => write!(f, "; {} serves it", addresses[0]),
        _ => write!(f, "; {} serve it", addresses.join(", ")),
    }
}

fn source_not_in_ranges(
    f: &mut fmt::Formatter<'_>,
    service: &ServiceKey,
    source: IpAddr,
    ranges: &[IpNetwork],
) -> fmt::Result {
    let ranges: Vec<_> = ranges.iter().map(IpNetwork::to_string).collect();
    write!(f, "{source} is in none of the loadBalancerSourceRanges of {service} ({})", ranges.join(", "))
}

fn no_endpoint(
    f: &mut fmt::Formatter<'_>,
    service: &ServicePortKey,
    family: IpFamily,
    total: usize,
    unmatched: &PortNames,
) -> fmt::Result {
    match total {
        0 if !unmatched.is_empty() => {
            write!(f, "{service} has no {family} endpoints for {}: {}", label(service), mismatch(unmatched))
        }
        0 => write!(f, "{service} has no {family} endpoints"),
        1 => write!(f, "the only {family} endpoint of {service} is not ready"),
        _ => write!(f, "none of the {total} {family} endpoints of {service} is ready"),
    }
}

fn undefined_port(
    f: &mut fmt::Formatter<'_>,
    service: &ServiceKey,
    destination: SocketAddr,
    protocol: Protocol,
    defined: &[(u16, Protocol)],
) -> fmt::Result {
    let defined: Vec<_> = defined.iter().map(|(port, protocol)| format!("{port}/{protocol}")).collect();
    let defined = if defined.is_empty() { "no port".to_owned() } else { defined.join(", ") };
    let (address, port) = (destination.ip(), destination.port());
    write!(f, "{address} is the ClusterIP of {service}, which defines {defined} and not {port}/{protocol}")
}

fn translated(f: &mut fmt::Formatter<'_>, translation: &Translation) -> fmt::Result {
    if let Some(server) = translation.name_server {
        let service = &translation.service;
        write!(f, "the name server of this node, {server}, serves {service} while it is alive, otherwise ")?;
        if translation.endpoints == 0 {
            return f.write_str("no endpoint does");
        }
    }
    permitted(f, translation)
}

fn permitted(f: &mut fmt::Formatter<'_>, translation: &Translation) -> fmt::Result {
    let Translation {
        service,
        source,
        endpoints,
        refused_ports,
        is_terminating,
        name_server: _,
        policy,
        hint,
        masquerade,
    } = translation;
    let client = match source {
        Source::Pod => "a pod",
        Source::Node => "the node",
        Source::Outside => "a client outside the cluster",
    };
    let plural = if *endpoints == 1 { "" } else { "s" };
    write!(f, "{client} may use {endpoints} endpoint{plural} of {service}")?;
    if *is_terminating {
        f.write_str(", terminating but still serving, as none is ready")?;
    }
    if !refused_ports.is_empty() {
        let ports = list(refused_ports);
        write!(f, "; flows that get an endpoint with port {ports} are refused, as {SCTP_PORTS}")?;
    }
    match policy {
        PolicyEffect::Cluster => {}
        PolicyEffect::Local(field) => write!(f, "; {field} is Local, so only endpoints on this node")?,
        PolicyEffect::Exempt => {
            f.write_str("; externalTrafficPolicy is Local, which does not apply inside the cluster")?;
        }
    }
    match hint {
        Some(HintEffect::SameNode) => f.write_str("; topology hints keep it on this node")?,
        Some(HintEffect::SameZone(zone)) => write!(f, "; topology hints keep it in zone {zone}")?,
        None => {}
    }
    f.write_str(match masquerade {
        Some(MasqueradeCause::All) => "; masqueraded by --masquerade-all",
        Some(MasqueradeCause::ReturnPath) => "; masqueraded, so that the reply returns through this node",
        Some(MasqueradeCause::NotFromPod) => "; masqueraded, as the client is not a pod",
        Some(MasqueradeCause::FromNode) => "; masqueraded, as the client is the node",
        None => "",
    })
}

impl fmt::Display for PolicyField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Internal => "internalTrafficPolicy",
            Self::External => "externalTrafficPolicy",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> ServicePortKey {
        ServicePortKey {
            service: ServiceKey::new("shop", "web"),
            port_name: "http".into(),
            protocol: Protocol::Tcp,
        }
    }

    fn translation() -> Translation {
        Translation {
            service: service(),
            source: Source::Outside,
            endpoints: 2,
            refused_ports: [].into(),
            is_terminating: false,
            name_server: None,
            policy: PolicyEffect::Cluster,
            hint: None,
            masquerade: None,
        }
    }

    #[test]
    fn reasons_are_sentences() {
        let destination: SocketAddr = "10.96.0.10:81".parse().unwrap();
        let protocol = Protocol::Tcp;
        let local = PolicyEffect::Local(PolicyField::External);
        let zone = Some(HintEffect::SameZone("a".to_owned()));
        let (not_from_pod, all) = (Some(MasqueradeCause::NotFromPod), Some(MasqueradeCause::All));
        for (reason, want) in [
            (Reason::NoFrontend { destination, protocol }, "no Service has 10.96.0.10 with port 81/TCP"),
            (
                Reason::UndefinedPort {
                    service: service().service,
                    destination,
                    protocol,
                    defined: vec![(80, protocol)],
                },
                "10.96.0.10 is the ClusterIP of shop/web, which defines 80/TCP and not 81/TCP",
            ),
            (
                Reason::NoLocalEndpoint { service: service(), policy: PolicyField::External, elsewhere: 1 },
                "externalTrafficPolicy is Local and this node has no ready endpoint of shop/web:http; 1 is on other nodes",
            ),
            (
                Reason::NoEndpoint {
                    service: service(),
                    family: IpFamily::V4,
                    total: 3,
                    unmatched: PortNames::default(),
                },
                "none of the 3 IPv4 endpoints of shop/web:http is ready",
            ),
            (
                Reason::NoEndpoint {
                    service: service(),
                    family: IpFamily::V4,
                    total: 0,
                    unmatched: [("".into(), protocol)].into(),
                },
                "shop/web:http has no IPv4 endpoints for port `http` (TCP): the EndpointSlices of the Service have endpoints \
                 for the unnamed port (TCP) instead",
            ),
            (
                Reason::SctpPortDiffers { service: service(), port: 31412, endpoint_ports: [38412].into() },
                "the endpoints of shop/web:http have port 38412 and not 31412, and SCTP's checksum allows no translation of \
                 ports",
            ),
            (
                Reason::Translated(Translation { refused_ports: [81, 82].into(), ..translation() }),
                "a client outside the cluster may use 2 endpoints of shop/web:http; flows that get an endpoint with port 81, \
                 82 are refused, as SCTP's checksum allows no translation of ports",
            ),
            (
                Reason::Translated(Translation { policy: local, endpoints: 1, ..translation() }),
                "a client outside the cluster may use 1 endpoint of shop/web:http; externalTrafficPolicy is Local, so \
                 only endpoints on this node",
            ),
            (
                Reason::Translated(Translation { hint: zone, masquerade: not_from_pod, ..translation() }),
                "a client outside the cluster may use 2 endpoints of shop/web:http; topology hints keep it in zone a; \
                 masqueraded, as the client is not a pod",
            ),
            (
                Reason::Translated(Translation {
                    name_server: Some("10.0.0.1:53".parse().unwrap()),
                    endpoints: 0,
                    masquerade: all,
                    ..translation()
                }),
                "the name server of this node, 10.0.0.1:53, serves shop/web:http while it is alive, otherwise no \
                 endpoint does",
            ),
            (
                Reason::Datapath { reason: DropReason::ConntrackFull, service: Some(service()) },
                "the connection-tracking table is full of flows in use (shop/web:http)",
            ),
        ] {
            assert_eq!(reason.to_string(), want);
        }
    }
}
