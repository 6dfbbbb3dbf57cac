//! Metrics, query statistics by client, and the HTTP endpoints for health, readiness and metrics.

pub mod alarms;
pub mod clients;
pub mod faults;
pub mod health;
pub mod heartbeat;
pub mod http;
pub mod metrics;
