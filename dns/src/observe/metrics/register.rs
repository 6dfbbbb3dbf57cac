//! Registration of metric families.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector, exponential_buckets,
};

/// Creates and registers families. Their names and labels are constants of this crate, so this cannot fail.
pub(super) struct Register<'a>(pub &'a Registry);

pub(super) const FIXED: &str = "names and labels are fixed, and each is registered once";

impl Register<'_> {
    fn add<C: Collector + Clone + 'static>(&self, family: Result<C, prometheus::Error>) -> C {
        let family = family.expect(FIXED);
        self.0.register(Box::new(family.clone())).expect(FIXED);
        family
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    pub(super) fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: Vec<f64>,
    ) -> HistogramVec {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels))
    }
}

pub(super) fn doubling(first: f64, count: usize) -> Vec<f64> {
    exponential_buckets(first, 2.0, count).expect(FIXED)
}

/// Buckets from 0.25 ms to 8 s.
pub(super) fn latencies() -> Vec<f64> {
    doubling(0.000_25, 16)
}
