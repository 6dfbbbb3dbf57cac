//! The totals of the query statistics, by topic. Clients are not a label: see [`crate::observe::clients`].

use prometheus::{IntCounterVec, Opts, core::Collector as _, proto::MetricFamily};

use super::register::FIXED;
use crate::observe::clients::Counts;

/// Builds the families for a scrape, from the counters of the workers.
pub(super) fn families(counts: &Counts) -> impl Iterator<Item = MetricFamily> {
    let topics = counts.topics().map(|(topic, count)| (topic.name(), count));
    let troubles = counts.troubles().map(|(trouble, count)| (trouble.name(), count));
    let queries = family("dns_queries_total", "Queries, by topic.", "topic", topics);
    let trouble = family(
        "dns_troubles_total",
        "Queries that were refused, failed, or were answered after more than 256 ms.",
        "trouble",
        troubles,
    );
    queries.into_iter().chain(trouble)
}

fn family(
    name: &str,
    help: &str,
    label: &str,
    counts: impl Iterator<Item = (&'static str, u64)>,
) -> Vec<MetricFamily> {
    let family = IntCounterVec::new(Opts::new(name, help), &[label]).expect(FIXED);
    counts.for_each(|(value, count)| family.with_label_values(&[value]).inc_by(count));
    family.collect()
}
