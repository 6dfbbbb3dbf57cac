//! The servers of the agent: health, metrics, health check ports and the control socket. They run on a thread
//! of their own, so that a hung agent is detected.

mod coalesced;
mod control_socket;
mod counters;
mod endpoints;
mod events;
mod health_check_servers;
mod listen;
mod pages;

use std::{path::PathBuf, sync::Arc, thread, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use control_socket::ControlSocket;

use super::{
    agent_state::AgentState,
    health_check_ports::WantedHealthChecks,
    status::{Phase, Port},
};
use crate::{
    config::{Pages, ServingConfig},
    datapath,
    k8s::events::Report,
};

pub struct Serve {
    pub config: ServingConfig,
    pub pages: Pages,
    /// The pin directory of the counters.
    pub bpffs: PathBuf,
    /// Path of the control socket.
    pub status_socket: PathBuf,
    pub state: Arc<AgentState>,
    pub health_ports: watch::Receiver<WantedHealthChecks>,
    /// Events for the cluster.
    pub reports: mpsc::UnboundedSender<Report>,
}

/// Errors that end the agent.
pub type Fatal = mpsc::UnboundedReceiver<anyhow::Error>;

/// How often conditions are derived from the status: a fault is logged at most this much later.
const CONDITIONS_INTERVAL: Duration = Duration::from_secs(1);

impl Serve {
    /// Serves until the process ends.
    pub fn start(self) -> Result<Fatal> {
        let (sender, fatal) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new()
            .name("serve".to_owned())
            .spawn(move || runtime.block_on(self.run(sender)))
            .context("cannot start the serving thread")?;
        Ok(fatal)
    }

    async fn run(self, fatal: mpsc::UnboundedSender<anyhow::Error>) {
        let Self { config, pages, bpffs, status_socket, state, health_ports, reports } = self;
        let port = |server: &str, address: Option<_>| {
            address.map(|address| Port { server: server.to_owned(), address })
        };
        let ports = [port("health", config.healthz), port("metrics", config.metrics)];
        state.set_ports(ports.into_iter().flatten().collect());
        let mut phases = state.phases();
        tokio::spawn(refresh_conditions(bpffs.clone(), Arc::clone(&state)));
        let source = ControlSocket { state: Arc::clone(&state), bpffs: bpffs.clone(), pages: pages.clone() };
        tokio::spawn(control_socket::serve(status_socket, source));
        tokio::spawn(events::run(Arc::clone(&state)));
        // While another agent holds the data plane, it serves these addresses.
        if phases.wait_for(|phase| matches!(phase, Phase::Starting | Phase::Serving)).await.is_err() {
            return;
        }
        let listen_config = |address, reason| listen::ListenConfig {
            address,
            reason,
            hard_fail: config.hard_fail,
            fatal: fatal.clone(),
            reports: reports.clone(),
            conditions: state.conditions.clone(),
        };
        if let Some(address) = config.healthz {
            let app = endpoints::health_router(Arc::clone(&state));
            tokio::spawn(listen::serve(
                "health",
                listen_config(address, "FailedToStartProxierHealthcheck"),
                app,
            ));
        }
        if let Some(address) = config.metrics {
            let app = endpoints::metrics_router(Arc::clone(&state), bpffs, pages);
            tokio::spawn(listen::serve("metrics", listen_config(address, "FailedToStartMetricServer"), app));
        }
        health_check_servers::run(health_ports, state, reports).await;
    }
}

/// Here and not in the agent's loop, whose hanging is a condition.
async fn refresh_conditions(bpffs: PathBuf, state: Arc<AgentState>) {
    loop {
        sleep(CONDITIONS_INTERVAL).await;
        state.refresh_conditions();
        // Without the directory there is no data plane yet.
        let _ = datapath::mark_alive(&bpffs);
    }
}
