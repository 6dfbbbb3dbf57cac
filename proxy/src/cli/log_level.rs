//! `log-level`: shows or changes the log level of the running agent.

use anyhow::{Context as _, Result, anyhow};

use super::{
    agents::{FindArgs, Place},
    control, output,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// off, error, warn, info, debug or trace, for all or for one of proxy, dns, programs; without it, the levels are shown
    #[arg(value_name = "[COMPONENT=]LEVEL")]
    level: Option<String>,
    #[command(flatten)]
    find: FindArgs,
}

pub fn run(args: Args) -> Result<()> {
    let Place { socket, .. } = args.find.find()?;
    let response: Option<Result<String, String>> = control::change_log_level(&socket, args.level.as_deref())?;
    let response =
        response.with_context(|| format!("no agent runs: nothing listens on {}", socket.display()))?;
    output::print(&format!("{}\n", response.map_err(|error| anyhow!(error))?))
}
