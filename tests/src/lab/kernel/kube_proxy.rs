//! The rules of kube-proxy in a node's kernel, written by hand in its form (nftables mode).

use std::{fmt::Write as _, net::SocketAddr};

use anyhow::Result;

use crate::lab::{
    kernel::{firewall::filter, netns::Netns},
    traffic::Protocol,
};

/// One port of a Service.
#[derive(Debug, Clone)]
pub struct Served {
    pub frontend: SocketAddr,
    pub protocol: Protocol,
    pub backends: Vec<SocketAddr>,
}

/// Replaces the Services of a node by these.
pub fn serve(netns: &Netns, served: &[Served]) -> Result<()> {
    filter(netns, &format!("{}{}", table(served, true), table(served, false)))
}

/// A map from the frontend to the chain of the Service, which selects a backend.
fn table(served: &[Served], is_v4: bool) -> String {
    let (family, address) = if is_v4 { ("ip", "ipv4_addr") } else { ("ip6", "ipv6_addr") };
    let served = served.iter().filter(|served| served.frontend.is_ipv4() == is_v4);
    let (mut chains, mut elements) = (String::new(), Vec::new());
    for (number, served) in served.enumerate() {
        chain(&mut chains, number, &served.backends);
        let Served { frontend, protocol, .. } = served;
        let protocol = if *protocol == Protocol::Tcp { "tcp" } else { "udp" };
        elements.push(format!(
            "{} . {protocol} . {} : goto service-{number}",
            frontend.ip(),
            frontend.port()
        ));
    }
    let elements = match elements.is_empty() {
        true => String::new(),
        false => format!("elements = {{ {} }}", elements.join(", ")),
    };
    format!(
        "table {family} kube-proxy {{
  comment \"rules for kube-proxy\"
{chains}  map service-ips {{
    type {address} . inet_proto . inet_service : verdict
    {elements}
  }}
  chain services {{ {family} daddr . meta l4proto . th dport vmap @service-ips; }}
  chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
  chain nat-output {{ type nat hook output priority -100; jump services; }}
  chain nat-postrouting {{ type nat hook postrouting priority srcnat; }}
}}
"
    )
}

fn chain(text: &mut String, number: usize, backends: &[SocketAddr]) {
    let mut draws = Vec::new();
    for (endpoint, backend) in backends.iter().enumerate() {
        let name = format!("endpoint-{number}-{endpoint}");
        // Writing into a string does not fail.
        let _ = writeln!(text, "  chain {name} {{ meta l4proto {{ tcp, udp }} dnat to {backend}; }}");
        draws.push(format!("{endpoint} : goto {name}"));
    }
    let (count, draws) = (backends.len(), draws.join(", "));
    let _ = writeln!(text, "  chain service-{number} {{ numgen random mod {count} vmap {{ {draws} }}; }}");
}
