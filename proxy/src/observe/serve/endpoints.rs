//! The paths of the health and metrics servers, as in kube-proxy.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use jiff::Timestamp;
use tokio::task::spawn_blocking;
use tracing::warn;

use super::{coalesced::Coalesced, counters::read_counters, pages};
use crate::{
    config::{KernelSeries, Pages},
    observe::{agent_state::AgentState, health::HealthResponse, metrics::KernelCounters},
};

/// Sent with every response, as kube-proxy does.
const NO_SNIFF: (header::HeaderName, &str) = (header::X_CONTENT_TYPE_OPTIONS, "nosniff");
const PLAIN: (header::HeaderName, &str) = (header::CONTENT_TYPE, "text/plain; charset=utf-8");
const METRICS: (header::HeaderName, &str) =
    (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
const JSON: (header::HeaderName, &str) = (header::CONTENT_TYPE, "application/json");

pub fn health_router(state: Arc<AgentState>) -> Router {
    Router::new().route("/healthz", any(healthz)).route("/livez", any(livez)).with_state(state)
}

async fn healthz(State(state): State<Arc<AgentState>>) -> Response {
    let response = state.health().healthz(Timestamp::now());
    state.metrics.healthz.with_label_values(&[response.status().to_string()]).inc();
    respond(response)
}

async fn livez(State(state): State<Arc<AgentState>>) -> Response {
    let response = state.health().livez(Timestamp::now());
    state.metrics.livez.with_label_values(&[response.status().to_string()]).inc();
    respond(response)
}

pub fn respond(response: HealthResponse) -> Response {
    let status = if response.is_ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [JSON, NO_SNIFF], response.body).into_response()
}

/// The state of the metrics server.
struct MetricsServer {
    state: Arc<AgentState>,
    bpffs: PathBuf,
    pages: Pages,
    /// The metrics as text, or the error.
    metrics: Coalesced<Result<Bytes, String>>,
}

/// The age up to which the metrics are sent again. Reading the kernel's counters takes thousands of system calls.
const METRICS_MAX_AGE: Duration = Duration::from_secs(1);

pub fn metrics_router(state: Arc<AgentState>, bpffs: PathBuf, pages: Pages) -> Router {
    Router::new()
        .route("/metrics", any(all_metrics))
        .route("/metrics/slis", any(slis))
        .route("/healthz", any(async || ([PLAIN, NO_SNIFF], "ok")))
        .route("/proxyMode", any(async || ([PLAIN, NO_SNIFF], "ebpf")))
        .route("/configz", any(configz))
        .route("/statusz", any(statusz))
        .route("/flagz", any(flagz))
        .with_state(Arc::new(MetricsServer { state, bpffs, pages, metrics: Coalesced::new(METRICS_MAX_AGE) }))
}

async fn all_metrics(State(server): State<Arc<MetricsServer>>) -> Response {
    // A task of its own: if the client is gone, its computation still counts as one in progress.
    let text = tokio::spawn(async move { server.metrics.get(async || server.metrics_text().await).await });
    match text.await.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(text) => ([METRICS, NO_SNIFF], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, [PLAIN, NO_SNIFF], format!("{error}\n")).into_response()
        }
    }
}

impl MetricsServer {
    async fn metrics_text(&self) -> Result<Bytes, String> {
        metrics_text(&self.state, &self.bpffs, self.pages.series).await
    }
}

/// The metrics as text. Errors: they cannot be written as text.
pub async fn metrics_text(state: &AgentState, bpffs: &Path, series: KernelSeries) -> Result<Bytes, String> {
    let bpffs = bpffs.to_owned();
    let kernel = spawn_blocking(move || read_counters(&bpffs, series)).await;
    // The other metrics are needed most when the data plane is broken.
    let kernel = kernel.context("the reader has panicked").flatten().unwrap_or_else(|error| {
        warn!(error = %format_args!("{error:#}"), "metrics lack the kernel's counters");
        state.metrics.unread_counters.inc();
        KernelCounters::default()
    });
    let status = state.status();
    state.metrics.dns_faults.set(status.dns_faults.len() as i64);
    state.metrics.set_conditions(&status.conditions);
    if let Some(source) = &status.source {
        state.metrics.set_source(source);
    }
    state.metrics.render(&kernel).map(Bytes::from).map_err(|error| error.to_string())
}

async fn slis(State(server): State<Arc<MetricsServer>>) -> Response {
    let is_healthy = server.state.health().is_healthy(Timestamp::now());
    ([METRICS, NO_SNIFF], pages::slis(is_healthy)).into_response()
}

async fn configz(State(server): State<Arc<MetricsServer>>) -> Response {
    ([JSON, NO_SNIFF], server.pages.configz.clone()).into_response()
}

async fn statusz(State(server): State<Arc<MetricsServer>>) -> Response {
    ([PLAIN, NO_SNIFF], pages::statusz(&server.state.status(), Timestamp::now())).into_response()
}

async fn flagz(State(server): State<Arc<MetricsServer>>) -> Response {
    ([PLAIN, NO_SNIFF], pages::flagz(&server.pages.arguments)).into_response()
}
