//! Data below the rows.

use std::{cmp::Reverse, collections::BTreeMap, fmt::Write as _};

use jiff::Timestamp;
use serde::ser::{SerializeMap, Serializer};

use crate::observe::query_statistics::Upstream;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Footer {
    Empty,
    /// Refused connections of all Services by reason.
    Refusals(Refusals),
    /// The start of the DNS statistics, and the statistics of the upstreams.
    Dns {
        since: Timestamp,
        upstreams: Vec<Upstream>,
    },
}

/// Counts of refused connections by reason.
pub type Refusals = BTreeMap<&'static str, u64>;

impl Footer {
    /// Serializes the fields into the object that holds the list.
    pub fn serialize_into<S: Serializer>(&self, map: &mut S::SerializeMap) -> Result<(), S::Error> {
        match self {
            Self::Empty => Ok(()),
            Self::Refusals(refusals) => map.serialize_entry("refusals", refusals),
            Self::Dns { since, upstreams } => {
                map.serialize_entry("since", since)?;
                map.serialize_entry("upstreams", upstreams)
            }
        }
    }

    /// The text below a table.
    pub fn text(&self) -> String {
        match self {
            Self::Empty => String::new(),
            Self::Refusals(refusals) => {
                let counts = tally(refusals.iter().map(|(reason, count)| (*reason, *count)));
                if counts.is_empty() { counts } else { format!("\nrefused: {counts}\n") }
            }
            Self::Dns { since, upstreams } => dns(*since, upstreams),
        }
    }
}

fn dns(since: Timestamp, upstreams: &[Upstream]) -> String {
    let mut text = format!("\nsince {since:.0}\n");
    for Upstream { address, answers, failed, slow } in upstreams {
        let counts = tally([("answered", *answers), ("failed", *failed), ("slow", *slow)]);
        let _ = writeln!(text, "upstream {address}, since the start: {counts}");
    }
    text
}

/// The counts that are not zero, the highest first.
pub fn tally<'a>(counts: impl IntoIterator<Item = (&'a str, u64)>) -> String {
    let mut counts: Vec<_> = counts.into_iter().filter(|(_, count)| *count != 0).collect();
    counts.sort_by_key(|(name, count)| (Reverse(*count), *name));
    counts.into_iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}
