//! The totals of the query statistics, by topic. Clients are not a label: see [`crate::observe::clients`].

use prometheus::{IntCounterVec, Opts, core::Collector as _, proto::MetricFamily};

use super::register::{Described, FIXED};
use crate::observe::clients::Counts;

/// Builds the families for a scrape, from the counters of the workers.
pub(super) fn families(counts: &Counts) -> impl Iterator<Item = MetricFamily> {
    let topics = counts.topics().map(|(topic, count)| (topic.name(), count));
    let troubles = counts.troubles().map(|(trouble, count)| (trouble.name(), count));
    filled(queries(), topics).into_iter().chain(filled(trouble(), troubles))
}

pub(super) fn described() -> impl Iterator<Item = Described> {
    [queries(), trouble()]
        .into_iter()
        .flat_map(|family| Described::all(&family, "counter").collect::<Vec<_>>())
}

fn queries() -> IntCounterVec {
    family("dns_queries_total", "Queries, by topic.", "topic")
}

fn trouble() -> IntCounterVec {
    let help = "Queries that were refused, failed, or were answered after more than 256 ms.";
    family("dns_troubles_total", help, "trouble")
}

fn family(name: &str, help: &str, label: &str) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), &[label]).expect(FIXED)
}

fn filled(family: IntCounterVec, counts: impl Iterator<Item = (&'static str, u64)>) -> Vec<MetricFamily> {
    counts.for_each(|(value, count)| family.with_label_values(&[value]).inc_by(count));
    family.collect()
}
