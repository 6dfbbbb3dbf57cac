//! The sizes of the tables in the kernel, and the shares of them.

use proxy_ebpf::abi::map;

use crate::{
    config::{ConntrackConfig, TableShares, TableSizes},
    host,
    reconcile::{Budget, Capacity},
};

/// Sizes and shares of the tables of the data plane.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Tables in the kernel")]
pub struct TableArgs {
    /// Flows that the packet plane tracks, of each family [default: 131072, or conntrack.maxPerCore and min of
    /// --config if they are not kube-proxy's defaults]
    #[arg(long, value_name = "N", value_parser = entries(MOST_FLOWS))]
    max_flows: Option<u32>,
    /// Frontends (address, port and protocol) of both families [default: 131072]
    #[arg(long, value_name = "N", value_parser = entries(MOST))]
    max_frontends: Option<u32>,
    /// Endpoints of all service ports, of each family [default: 262144]
    #[arg(long, value_name = "N", value_parser = entries(MOST))]
    max_backends: Option<u32>,
    /// Endpoints in the blocks of all service ports [default: 524288]
    #[arg(long, value_name = "N", value_parser = entries(MOST))]
    max_slots: Option<u32>,
    /// Service ports [default: 65536]
    #[arg(long, value_name = "N", value_parser = entries(MOST))]
    max_service_ports: Option<u32>,
    /// Prefixes of loadBalancerSourceRanges, of each family [default: 65536]
    #[arg(long, value_name = "N", value_parser = entries(MOST))]
    max_source_ranges: Option<u32>,
    /// The share of each table that the Services of one namespace may take; what exceeds it is not served, and the
    /// status names it. kube-system has no limit
    #[arg(long, value_name = "PERCENT", default_value_t = Budget::NAMESPACE_SHARE, value_parser = percent())]
    namespace_table_share: u8,
    /// The share of each table that one Service may take
    #[arg(long, value_name = "PERCENT", default_value_t = Budget::SERVICE_SHARE, value_parser = percent())]
    service_table_share: u8,
}

/// Larger tables need more than a GiB of kernel memory each.
const MOST: i64 = 1 << 24;
const MOST_FLOWS: i64 = 1 << 22;

fn entries(most: i64) -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1024..=most)
}

fn percent() -> clap::builder::RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(1..=100)
}

impl TableArgs {
    pub fn shares(&self) -> TableShares {
        TableShares { service: self.service_table_share, namespace: self.namespace_table_share }
    }

    /// The wanted sizes. kube-proxy's limits are for the flows that it would have tracked.
    pub fn sizes(&self, conntrack: Option<&ConntrackConfig>) -> TableSizes {
        let configured = conntrack.and_then(|config| config.flows(host::cpus()));
        TableSizes {
            flows: self.max_flows.or(configured),
            frontends: self.max_frontends,
            backends: self.max_backends,
            slots: self.max_slots,
            service_ports: self.max_service_ports,
            source_ranges: self.max_source_ranges,
        }
    }

    /// The capacity of new tables.
    pub fn capacity(&self) -> Capacity {
        let TableSizes { flows: _, frontends, backends, slots, service_ports, source_ranges } =
            self.sizes(None);
        let frontends = frontends.unwrap_or(map::MAX_FRONTENDS);
        Capacity {
            frontends,
            descriptors: frontends.saturating_add(frontends / 8),
            slots: slots.unwrap_or(map::MAX_SLOTS),
            backends: backends.unwrap_or(map::MAX_BACKENDS),
            services: service_ports.unwrap_or(map::MAX_SERVICES),
            source_ranges: source_ranges.unwrap_or(map::MAX_SOURCE_RANGES),
        }
    }
}
