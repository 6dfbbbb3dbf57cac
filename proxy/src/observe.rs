//! The agent's observability: metrics, health, status, query statistics, and the servers for them.
//!
//! The agent's loop reports to `Telemetry`, which updates the shared `AgentState`; `serve` answers requests
//! from that on a thread of its own.

pub mod agent_state;
pub mod conditions;
pub mod control;
pub mod events;
pub mod health;
mod health_check_ports;
pub mod log_once;
pub mod metrics;
mod no_local_endpoints;
pub mod objects;
pub mod policy_record;
pub mod query_source;
pub mod query_statistics;
pub mod serve;
mod service_changes;
pub mod status;
pub mod telemetry;
mod unserved_parts;
