//! What is said on stdout.

use std::{
    io::{self, IsTerminal as _, Write as _},
    ops::ControlFlow,
};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::error::chain;

/// Tables are read in terminals and pasted into mails.
const WIDTH: u16 = 80;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub struct OutputArgs {
    /// For people or for programs
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORMAT")]
    pub output: Format,
}

/// A reader that has seen enough is no failure.
pub fn print(text: &str) -> Result<()> {
    print_more(text).map(drop)
}

/// Tells whether anybody still reads.
pub fn print_more(text: &str) -> Result<ControlFlow<()>> {
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

#[expect(clippy::print_stderr, reason = "this is where the one sentence about a failure is said")]
pub fn complain(error: &anyhow::Error) {
    eprintln!("portreeve: {}", chain(error.as_ref()));
}

pub fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if !io::stdout().is_terminal() {
        // The last two are blank and are cut off when it is printed.
        table.set_width(WIDTH + 2);
    }
    table
}
