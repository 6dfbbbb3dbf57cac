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
use tracing::debug;

use crate::{
    k8s::events::Report,
    observe::conditions::{ConditionType, Conditions, Fault},
};

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
    pub conditions: Conditions,
}

/// Serves the address for the rest of the agent's life.
pub async fn serve(server: &'static str, config: ListenConfig, app: Router) {
    let ListenConfig { address, reason, hard_fail, fatal, reports, conditions } = config;
    let mut is_reported = false;
    loop {
        match bind(address) {
            Ok(listener) => {
                conditions.set(ConditionType::AddressesBound, server, None);
                debug!(server, %address, "serving");
                serve_http(listener, app).await
            }
            Err(error) if hard_fail => {
                report_failure(&reports, reason, server, address, &error);
                // The agent may be ending already.
                let _ = fatal.send(anyhow!(error).context(format!("cannot serve {server} on {address}")));
                return;
            }
            Err(error) => {
                if !std::mem::replace(&mut is_reported, true) {
                    report_failure(&reports, reason, server, address, &error);
                }
                conditions.set(ConditionType::AddressesBound, server, [unbound(server, address, &error)]);
            }
        }
        sleep(RETRY).await;
    }
}

fn unbound(server: &str, address: SocketAddr, error: &io::Error) -> Fault {
    let reason = if error.kind() == io::ErrorKind::AddrInUse { "AddressInUse" } else { "CannotListen" };
    let message = format!("cannot serve {server} on {address}, will retry: {error}");
    Fault::new(address.to_string(), reason, message)
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_taken_port_is_a_condition_until_it_is_free() {
        let taken = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = taken.local_addr().unwrap();
        let (fatal, _fatal) = mpsc::unbounded_channel();
        let (reports, _reports) = mpsc::unbounded_channel();
        let conditions = Conditions::default();
        let reason = "FailedToStartProxierHealthcheck";
        let config = ListenConfig {
            address,
            reason,
            hard_fail: false,
            fatal,
            reports,
            conditions: conditions.clone(),
        };
        tokio::spawn(serve("health", config, Router::new()));
        let faults = || conditions.all().into_iter().filter(|one| one.is_fault()).collect::<Vec<_>>();
        sleep(RETRY / 2).await;
        let found = faults();
        assert_eq!((found.len(), found[0].reason.as_str()), (1, "AddressInUse"), "{found:?}");
        assert!(found[0].message.contains(&address.to_string()), "{found:?}");
        drop(taken);
        sleep(RETRY).await;
        assert_eq!((faults(), conditions.all().len()), (Vec::new(), 1));
    }
}
