//! Output of a listing, once or with `--watch`.

use std::{thread, time::Duration};

use anyhow::Result;

use super::{
    document::{Document, Format},
    listing::{Listing, Row},
};

/// Polling interval of `--watch`: map writes cause no events.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct PrintArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORMAT")]
    output: Format,
    /// Continue and print changes until interrupted
    #[arg(short, long)]
    pub watch: bool,
}

impl PrintArgs {
    /// Prints the listing once, or its changes until interrupted.
    pub fn print<R: Row>(self, read: impl Fn() -> Result<Listing<R>>) -> Result<()> {
        let mut previous = read()?;
        let mut flow = Document::full(&previous).print(self.output)?;
        while self.watch && flow.is_continue() {
            thread::sleep(WATCH_INTERVAL);
            let current = read()?;
            if let Some(changes) = Document::changes(&previous, &current) {
                flow = changes.print(self.output)?;
            }
            previous = current;
        }
        Ok(())
    }
}
