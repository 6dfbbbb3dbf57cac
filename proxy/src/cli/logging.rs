//! Logging to stderr.

use std::io;

use clap::{ArgAction, Args, ValueEnum};
use tracing::Level;
use tracing_subscriber::EnvFilter;

use crate::kube_proxy_config::LoggingSettings;

#[derive(Debug, Args)]
pub struct LoggingArgs {
    /// More log messages: once for every change, twice for every map write
    #[arg(short, long, action = ArgAction::Count, global = true)]
    verbose: u8,
    /// kube-proxy's -v: 4 and above log debug messages
    #[arg(long = "v", value_name = "LEVEL", global = true, hide = true)]
    klog_verbosity: Option<u32>,
    /// Format of log lines [default: text]
    #[arg(long, visible_alias = "logging-format", value_enum, global = true)]
    log_format: Option<LogFormat>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Starts logging. `default` is the level of the verb without flags. Flags override kube-proxy's file.
pub fn start(args: &LoggingArgs, default: Level, file: Option<LoggingSettings>) {
    let file = file.unwrap_or_default();
    let level = match args.verbose {
        0 => level_of_klog(args.klog_verbosity.unwrap_or(file.verbosity), default),
        1 => Level::DEBUG,
        _ => Level::TRACE,
    };
    // Libraries log warnings only. kube_client is off: the callers log errors of API requests, once.
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

/// The level of a klog verbosity: up to 3 for operators, 4 and 5 debug, above trace.
fn level_of_klog(klog: u32, default: Level) -> Level {
    match klog {
        0..=3 => default,
        4..=5 => Level::DEBUG,
        _ => Level::TRACE,
    }
}
