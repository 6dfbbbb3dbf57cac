//! Output of a listing, once or with `--watch`.

use std::{thread, time::Duration};

use anyhow::Result;

use super::{
    document::{Document, Headers},
    format::{Field, Format},
    listing::{Listing, Row},
};

/// Polling interval of `--watch`: map writes cause no events.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, clap::Args)]
pub struct PrintArgs {
    /// Output format: table, wide, json, yaml, name, custom-columns=HEADER:.field,.., or jsonpath=TEMPLATE with kubectl's
    /// braces, such as {.items[*].service}, where .items is the list of rows
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    output: Format,
    /// Continue and print changes until interrupted
    #[arg(short, long)]
    pub watch: bool,
    /// Print tables without headers
    #[arg(long)]
    no_headers: bool,
    /// Sort by a field of the JSON output, such as .translated
    #[arg(long, value_name = "FIELD")]
    sort_by: Option<Field>,
}

impl PrintArgs {
    /// Prints the listing once, or its changes until interrupted.
    pub fn print<R: Row>(&self, read: impl Fn() -> Result<Listing<R>>) -> Result<()> {
        let mut previous = read()?;
        let headers = if self.no_headers { Headers::None } else { Headers::Shown };
        let sort_by = self.sort_by.as_ref();
        let mut flow = Document::full(&previous).sorted_by(sort_by)?.print(&self.output, headers)?;
        while self.watch && flow.is_continue() {
            thread::sleep(WATCH_INTERVAL);
            let current = read()?;
            if let Some(changes) = Document::changes(&previous, &current) {
                // As kubectl: the headers are printed once.
                flow = changes.sorted_by(sort_by)?.print(&self.output, Headers::None)?;
            }
            previous = current;
        }
        Ok(())
    }
}
