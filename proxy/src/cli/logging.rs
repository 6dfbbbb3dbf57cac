//! What is said on stderr, and how.

use std::io;

use clap::{ArgAction, Args, ValueEnum};
use tracing::Level;
use tracing_subscriber::EnvFilter;

use crate::kube_proxy_config::LoggingSettings;

#[derive(Debug, Args)]
pub struct LoggingArgs {
    /// Say more on stderr: once for every change, twice for every map write
    #[arg(short, long, action = ArgAction::Count, global = true)]
    verbose: u8,
    /// kube-proxy's -v: 4 and more are for debugging
    #[arg(long = "v", value_name = "LEVEL", global = true, hide = true)]
    klog_verbosity: Option<u32>,
    /// How log lines look [default: text]
    #[arg(long, visible_alias = "logging-format", value_enum, global = true)]
    log_format: Option<LogFormat>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// `default` is what the verb says without being asked; flags win over kube-proxy's file.
pub fn start(args: &LoggingArgs, default: Level, file: Option<LoggingSettings>) {
    let file = file.unwrap_or_default();
    let level = match args.verbose {
        0 => level_of(args.klog_verbosity.unwrap_or(file.verbosity), default),
        1 => Level::DEBUG,
        _ => Level::TRACE,
    };
    // The libraries speak up when something is wrong; how they relocate and poll is their own business. What goes
    // wrong with an API server is told once, by whoever asked it.
    let filter = EnvFilter::new(format!(
        "warn,kube_client=off,portreeve={level},proxy={level},proxy_ebpf={level},dns={level}"
    ));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    let of_file = if file.is_json { LogFormat::Json } else { LogFormat::Text };
    match args.log_format.unwrap_or(of_file) {
        LogFormat::Text => lines.with_ansi(false).init(),
        LogFormat::Json => lines.json().init(),
    }
}

/// klog's numbers: up to 3 is what an operator reads, 4 and 5 are details, the rest is everything.
fn level_of(klog: u32, default: Level) -> Level {
    match klog {
        0..=3 => default,
        4..=5 => Level::DEBUG,
        _ => Level::TRACE,
    }
}
