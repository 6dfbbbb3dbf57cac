//! The configuration of a DNS server: its server blocks, read from a Corefile or [`Config::shipped`].

use std::time::Duration;

use hickory_server::proto::rr::LowerName;

use super::{ServerBlock, health::Health, loadbalance::Loadbalance, reload::Reload};
use crate::{
    cluster::zone::ReadOptions,
    config::{Cache, Forward, Kubernetes, Listen, Upstream, any, root},
    observe::health::HttpEndpoints,
};

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    pub servers: Vec<ServerBlock>,
}

impl Config {
    /// The Corefile of a stock cluster.
    pub fn shipped(cluster_domain: &LowerName) -> Self {
        let block = ServerBlock {
            kubernetes: Some(Kubernetes::shipped(cluster_domain)),
            forwards: vec![Forward {
                max_concurrent: Some(1000),
                ..Forward::to(vec![Upstream::ResolvConf("/etc/resolv.conf".into())])
            }],
            cache: Some(Cache::capped_at(Duration::from_secs(30))),
            health: Some(Health { address: any(8080), lameduck: Duration::from_secs(5) }),
            ready: Some(any(8181)),
            metrics: Some(any(9153)),
            detect_loops: true,
            reload: Some(Reload::default()),
            loadbalance: Some(Loadbalance::round_robin()),
            ..ServerBlock::new(vec![Listen::plain(root())])
        };
        Self { servers: vec![block] }
    }

    /// The `kubernetes` directive of each block that has one.
    pub fn kubernetes(&self) -> impl Iterator<Item = &Kubernetes> + Clone {
        self.servers.iter().filter_map(|block| block.kubernetes.as_ref())
    }

    /// How objects are read from the API server for all blocks.
    pub fn read_options(&self) -> ReadOptions {
        let external = self.servers.iter().any(|block| block.external.is_some());
        ReadOptions { external, ..ReadOptions::of(self.kubernetes()) }
    }

    /// The addresses for health, readiness and metrics, of all blocks.
    pub fn http_endpoints(&self) -> HttpEndpoints {
        let blocks = || self.servers.iter();
        HttpEndpoints {
            health: blocks().filter_map(|block| block.health.as_ref()).map(|health| health.address).collect(),
            ready: blocks().filter_map(|block| block.ready).collect(),
            metrics: blocks().filter_map(|block| block.metrics).collect(),
            are_shared: false,
            metric_names: None,
        }
    }
}
