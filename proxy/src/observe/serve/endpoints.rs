//! The paths of the health and metrics servers, as upstream has them.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context as _;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use jiff::Timestamp;
use tokio::task::spawn_blocking;
use tracing::warn;

use super::{counters::counters, pages};
use crate::{
    config::Pages,
    observe::{agent_state::Vitals, health::Answer, metrics::Counters},
};

/// Upstream says so of everything: nobody is to take an answer for a page.
const NO_SNIFF: (header::HeaderName, &str) = (header::X_CONTENT_TYPE_OPTIONS, "nosniff");
const PLAIN: (header::HeaderName, &str) = (header::CONTENT_TYPE, "text/plain; charset=utf-8");
const METRICS: (header::HeaderName, &str) =
    (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
const JSON: (header::HeaderName, &str) = (header::CONTENT_TYPE, "application/json");

pub fn health(vitals: Arc<Vitals>) -> Router {
    Router::new().route("/healthz", any(healthz)).route("/livez", any(livez)).with_state(vitals)
}

async fn healthz(State(vitals): State<Arc<Vitals>>) -> Response {
    let answer = vitals.health().healthz(Timestamp::now());
    vitals.metrics.healthz.with_label_values(&[answer.status().to_string()]).inc();
    respond(answer)
}

async fn livez(State(vitals): State<Arc<Vitals>>) -> Response {
    let answer = vitals.health().livez(Timestamp::now());
    vitals.metrics.livez.with_label_values(&[answer.status().to_string()]).inc();
    respond(answer)
}

pub fn respond(answer: Answer) -> Response {
    let status = if answer.is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [JSON, NO_SNIFF], answer.body).into_response()
}

/// What the metrics server answers from.
struct Metrics {
    vitals: Arc<Vitals>,
    bpffs: PathBuf,
    pages: Pages,
}

pub fn metrics(vitals: Arc<Vitals>, bpffs: PathBuf, pages: Pages) -> Router {
    Router::new()
        .route("/metrics", any(all_metrics))
        .route("/metrics/slis", any(slis))
        .route("/healthz", any(async || ([PLAIN, NO_SNIFF], "ok")))
        .route("/proxyMode", any(async || ([PLAIN, NO_SNIFF], "ebpf")))
        .route("/configz", any(configz))
        .route("/statusz", any(statusz))
        .route("/flagz", any(flagz))
        .with_state(Arc::new(Metrics { vitals, bpffs, pages }))
}

async fn all_metrics(State(metrics): State<Arc<Metrics>>) -> Response {
    let bpffs = metrics.bpffs.clone();
    // The kernel's counters are read by system calls, thousands of them.
    let kernel = spawn_blocking(move || counters(&bpffs)).await;
    // The rest is wanted most when the data plane is broken.
    let kernel = kernel.context("the reader broke off").flatten().unwrap_or_else(|error| {
        warn!(error = %format_args!("{error:#}"), "metrics are told without what the kernel counted");
        metrics.vitals.metrics.unread_counters.inc();
        Counters::default()
    });
    let text = metrics.vitals.metrics.render(&kernel);
    match text {
        Ok(text) => ([METRICS, NO_SNIFF], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, [PLAIN, NO_SNIFF], format!("{error}\n")).into_response()
        }
    }
}

async fn slis(State(metrics): State<Arc<Metrics>>) -> Response {
    let is_healthy = metrics.vitals.health().is_healthy(Timestamp::now());
    ([METRICS, NO_SNIFF], pages::slis(is_healthy)).into_response()
}

async fn configz(State(metrics): State<Arc<Metrics>>) -> Response {
    ([JSON, NO_SNIFF], metrics.pages.configz.clone()).into_response()
}

async fn statusz(State(metrics): State<Arc<Metrics>>) -> Response {
    ([PLAIN, NO_SNIFF], pages::statusz(&metrics.vitals.status(), Timestamp::now())).into_response()
}

async fn flagz(State(metrics): State<Arc<Metrics>>) -> Response {
    ([PLAIN, NO_SNIFF], pages::flagz(&metrics.pages.arguments)).into_response()
}
