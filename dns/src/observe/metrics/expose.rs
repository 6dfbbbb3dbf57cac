//! The exposition format, with two names for each metric.

use prometheus::{TextEncoder, proto::MetricFamily};

const COREDNS: &str = "coredns_";
const PORTREEVE: &str = "portreeve_dns_";

/// Encodes the families, which are registered without a prefix. `portreeve_dns_dns_` is shortened to
/// `portreeve_dns_`.
pub(super) fn text(families: Vec<MetricFamily>) -> String {
    let mut named = Vec::with_capacity(families.len() * 2);
    for family in families {
        let stem = family.name().to_owned();
        for name in [format!("{COREDNS}{stem}"), format!("{PORTREEVE}{}", stem.trim_start_matches("dns_"))] {
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

    use crate::observe::metrics::{Metrics, Plugin, Transport};

    #[test]
    fn each_metric_has_two_names() {
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
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nis missing in\n{text}");
        }
    }
}
