//! Logging to stderr, with the last lines in memory.

use std::sync::{Mutex, PoisonError};

use clap::{ArgAction, Args, ValueEnum};
use tracing::{Level, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt as _,
    fmt::{FormatFields, format},
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

use crate::{
    kube_proxy_config::LoggingSettings,
    log_level::{self, LogLevels},
    log_ring::LoggedStderr,
};

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
    let levels = LogLevels::all(LevelFilter::from_level(level));
    let (filter, handle) = reload::Layer::new(EnvFilter::new(levels.directives()));
    let levels_of_process = Mutex::new(levels);
    log_level::set_control(move |change| {
        let mut known = levels_of_process.lock().unwrap_or_else(PoisonError::into_inner);
        let mut levels = *known;
        if !change.is_empty() {
            levels.change(change)?;
            handle.reload(EnvFilter::new(levels.directives())).map_err(|error| error.to_string())?;
            *known = levels;
        }
        Ok(levels.to_string())
    });
    let of_file = if file.is_json { LogFormat::Json } else { LogFormat::Text };
    let lines = tracing_subscriber::fmt::layer().with_writer(LoggedStderr::new).with_target(false);
    let log = tracing_subscriber::registry().with(filter);
    match args.log_format.unwrap_or(of_file) {
        LogFormat::Text => log.with(lines.with_ansi(false).fmt_fields(fields())).init(),
        LogFormat::Json => log.with(lines.json()).init(),
    }
}

/// The message, then `key=value` with quotes as in logfmt: around a value that is empty or has a space, a quote, an equals
/// sign or a control character.
fn fields() -> impl for<'a> FormatFields<'a> + 'static {
    format::debug_fn(|writer, field, value| match field.name() {
        "message" => write!(writer, "{value:?}"),
        name => write!(writer, "{name}={}", quoted(&format!("{value:?}"))),
    })
    .delimited(" ")
}

/// Text fields arrive with quotes, values of other types without.
fn quoted(value: &str) -> String {
    let is_quoted = value.len() > 1 && value.starts_with('"') && value.ends_with('"');
    let inner = if is_quoted { &value[1..value.len() - 1] } else { value };
    let is_plain =
        |letter: char| !letter.is_whitespace() && !letter.is_control() && !matches!(letter, '"' | '=' | '\\');
    if !inner.is_empty() && inner.chars().all(is_plain) {
        inner.to_owned()
    } else if is_quoted {
        value.to_owned()
    } else {
        format!("{value:?}")
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

#[cfg(test)]
mod quoting {
    use super::quoted;

    #[test]
    fn values_are_quoted_as_in_logfmt() {
        for (value, want) in [
            ("\"eth0\"", "eth0"),
            ("shop/web", "shop/web"),
            ("3", "3"),
            ("\"\"", "\"\""),
            ("", "\"\""),
            ("\"two words\"", "\"two words\""),
            ("two words", "\"two words\""),
            ("a=b", "\"a=b\""),
            ("line\nbreak level=ERROR", "\"line\\nbreak level=ERROR\""),
            ("Some(\"x\")", "\"Some(\\\"x\\\")\""),
        ] {
            assert_eq!(quoted(value), want, "{value:?}");
        }
    }
}
