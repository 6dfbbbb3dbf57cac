//! Registration of metric families.

use std::cell::RefCell;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector, exponential_buckets,
};

/// Creates and registers families. Their names and labels are constants of this crate, so this cannot fail.
pub(super) struct Register<'a> {
    registry: &'a Registry,
    described: RefCell<Vec<Described>>,
}

/// A metric family, for the reference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Described {
    /// Without a prefix.
    pub name: String,
    pub kind: &'static str,
    pub labels: Vec<String>,
    pub help: String,
}

impl Described {
    pub(super) fn all(family: &impl Collector, kind: &'static str) -> impl Iterator<Item = Self> {
        family.desc().into_iter().map(move |desc| Self {
            name: desc.fq_name.clone(),
            kind,
            labels: desc.variable_labels.clone(),
            help: desc.help.clone(),
        })
    }
}

pub(super) const FIXED: &str = "names and labels are fixed, and each is registered once";

impl<'a> Register<'a> {
    pub(super) fn new(registry: &'a Registry) -> Self {
        Self { registry, described: RefCell::default() }
    }

    /// All families that were registered.
    pub(super) fn described(self) -> Vec<Described> {
        self.described.into_inner()
    }

    fn add<C: Collector + Clone + 'static>(
        &self,
        kind: &'static str,
        family: Result<C, prometheus::Error>,
    ) -> C {
        let family = family.expect(FIXED);
        self.described.borrow_mut().extend(Described::all(&family, kind));
        self.registry.register(Box::new(family.clone())).expect(FIXED);
        family
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add("counter", IntCounter::new(name, help))
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add("counter", IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add("gauge", IntGauge::new(name, help))
    }

    pub(super) fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
        self.add("histogram", Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add("gauge", IntGaugeVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: Vec<f64>,
    ) -> HistogramVec {
        self.add("histogram", HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels))
    }
}

pub(super) fn doubling(first: f64, count: usize) -> Vec<f64> {
    exponential_buckets(first, 2.0, count).expect(FIXED)
}

/// Buckets from 0.25 ms to 8 s.
pub(super) fn latencies() -> Vec<f64> {
    doubling(0.000_25, 16)
}
