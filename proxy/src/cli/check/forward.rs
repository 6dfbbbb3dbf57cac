//! Checks for a firewall that drops forwarded packets. kube-proxy has rules that accept the packets of its flows there; this
//! data plane leaves the decision to the node's firewall.

use std::io;

use super::finding::Finding;
use crate::kube_proxy_state::dropping_forward_chains;

const NAME: &str = "forward";

pub fn check() -> Vec<Finding> {
    let names = dropping_forward_chains().map(|chains| {
        let name = |chain: &crate::kube_proxy_state::Chain| {
            format!("{} {} {}", chain.table.family.name(), chain.table.name, chain.name)
        };
        chains.iter().map(name).collect()
    });
    findings(names)
}

/// A finding for each chain: others may hold the rules that accept, but not those of another family.
fn findings(chains: io::Result<Vec<String>>) -> Vec<Finding> {
    let chains = match chains {
        Ok(chains) => chains,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return vec![Finding::warn(NAME, "not visible without privileges", "run check as root")];
        }
        // A kernel without nf_tables has none of its chains.
        Err(_) => Vec::new(),
    };
    if chains.is_empty() {
        return vec![Finding::ok(NAME, "no chain of nf_tables drops forwarded packets by policy")];
    }
    let finding = |chain: String| {
        Finding::warn(
            NAME,
            format!("chain {chain} drops forwarded packets that no rule accepts (policy drop)"),
            "none, if the network plugin accepts the networks of pods there; else accept them, as kube-proxy did for its flows",
        )
    };
    chains.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Verdict, *};

    #[test]
    fn each_dropping_chain_is_a_warning() {
        let verdicts = |chains: io::Result<Vec<String>>| -> Vec<Verdict> {
            findings(chains).iter().map(|finding| finding.verdict).collect()
        };
        assert_eq!(verdicts(Ok(Vec::new())), [Verdict::Ok]);
        assert_eq!(verdicts(Err(io::ErrorKind::Unsupported.into())), [Verdict::Ok]);
        assert_eq!(verdicts(Err(io::ErrorKind::PermissionDenied.into())), [Verdict::Warn]);
        let two = || Ok(vec!["ip filter FORWARD".to_owned(), "inet fw forward".to_owned()]);
        assert_eq!(verdicts(two()), [Verdict::Warn, Verdict::Warn]);
        assert!(findings(two())[0].what.contains("ip filter FORWARD drops forwarded packets"));
    }
}
