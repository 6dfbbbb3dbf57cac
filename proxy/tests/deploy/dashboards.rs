//! The dashboard of Services, which is made here from its panels.

use serde_json::{Value, json};

/// A panel: its queries with the legends of their series.
struct Panel {
    title: &'static str,
    unit: &'static str,
    queries: &'static [(&'static str, &'static str)],
}

const fn panel(
    title: &'static str,
    unit: &'static str,
    queries: &'static [(&'static str, &'static str)],
) -> Panel {
    Panel { title, unit, queries }
}

/// `SERVICE` stands for the chosen Services, `BY` for the labels of a Service, `RATE` for the interval of Grafana.
const PANELS: [Panel; 8] = [
    panel(
        "Connections opened",
        "cps",
        &[(
            "topk(10, sum BY (rate(portreeve_service_tcp_connect_duration_seconds_count{SERVICE}[RATE])))",
            "{{namespace}}/{{service}}",
        )],
    ),
    panel(
        "Connections failed, by reason",
        "cps",
        &[("sum by (reason) (rate(portreeve_service_tcp_failures_total{SERVICE}[RATE])) > 0", "{{reason}}")],
    ),
    panel(
        "Connections failed, by Service",
        "cps",
        &[(
            "topk(10, sum BY (rate(portreeve_service_tcp_failures_total{SERVICE}[RATE]))) > 0",
            "{{namespace}}/{{service}}",
        )],
    ),
    panel(
        "Time to connect",
        "s",
        &[
            (
                "histogram_quantile(0.5, sum by (le) (rate(portreeve_service_tcp_connect_duration_seconds_bucket{SERVICE}[RATE])))",
                "50 %",
            ),
            (
                "histogram_quantile(0.99, sum by (le) (rate(portreeve_service_tcp_connect_duration_seconds_bucket{SERVICE}[RATE])))",
                "99 %",
            ),
        ],
    ),
    panel(
        "Connections open",
        "short",
        &[(
            "topk(10, sum BY (portreeve_service_tcp_connections_open{SERVICE}))",
            "{{namespace}}/{{service}}",
        )],
    ),
    panel(
        "Bytes",
        "Bps",
        &[
            ("sum(rate(portreeve_service_tcp_sent_bytes_total{SERVICE}[RATE]))", "to backends"),
            ("sum(rate(portreeve_service_tcp_received_bytes_total{SERVICE}[RATE]))", "from backends"),
        ],
    ),
    panel(
        "Round-trip time, mean",
        "s",
        &[(
            "topk(10, sum BY (rate(portreeve_service_tcp_round_trip_seconds_sum{SERVICE}[RATE])) / sum BY \
             (rate(portreeve_service_tcp_round_trip_seconds_count{SERVICE}[RATE])))",
            "{{namespace}}/{{service}}",
        )],
    ),
    panel(
        "Segments sent again",
        "short",
        &[(
            "topk(10, sum BY (rate(portreeve_service_tcp_retransmissions_total{SERVICE}[RATE]))) > 0",
            "{{namespace}}/{{service}}",
        )],
    ),
];

/// The dashboard as Grafana imports it.
pub fn services() -> Value {
    let panels: Vec<Value> = PANELS.iter().enumerate().map(|(at, panel)| panel.json(at)).collect();
    let variable = |name: &str, query: &str| {
        json!({
            "name": name, "type": "query", "query": query, "refresh": 2,
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "includeAll": true, "multi": true, "allValue": ".*", "current": {"text": "All", "value": "$__all"}
        })
    };
    json!({
        "title": "Portreeve / Services",
        "uid": "portreeve-services",
        "schemaVersion": 39,
        "version": 1,
        "editable": true,
        "tags": ["portreeve"],
        "refresh": "1m",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus"},
            variable("namespace", "label_values(portreeve_service_tcp_connections_open, namespace)"),
            variable(
                "service",
                "label_values(portreeve_service_tcp_connections_open{namespace=~\"$namespace\"}, service)",
            ),
        ]},
        "panels": panels
    })
}

impl Panel {
    fn json(&self, at: usize) -> Value {
        let query = |(number, (expression, legend)): (u8, &(&str, &str))| {
            let expression = expression
                .replace("SERVICE", r#"namespace=~"$namespace",service=~"$service""#)
                .replace("BY", "by (namespace, service)")
                .replace("RATE", "$__rate_interval");
            json!({"refId": char::from(b'A' + number).to_string(), "expr": expression, "legendFormat": legend})
        };
        json!({
            "id": at + 1,
            "type": "timeseries",
            "title": self.title,
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "gridPos": {"h": 8, "w": 12, "x": at % 2 * 12, "y": at / 2 * 8},
            "fieldConfig": {"defaults": {"unit": self.unit, "min": 0}, "overrides": []},
            "targets": (0..).zip(self.queries).map(query).collect::<Vec<_>>()
        })
    }
}
