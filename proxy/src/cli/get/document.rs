//! One unit of output: the full listing, or its changes with `--watch`.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use anyhow::Result;
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::{
    footer::Footer,
    format::{Field, Format},
    listing::{Listing, Row},
};
use crate::cli::output;

/// Whether a table has headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Headers {
    Shown,
    None,
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
    /// Sorts the rows by a field, if one is given.
    pub fn sorted_by(mut self, field: Option<&Field>) -> Result<Self> {
        if let Some(field) = field {
            let keyed = self.rows.iter().map(|row| Ok((serde_json::to_value(row)?, *row)));
            let mut keyed = keyed.collect::<Result<Vec<_>>>()?;
            keyed.sort_by(|(a, _), (b, _)| field.compare(a, b));
            self.rows = keyed.into_iter().map(|(_, row)| row).collect();
        }
        Ok(self)
    }

    pub fn print(&self, format: &Format, headers: Headers) -> Result<ControlFlow<()>> {
        output::print_while_read(&self.text(format, headers)?)
    }

    pub fn text(&self, format: &Format, headers: Headers) -> Result<String> {
        Ok(match format {
            Format::Table => self.table(false, headers),
            Format::Wide => self.table(true, headers),
            Format::Json => serde_json::to_string_pretty(self)? + "\n",
            // Each listing or change is one document of a YAML stream.
            Format::Yaml => format!("---\n{}", serde_saphyr::to_string(self)?),
            Format::Name => {
                let names: BTreeSet<String> = self.rows.iter().map(|row| row.name()).collect();
                names.into_iter().map(|name| name + "\n").collect()
            }
            Format::Columns(columns) => self.columns(columns, headers)?,
            Format::JsonPath(template) => {
                let mut document = serde_json::to_value(self)?;
                // The usual name of a list, whatever its own is.
                document["items"] = document[R::LIST].clone();
                template.text(&document)
            }
        })
    }

    fn table(&self, is_wide: bool, headers: Headers) -> String {
        let mut table = output::table();
        if headers == Headers::Shown {
            table.set_header(R::header(is_wide));
        }
        let header = R::header(is_wide);
        table.add_rows(self.rows.iter().map(|row| {
            let cells = row.cells(is_wide).into_iter().zip(&header);
            cells.map(|(text, header)| output::cell(text, row.tone(header))).collect::<Vec<_>>()
        }));
        let mut text = if self.rows.is_empty() { String::new() } else { output::text(table) };
        text.extend(self.gone.iter().map(|id| format!("gone: {id}\n")));
        text += &self.footer.text();
        if text.is_empty() { format!("no {}\n", R::LIST) } else { text }
    }

    fn columns(&self, columns: &[(String, Field)], headers: Headers) -> Result<String> {
        let mut table = output::table();
        if headers == Headers::Shown {
            table.set_header(columns.iter().map(|(header, _)| header));
        }
        for row in &self.rows {
            let row = serde_json::to_value(row)?;
            table.add_row(columns.iter().map(|(_, field)| field.text(&row)));
        }
        Ok(output::text(table))
    }
}
