//! The exposition format: each metric once, under its own name or under that of CoreDNS if it has one.

use prometheus::{TextEncoder, proto::MetricFamily};

const COREDNS: &str = "coredns_";
const PORTREEVE: &str = "portreeve_dns_";

/// The metrics of CoreDNS 1.14 that exist here, without the prefix. No other name may have its prefix: a later version of
/// CoreDNS could give it another meaning.
const OF_COREDNS: [&str; 31] = [
    "build_info",
    "cache_entries",
    "cache_evictions_total",
    "cache_hits_total",
    "cache_misses_total",
    "cache_prefetch_total",
    "cache_requests_total",
    "cache_served_stale_total",
    "dns_do_requests_total",
    "dns_request_duration_seconds",
    "dns_request_size_bytes",
    "dns_requests_total",
    "dns_response_size_bytes",
    "dns_responses_total",
    "forward_healthcheck_broken_total",
    "forward_max_concurrent_rejects_total",
    "health_request_duration_seconds",
    "health_request_failures_total",
    "hosts_entries",
    "hosts_reload_timestamp_seconds",
    "kubernetes_dns_programming_duration_seconds",
    "panics_total",
    "plugin_enabled",
    "proxy_conn_cache_hits_total",
    "proxy_conn_cache_misses_total",
    "proxy_healthcheck_failures_total",
    "proxy_request_duration_seconds",
    "reload_failed_total",
    "reload_version_info",
    "template_matches_total",
    "template_rr_failures_total",
];

/// The names of the metrics that CoreDNS has, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetricNames {
    /// `portreeve_dns_*`.
    Own,
    /// `coredns_*`, for existing dashboards and alerts.
    CoreDns,
    /// Each series twice: while dashboards are changed from one to the other.
    #[default]
    Both,
}

/// The full names of a family. `portreeve_dns_dns_` is shortened to `portreeve_dns_`.
pub(super) fn names(stem: &str, which: MetricNames) -> impl Iterator<Item = String> {
    let own = format!("{PORTREEVE}{}", stem.trim_start_matches("dns_"));
    let of_coredns = OF_COREDNS.contains(&stem).then(|| format!("{COREDNS}{stem}"));
    let of_coredns = of_coredns.filter(|_| which != MetricNames::Own);
    let own = Some(own).filter(|_| which != MetricNames::CoreDns || of_coredns.is_none());
    of_coredns.into_iter().chain(own)
}

/// Encodes the families, which are registered without a prefix; and those of the process, which have their names.
pub(super) fn text(families: Vec<MetricFamily>, of_process: Vec<MetricFamily>, which: MetricNames) -> String {
    let mut named = of_process;
    for family in families {
        let stem = family.name().to_owned();
        for name in names(&stem, which) {
            let mut family = family.clone();
            family.set_name(name);
            named.push(family);
        }
    }
    let mut text = String::new();
    let written = TextEncoder::new().encode_utf8(&named, &mut text);
    // Only an empty family cannot be encoded, and the registry returns none.
    written.map(|()| text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hickory_server::proto::{op::ResponseCode, rr::RecordType};

    use crate::observe::metrics::{MetricNames, Metrics, Plugin, Transport};

    /// No series is there twice, unless that is asked for.
    #[test]
    fn every_series_has_one_name() {
        let metrics = Metrics::default();
        metrics.queries("dns://:53", ".").count_query(Transport::Tcp, true, RecordType::AAAA, false, 40);
        metrics.set_version(b". {\n  reload\n}\n");
        for (names, want) in [
            (MetricNames::Own, ["portreeve_dns_requests_total{", "portreeve_dns_reload_version_info{"]),
            (MetricNames::CoreDns, ["coredns_dns_requests_total{", "coredns_reload_version_info{"]),
        ] {
            metrics.set_names(names);
            let text = metrics.text();
            let count = |part: &str| text.lines().filter(|line| line.contains(part)).count();
            for start in want {
                assert!(text.lines().any(|line| line.starts_with(start)), "{start} is missing in\n{text}");
            }
            assert_eq!((count("requests_total{family"), count("reload_version_info{")), (1, 1), "{names:?}");
            assert!(text.contains("# TYPE portreeve_dns_lost_total "), "CoreDNS has none");
        }
        // sha512sum of the text.
        let hash = "hash=\"sha512\",value=\"fc4d9863a2274eaa4e12b30bc5d64b16c91d7ee450414691e2a1ceef40d17d91724b75836f638ee4534ef9493f11179b3a9cdace94067006b5ff077e90f47479\"";
        assert!(metrics.text().contains(hash), "{}", metrics.text());
        metrics.set_version(b"other");
        let versions = metrics.text().lines().filter(|line| line.contains("version_info{")).count();
        assert_eq!(versions, 1, "only the present one");
    }

    #[test]
    fn a_metric_of_coredns_has_two_names_and_others_one() {
        let metrics = Metrics::default();
        let queries = metrics.queries("dns://:53", ".");
        queries.count_query(Transport::Tcp, true, RecordType::AAAA, false, 40);
        queries.observe_answer(
            Transport::Tcp,
            ResponseCode::NXDomain,
            Plugin::Kubernetes,
            90,
            Duration::from_millis(1),
        );
        metrics.forward().rejects.inc();
        let text = metrics.text();
        for line in [
            r#"coredns_dns_requests_total{family="2",proto="tcp",server="dns://:53",type="AAAA",view="",zone="."} 1"#,
            r#"portreeve_dns_requests_total{family="2",proto="tcp",server="dns://:53",type="AAAA",view="",zone="."} 1"#,
            r#"coredns_dns_responses_total{plugin="kubernetes",rcode="NXDOMAIN",server="dns://:53",view="",zone="."} 1"#,
            r#"coredns_dns_request_duration_seconds_bucket{server="dns://:53",view="",zone=".",le="0.001"} 1"#,
            "coredns_forward_max_concurrent_rejects_total 1",
            "portreeve_dns_forward_max_concurrent_rejects_total 1",
            "# TYPE coredns_dns_request_size_bytes histogram",
            "# TYPE portreeve_dns_lost_total counter",
            "# TYPE process_resident_memory_bytes gauge",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nis missing in\n{text}");
        }
        assert!(
            !text.contains("coredns_dns_lost_total"),
            "no name is invented under the prefix of CoreDNS: {text}"
        );
    }
}
