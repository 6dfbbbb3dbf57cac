//! The sizes of the tables in the kernel, and the shares of them.

use crate::{config::TableShares, reconcile::Budget};

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Tables in the kernel")]
pub struct TableArgs {
    /// The share of each table that the Services of one namespace may take; what exceeds it is not served, and the
    /// status names it. Not of kube-system
    #[arg(long, value_name = "PERCENT", default_value_t = Budget::NAMESPACE_SHARE, value_parser = percent())]
    namespace_table_share: u8,
    /// The share of each table that one Service may take
    #[arg(long, value_name = "PERCENT", default_value_t = Budget::SERVICE_SHARE, value_parser = percent())]
    service_table_share: u8,
}

fn percent() -> clap::builder::RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(1..=100)
}

impl TableArgs {
    pub fn shares(&self) -> TableShares {
        TableShares { service: self.service_table_share, namespace: self.namespace_table_share }
    }
}
