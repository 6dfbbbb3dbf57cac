//! kube-proxy, and what it left.

use super::Finding;
use crate::{
    error::chain,
    kube_proxy_state::{Leftover, Survey, survey},
};

const NAME: &str = "kube-proxy";

pub fn check() -> Vec<Finding> {
    judge(&survey())
}

fn judge(survey: &Survey) -> Vec<Finding> {
    let mut findings: Vec<Finding> = survey.found.iter().map(finding).collect();
    findings.extend(survey.problems.iter().map(|problem| {
        Finding::warn(NAME, format!("not to be seen from here: {}", chain(problem)), "run check as root")
    }));
    if findings.is_empty() {
        findings.push(Finding::ok(NAME, "nothing of it is here"));
    }
    findings
}

/// Translating twice goes wrong quietly, so it is worth a warning; while kube-proxy runs it is being replaced.
fn finding(leftover: &Leftover) -> Finding {
    let remedy = leftover.by_hand().unwrap_or_else(|| "portreeve cleanup --kube-proxy-only".to_owned());
    Finding::warn(NAME, leftover.what(), remedy)
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
        let findings = judge(&Survey { found, problems: vec![] });
        assert_eq!(findings.len(), 5);
        assert!(findings.iter().all(|finding| !finding.remedy.is_empty()), "{findings:?}");
        assert_eq!(judge(&Survey::default()).len(), 1);
    }
}
