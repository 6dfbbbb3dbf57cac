//! The reasons to end the agent.

use std::future::pending;

use anyhow::{Result, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::config_file::ConfigFileWatch;
use crate::{config::WatchedFile, observe::serve::Fatal};

/// Signals, a changed configuration file, and fatal errors of servers.
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
    config_file: Option<ConfigFileWatch>,
    has_new_config: bool,
    /// Fatal errors of the servers.
    fatal: Fatal,
    failure: Option<anyhow::Error>,
}

impl Stop {
    pub fn new(config_file: Option<WatchedFile>, fatal: Fatal) -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            config_file: config_file.map(ConfigFileWatch::new).transpose()?,
            has_new_config: false,
            fatal,
            failure: None,
        })
    }

    pub async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = changed(self.config_file.as_mut()) => self.has_new_config = true,
            Some(failure) = self.fatal.recv() => self.failure = Some(failure),
        }
    }

    /// The agent's exit result. A changed configuration is an error, so that the agent is restarted.
    pub fn result(self) -> Result<()> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        match &self.config_file {
            Some(file) if self.has_new_config => {
                bail!("{} has changed: ending, to be restarted with it", file.path().display())
            }
            _ => Ok(()),
        }
    }
}

async fn changed(file: Option<&mut ConfigFileWatch>) {
    match file {
        Some(file) => file.changed().await,
        None => pending().await,
    }
}
