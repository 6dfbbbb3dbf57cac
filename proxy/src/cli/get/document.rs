//! One unit of output: the full listing, or its changes with `--watch`.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::ContentArrangement;
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::{
    footer::Footer,
    listing::{Listing, Row},
};
use crate::cli::output;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// 80 columns, unless a terminal has more
    Table,
    /// A table with all columns, of any width
    Wide,
    Json,
    Yaml,
    /// One name per line
    Name,
}

pub struct Document<'a, R> {
    rows: Vec<&'a R>,
    footer: &'a Footer,
    /// The ids of removed rows.
    gone: Vec<String>,
}

impl<'a, R: Row> Document<'a, R> {
    pub fn full(listing: &'a Listing<R>) -> Self {
        Self { rows: listing.rows.iter().collect(), footer: &listing.footer, gone: Vec::new() }
    }

    /// Returns the changes, or `None` if only time has passed.
    pub fn changes(before: &Listing<R>, now: &'a Listing<R>) -> Option<Self> {
        let mut gone: BTreeMap<String, &R> = before.rows.iter().map(|row| (row.id(), row)).collect();
        let mut rows = Vec::new();
        for row in &now.rows {
            if gone.remove(&row.id()).is_none_or(|earlier| !row.is_unchanged(earlier)) {
                rows.push(row);
            }
        }
        let is_unchanged = rows.is_empty() && gone.is_empty() && before.footer == now.footer;
        let gone = gone.into_keys().collect();
        (!is_unchanged).then_some(Self { rows, footer: &now.footer, gone })
    }
}

impl<R: Row> Serialize for Document<'_, R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(R::LIST, &self.rows)?;
        self.footer.serialize_into::<S>(&mut map)?;
        if !self.gone.is_empty() {
            map.serialize_entry("gone", &self.gone)?;
        }
        map.end()
    }
}

impl<R: Row> Document<'_, R> {
    pub fn print(&self, format: Format) -> Result<ControlFlow<()>> {
        output::print_while_read(&self.text(format)?)
    }

    pub fn text(&self, format: Format) -> Result<String> {
        Ok(match format {
            Format::Table => self.table(false),
            Format::Wide => self.table(true),
            Format::Json => serde_json::to_string_pretty(self)? + "\n",
            // Each listing or change is one document of a YAML stream.
            Format::Yaml => format!("---\n{}", serde_saphyr::to_string(self)?),
            Format::Name => {
                let names: BTreeSet<String> = self.rows.iter().map(|row| row.name()).collect();
                names.into_iter().map(|name| name + "\n").collect()
            }
        })
    }

    fn table(&self, is_wide: bool) -> String {
        let mut table = output::table();
        if is_wide {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
        table.set_header(R::header(is_wide));
        table.add_rows(self.rows.iter().map(|row| row.cells(is_wide)));
        // No left margin, to use all of the 80 columns.
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let mut text = if self.rows.is_empty() { String::new() } else { format!("{}\n", table.trim_fmt()) };
        text.extend(self.gone.iter().map(|id| format!("gone: {id}\n")));
        text += &self.footer.text();
        if text.is_empty() { format!("no {}\n", R::LIST) } else { text }
    }
}
