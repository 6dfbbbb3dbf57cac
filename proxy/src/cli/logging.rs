//! What is said on stderr, and how.

use std::io;

use clap::{ArgAction, Args, ValueEnum};
use tracing::Level;
use tracing_subscriber::EnvFilter;

#[derive(Debug, Args)]
pub struct LoggingArgs {
    /// Say more on stderr: once for every change, twice for every map write
    #[arg(short, long, action = ArgAction::Count, global = true)]
    verbose: u8,
    /// How log lines look
    #[arg(long, value_enum, default_value = "text", global = true)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// `default` is what the verb says without being asked.
pub fn start(args: &LoggingArgs, default: Level) {
    let level = match args.verbose {
        0 => default,
        1 => Level::DEBUG,
        _ => Level::TRACE,
    };
    // The libraries speak up when something is wrong; how they relocate and poll is their own business.
    let filter =
        EnvFilter::new(format!("warn,portreeve={level},proxy={level},proxy_ebpf={level},dns={level}"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    match args.log_format {
        LogFormat::Text => lines.with_ansi(false).init(),
        LogFormat::Json => lines.json().init(),
    }
}
