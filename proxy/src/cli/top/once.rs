//! `top --once`: the rates between two readings, as a table or JSON.

use std::{thread, time::Duration};

use anyhow::Result;
use serde::Serialize;

use super::{
    dns::DnsRates,
    grid::{Grid, Sort},
    rates::Rates,
    reading::{Reading, Source},
    tables,
};
use crate::{
    cli::{
        get::dns::query_statistics,
        output::{self, Format, Tone},
    },
    observe::query_statistics::QueryStatistics,
};

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    rates: &'a Rates,
    /// `None`: no agent runs, or it serves no DNS.
    dns: Option<DnsRates>,
}

pub fn run(source: &Source, first: Reading, delay: Duration, format: Format) -> Result<()> {
    // Without an agent the counters of the kernel are read all the same.
    let statistics = || -> Option<QueryStatistics> {
        (format == Format::Json).then(|| query_statistics(&source.place.socket, String::new).ok()).flatten()
    };
    let before = statistics();
    thread::sleep(delay);
    let now = source.read()?;
    let rates = Rates::between(&first, Some(&first), &now, |_| format == Format::Json);
    match format {
        Format::Json => {
            let dns =
                statistics().map(|now| DnsRates::between(before.as_ref(), &now, rates.interval_seconds));
            output::print_json(&Document { rates: &rates, dns })
        }
        Format::Table => output::print(&text(tables::services(&rates.services))),
    }
}

/// All columns, the busiest Services first.
fn text(grid: Grid) -> String {
    let grid = grid.sorted(Sort { column: 1, is_reversed: false });
    if grid.lines.is_empty() {
        return "no services\n".to_owned();
    }
    let mut table = output::table();
    table.set_header(grid.columns.iter().map(|column| column.title));
    table.add_rows(grid.lines.iter().map(|line| {
        let tone = |is_bad: bool| if is_bad { Tone::Bad } else { Tone::Plain };
        line.cells.iter().map(|cell| output::cell(&cell.text, tone(cell.is_bad))).collect::<Vec<_>>()
    }));
    output::text(table)
}
