//! The pod CIDRs of this node, if pods are detected by them (kube-proxy's NodeCIDR mode). The Node object
//! gets them when the node joins, perhaps after the agent starts. Once in use, a change ends the agent, to be
//! restarted.

use std::time::Duration;

use anyhow::{Result, bail};
use ipnetwork::IpNetwork;
use tokio::time::Instant;
use tracing::info;

use crate::model::{
    node::NodeInfo,
    policy::{DetectLocal, Policy},
};

/// As in kube-proxy.
const TIMEOUT: Duration = Duration::from_secs(300);

pub struct PodCidrs {
    node_name: String,
    /// Other modes do not need them.
    are_wanted: bool,
    waiting_since: Option<Instant>,
    /// The CIDRs in use.
    in_use: Option<Vec<IpNetwork>>,
}

impl PodCidrs {
    pub fn new(policy: &Policy) -> Self {
        let are_wanted = policy.detect_local == DetectLocal::NodeCidr;
        Self { node_name: policy.node_name.clone(), are_wanted, waiting_since: None, in_use: None }
    }

    /// The remaining time to wait; `None`: nothing to wait for. Errors: the time is over.
    pub fn wait(&mut self, node: Option<&NodeInfo>) -> Result<Option<Duration>> {
        let stated = node.map(|node| node.pod_cidrs.as_slice()).unwrap_or_default();
        if !self.are_wanted || !stated.is_empty() {
            self.in_use = Some(stated.to_vec());
            return Ok(None);
        }
        if self.waiting_since.is_none() {
            info!(node = self.node_name, "waiting for the pod CIDRs of the Node object");
        }
        let waited = self.waiting_since.get_or_insert_with(Instant::now).elapsed();
        match TIMEOUT.checked_sub(waited).filter(|left| !left.is_zero()) {
            Some(left) => Ok(Some(left)),
            None => bail!(
                "the Node object {} has had no podCIDRs for {} s, and detectLocalMode NodeCIDR requires them",
                self.node_name,
                TIMEOUT.as_secs()
            ),
        }
    }

    /// Errors: the CIDRs differ from those in use.
    pub fn check(&self, node: Option<&NodeInfo>) -> Result<()> {
        let (Some(node), Some(in_use)) = (node, &self.in_use) else { return Ok(()) };
        if self.are_wanted && node.pod_cidrs != *in_use {
            bail!("the podCIDRs of node {} have changed: ending, to be started with them", self.node_name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(networks: &[&str]) -> NodeInfo {
        let pod_cidrs = networks.iter().map(|network| network.parse().unwrap()).collect();
        NodeInfo { pod_cidrs, ..NodeInfo::default() }
    }

    fn of_mode(detect_local: DetectLocal) -> PodCidrs {
        PodCidrs::new(&Policy { detect_local, ..Policy::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn q2_missing_pod_cidrs_are_an_error_after_the_timeout() {
        let mut pod_cidrs = of_mode(DetectLocal::NodeCidr);
        assert_eq!(pod_cidrs.wait(None).unwrap(), Some(TIMEOUT));
        tokio::time::advance(TIMEOUT - Duration::from_secs(1)).await;
        assert_eq!(pod_cidrs.wait(Some(&node(&[]))).unwrap(), Some(Duration::from_secs(1)));
        assert_eq!(pod_cidrs.wait(Some(&node(&["10.1.0.0/24"]))).unwrap(), None);

        let mut pod_cidrs = of_mode(DetectLocal::NodeCidr);
        pod_cidrs.wait(None).unwrap();
        tokio::time::advance(TIMEOUT).await;
        assert!(pod_cidrs.wait(Some(&node(&[]))).is_err());
    }

    #[test]
    fn r1_changed_pod_cidrs_end_the_agent_in_node_cidr_mode() {
        for (mode, now, ends) in [
            (DetectLocal::NodeCidr, Some(node(&["10.1.0.0/24"])), false),
            (DetectLocal::NodeCidr, Some(node(&["10.2.0.0/24"])), true),
            // The Node object was deleted: kube-proxy only logs it, too.
            (DetectLocal::NodeCidr, None, false),
            (DetectLocal::ClusterCidr, Some(node(&["10.2.0.0/24"])), false),
        ] {
            let mut pod_cidrs = of_mode(mode);
            assert_eq!(pod_cidrs.wait(Some(&node(&["10.1.0.0/24"]))).unwrap(), None);
            assert_eq!(pod_cidrs.check(now.as_ref()).is_err(), ends, "{mode:?} {now:?}");
        }
    }
}
