//! Checks for a running kube-proxy and its leftovers.

use super::finding::Finding;
use crate::{
    error::chain,
    kube_proxy_state::{Leftover, Survey, survey},
};

const NAME: &str = "kube-proxy";

pub fn check() -> Vec<Finding> {
    findings(&survey())
}

fn findings(survey: &Survey) -> Vec<Finding> {
    let mut findings: Vec<Finding> = survey.found.iter().map(finding).collect();
    findings.extend(
        survey
            .errors
            .iter()
            .map(|error| Finding::warn(NAME, format!("not visible: {}", chain(error)), "run check as root")),
    );
    if findings.is_empty() {
        findings.push(Finding::ok(NAME, "not running, no leftovers"));
    }
    findings
}

/// A warning, not a failure: kube-proxy may run while it is being replaced. Translation by both proxies fails silently.
fn finding(leftover: &Leftover) -> Finding {
    let remedy =
        leftover.manual_command().unwrap_or_else(|| "portreeve cleanup --kube-proxy-only".to_owned());
    Finding::warn(NAME, leftover.description(), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_leftover_has_a_remedy() {
        let found = vec![
            Leftover::Process(7),
            Leftover::Nftables { family: "ip" },
            Leftover::Chains { variant: "iptables-nft".to_owned(), count: 3 },
            Leftover::UnreachableChains { family: "ip6", count: 3 },
            Leftover::Ipvs,
        ];
        let findings = super::findings(&Survey { found, errors: vec![] });
        assert_eq!(findings.len(), 5);
        assert!(findings.iter().all(|finding| !finding.remedy.is_empty()), "{findings:?}");
        assert_eq!(super::findings(&Survey::default()).len(), 1);
    }
}
