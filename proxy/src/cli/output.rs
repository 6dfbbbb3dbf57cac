//! Output to stdout, and the error message on stderr.

use std::{
    io::{self, IsTerminal as _, Write as _},
    ops::ControlFlow,
};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::error::chain;

/// Width of tables that are not printed to a terminal.
const WIDTH: u16 = 80;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub struct OutputArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORMAT")]
    pub output: Format,
}

/// Prints a text. A closed pipe is not an error.
pub fn print(text: &str) -> Result<()> {
    print_while_read(text).map(drop)
}

/// Prints a text. Returns `Break` if the reader closed the pipe.
pub fn print_while_read(text: &str) -> Result<ControlFlow<()>> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        written => written.context("cannot write to standard output").map(ControlFlow::Continue),
    }
}

pub fn print_json(value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    print(&text)
}

#[expect(clippy::print_stderr, reason = "the error message of a failed command")]
pub fn print_error(error: &anyhow::Error) {
    eprintln!("portreeve: {}", chain(error.as_ref()));
}

pub fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if !io::stdout().is_terminal() {
        // The last two columns are padding, which `trim_fmt` removes.
        table.set_width(WIDTH + 2);
    }
    table
}

/// A table whose lines are as long as their content.
pub fn unwrapped_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}
