//! The cost of DNS answers: queries per second of processor time, client latency, and memory.
//!
//! A server on the loopback of its own network namespace reads 10,000 Services from an API server and is queried
//! for 10,000 names in random order. Client and server share the machine, so the relevant figure is the processor
//! time that the server used for its answers. `$COREDNS` is measured in the same way in the same run, if it names
//! a binary.

mod load;
mod population;
mod report;
mod server;
mod upstream;

use std::{env, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};

use crate::lab::{api_server::ApiServer, kernel::netns::Netns};
use load::Load;
use population::Population;
pub use report::Report;
use server::{Implementation, Server};
use upstream::Upstream;

/// Parameters of the measurement.
#[derive(Debug, Clone, Copy)]
pub struct Parameters {
    pub services: u16,
    /// For each kind of name, once at full speed and once with a single query at a time.
    pub time: Duration,
    /// Queries in flight at full speed.
    pub window: u16,
}

pub async fn run(parameters: &Parameters) -> Result<Report> {
    let netns = Netns::create().await?;
    let population = Population::new(parameters.services);
    let api_server = ApiServer::start_in(&netns)?;
    api_server.put_all(population.objects());
    let upstream = Upstream::start(&netns)?;
    let directory = tempfile::tempdir().context("cannot create a directory")?;
    let kubeconfig = api_server.kubeconfig(directory.path())?;
    let mut kinds = vec![Implementation::Portreeve];
    kinds.extend(env::var_os("COREDNS").map(PathBuf::from).map(Implementation::CoreDns));
    let mut report = Report::default();
    for kind in kinds {
        let name = kind.name();
        let server = Server::start(kind, &netns, directory.path(), &kubeconfig, upstream.address())?;
        let load = Load::new(&netns, server.address(), parameters.time, parameters.window)?;
        let start = load.wait_until_known(&server, &population).await?;
        let mut measured = Vec::new();
        for group in population.groups() {
            measured.push(load.measure(&group, &server)?);
        }
        report.servers.push(report::Measured { name, start, measured, memory: server.memory()? });
        server.end()?;
    }
    Ok(report)
}
