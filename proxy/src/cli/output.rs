//! Output to stdout, and the error message on stderr.

use std::{
    io::{self, IsTerminal as _, Write as _},
    ops::ControlFlow,
};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::{config, error::chain};

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

#[expect(clippy::print_stderr, reason = "what does not belong to the output")]
pub fn print_warning(text: &str) {
    eprintln!("portreeve: {text}");
}

/// A text in the colour of its meaning, as `cell`.
pub fn coloured(text: &str, tone: Tone) -> String {
    let code = match tone {
        Tone::Good if has_colour() => 32,
        Tone::Bad if has_colour() => 31,
        Tone::Good | Tone::Bad | Tone::Plain => return text.to_owned(),
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

/// A table as kubectl prints it: one line per row, as long as its content, also in a narrow terminal and in a pipe.
pub fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// The text of a table, without margins. A cell is one line: a line break in it becomes a comma.
pub fn text(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    format!("{}\n", table.trim_fmt())
}

/// The meaning of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Good,
    Bad,
    Plain,
}

/// A cell in the colour of its meaning, if the output is a terminal and `NO_COLOR` (no-color.org) is not set.
pub fn cell(text: impl ToString, tone: Tone) -> Cell {
    let cell = Cell::new(text);
    match tone {
        Tone::Good if has_colour() => cell.fg(Color::Green),
        Tone::Bad if has_colour() => cell.fg(Color::Red),
        Tone::Good | Tone::Bad | Tone::Plain => cell,
    }
}

/// Not in tests, whose output is compared: they may run in a terminal.
fn has_colour() -> bool {
    !cfg!(test) && io::stdout().is_terminal() && !config::is_colour_refused()
}
