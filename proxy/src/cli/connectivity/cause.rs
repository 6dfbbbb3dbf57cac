//! Causes that a connect alone does not tell: of one that had no answer, and of one that succeeded although users complain.

use std::{net::IpAddr, time::Duration};

use proxy_ebpf::abi::BackendConnections;

use crate::{
    cli::get::connection_counts::is_unanswered,
    datapath::{self, Neighbour, NextHop, PathSize},
};

/// The reason for which a backend is silent or unreachable, if its neighbour entry tells.
pub async fn of_silence(address: IpAddr) -> Option<String> {
    // Without the right to read neighbours there is no more to say.
    permanent(address, datapath::next_hop(address).await.ok()??)
}

fn permanent(address: IpAddr, NextHop { device, address: hop, neighbour, .. }: NextHop) -> Option<String> {
    let Neighbour::Permanent(link_layer) = neighbour else { return None };
    let whose = match hop == address {
        true => "its neighbour entry".to_owned(),
        false => format!("the neighbour entry of its gateway {hop}"),
    };
    Some(format!(
        "{whose} on {device} is permanent with {link_layer}, which no answer of the network corrects: \
         `ip neigh del {hop} dev {device}`, if another machine has the address now"
    ))
}

/// What is wrong with a backend that accepts connections, as the counters of this node's sockets tell.
pub fn of_counts(counts: &BackendConnections) -> Option<String> {
    let BackendConnections { closed, sent, received, .. } = *counts;
    is_unanswered(closed, sent, received).then(|| {
        format!(
            "accepts, but over {closed} closed connections of this node it sent nothing in answer to {sent} bytes: \
             the process is stuck, or its protocol has no answers"
        )
    })
}

/// What is wrong with the path to a machine that accepts connections. Blocks. `None` also without CAP_NET_RAW.
pub fn of_path(address: IpAddr, limit: Duration) -> Option<String> {
    match datapath::path_size(address, limit) {
        Ok(PathSize::SmallOnly(mtu)) => Some(format!(
            "small packets arrive, but those of {mtu} bytes are lost, and no ICMP error says so: a device on the path has a \
             smaller MTU; lower the MTU of the pods, or let ICMP pass"
        )),
        Ok(PathSize::Whole(_) | PathSize::Unknown) | Err(_) => None,
    }
}

/// What is wrong with an external address, if it belongs to a network that this node is connected to.
pub async fn of_external_address(address: IpAddr, limit: Duration) -> Option<String> {
    unannounced(datapath::resolved_next_hop(address, limit).await.ok()??)
}

/// Of an address behind a gateway nothing is known: a router may have a route for it.
fn unannounced(NextHop { device, address, is_gateway, neighbour }: NextHop) -> Option<String> {
    let is_unanswered = matches!(neighbour, Neighbour::Unresolved | Neighbour::Absent) && !is_gateway;
    let protocol = if address.is_ipv4() { "ARP" } else { "neighbour discovery" };
    is_unanswered.then(|| {
        format!(
            "no machine at {device} answers {protocol} for {address}, so clients outside cannot reach it: Portreeve does not \
             announce addresses, MetalLB, kube-vip or a route of the network has to"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(is_gateway: bool, neighbour: Neighbour) -> NextHop {
        let address = if is_gateway { [172, 18, 0, 1] } else { [172, 18, 0, 200] };
        NextHop { device: "eth0".to_owned(), address: address.into(), is_gateway, neighbour }
    }

    #[test]
    fn only_a_permanent_entry_explains_silence() {
        let address = IpAddr::from([172, 18, 0, 200]);
        let entry = || Neighbour::Permanent("02:00:00:00:00:ff".to_owned());
        let own = permanent(address, hop(false, entry())).unwrap();
        assert!(own.starts_with("its neighbour entry on eth0 is permanent with 02:00:00:00:00:ff"), "{own}");
        let gateway = permanent(address, hop(true, entry())).unwrap();
        assert!(gateway.starts_with("the neighbour entry of its gateway 172.18.0.1 on eth0 is"), "{gateway}");
        assert_eq!(permanent(address, hop(false, Neighbour::Resolved)), None);
    }

    #[test]
    fn an_external_address_is_announced_if_a_machine_answers_or_a_router_may_know_it() {
        for (is_gateway, neighbour, is_announced) in [
            (false, Neighbour::Resolved, true),
            (false, Neighbour::Permanent(String::new()), true),
            (false, Neighbour::Unresolved, false),
            (false, Neighbour::Absent, false),
            (true, Neighbour::Unresolved, true),
        ] {
            let found = unannounced(hop(is_gateway, neighbour.clone()));
            assert_eq!(found.is_none(), is_announced, "{neighbour:?}: {found:?}");
        }
    }
}
