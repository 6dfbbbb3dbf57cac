//! Metrics of the requests to the API server, with the names, labels and buckets of client-go, whose dashboards read them.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts};

/// client-go's buckets, in seconds.
const BUCKETS: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];
/// client-go's code of a request without a response.
const NO_RESPONSE: &str = "<error>";

/// Clones share the counts.
#[derive(Clone, Debug)]
pub struct RequestMetrics {
    pub count: IntCounterVec,
    /// Until the headers of the response: a watch goes on for minutes.
    pub duration: HistogramVec,
}

impl Default for RequestMetrics {
    fn default() -> Self {
        let fixed = "names and labels are fixed";
        let count = Opts::new(
            "rest_client_requests_total",
            "Requests to the API server, by status code; `<error>` without a response.",
        );
        let duration = HistogramOpts::new(
            "rest_client_request_duration_seconds",
            "Time from a request to the API server to the headers of its response.",
        );
        Self {
            count: IntCounterVec::new(count, &["code", "method", "host"]).expect(fixed),
            duration: HistogramVec::new(duration.buckets(BUCKETS.into()), &["verb", "host"]).expect(fixed),
        }
    }
}

impl RequestMetrics {
    /// Counts a request to a URL. `code`: the status of the response; `None`: there was none.
    pub fn observe(&self, method: &str, url: &str, took: Duration, code: Option<u16>) {
        let host = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
        let code = code.map_or_else(|| NO_RESPONSE.to_owned(), |code| code.to_string());
        self.count.with_label_values(&[code.as_str(), method, host]).inc();
        self.duration.with_label_values(&[method, host]).observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use prometheus::core::Collector as _;

    use super::*;

    #[test]
    fn requests_are_counted_by_code_as_in_client_go() {
        let metrics = RequestMetrics::default();
        let url = "https://192.0.2.1:6443/";
        metrics.observe("GET", url, Duration::from_millis(30), Some(200));
        metrics.observe("GET", url, Duration::from_secs(2), Some(403));
        metrics.observe("POST", url, Duration::from_secs(90), None);
        let count = |code: &str, method: &str| {
            metrics.count.with_label_values(&[code, method, "192.0.2.1:6443"]).get()
        };
        assert_eq!((count("200", "GET"), count("403", "GET"), count("<error>", "POST")), (1, 1, 1));
        assert_eq!(metrics.duration.with_label_values(&["GET", "192.0.2.1:6443"]).get_sample_count(), 2);
        assert_eq!(metrics.duration.desc()[0].variable_labels, ["verb", "host"]);
    }
}
