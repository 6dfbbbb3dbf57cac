//! Listening sockets, with retries while another process has the address: kube-proxy, or an earlier agent.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    time::Duration,
};

use anyhow::anyhow;
use axum::Router;
pub use dns::observe::http::serve_http;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::TcpListener, sync::mpsc, time::sleep};
use tracing::{debug, warn};

use crate::k8s::events::Report;

/// The delay before a failed bind is retried, as in kube-proxy.
const RETRY: Duration = Duration::from_secs(5);
const BACKLOG: i32 = 1024;

pub struct ListenConfig {
    pub address: SocketAddr,
    /// The reason of the event for a failed bind.
    pub reason: &'static str,
    /// A failed bind ends the agent.
    pub hard_fail: bool,
    pub fatal: mpsc::UnboundedSender<anyhow::Error>,
    pub reports: mpsc::UnboundedSender<Report>,
}

/// Serves the address for the rest of the agent's life.
pub async fn serve(server: &'static str, config: ListenConfig, app: Router) {
    let ListenConfig { address, reason, hard_fail, fatal, reports } = config;
    let mut is_logged = false;
    loop {
        match bind(address) {
            Ok(listener) => {
                debug!(server, %address, "serving");
                serve_http(listener, app).await
            }
            Err(error) if hard_fail => {
                report_failure(&reports, reason, server, address, &error);
                // The agent may be ending already.
                let _ = fatal.send(anyhow!(error).context(format!("cannot serve {server} on {address}")));
                return;
            }
            Err(error) if !is_logged => {
                is_logged = true;
                report_failure(&reports, reason, server, address, &error);
                warn!(server, %address, %error, "cannot listen, will retry");
            }
            Err(_) => {}
        }
        sleep(RETRY).await;
    }
}

fn report_failure(
    reports: &mpsc::UnboundedSender<Report>,
    reason: &'static str,
    server: &str,
    address: SocketAddr,
    error: &io::Error,
) {
    // Without an API server there is no receiver.
    let _ = reports.send(Report::of_server(reason, format!("cannot serve {server} on {address}: {error}")));
}

/// `::` is every IPv6 address, and leaves the IPv4 ones to others.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(StdListener::from(socket))
}
