//! What is told beside the rows.

use std::{cmp::Reverse, collections::BTreeMap, fmt::Write as _};

use jiff::Timestamp;
use serde::ser::{SerializeMap, Serializer};

use crate::observe::query_statistics::Upstream;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aside {
    Nothing,
    /// Over all Services, by reason; only where connections are what was asked about.
    Refusals(Refusals),
    /// From when on names were counted, and who was asked for those that are not known here.
    Names {
        since: Timestamp,
        upstreams: Vec<Upstream>,
    },
}

/// How often connections were refused, by reason.
pub type Refusals = BTreeMap<&'static str, u64>;

impl Aside {
    /// Its fields, beside the list.
    pub fn serialize_into<S: Serializer>(&self, map: &mut S::SerializeMap) -> Result<(), S::Error> {
        match self {
            Self::Nothing => Ok(()),
            Self::Refusals(refusals) => map.serialize_entry("refusals", refusals),
            Self::Names { since, upstreams } => {
                map.serialize_entry("since", since)?;
                map.serialize_entry("upstreams", upstreams)
            }
        }
    }

    /// Below a table.
    pub fn text(&self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Refusals(refusals) => {
                let counts = tally(refusals.iter().map(|(reason, count)| (*reason, *count)));
                if counts.is_empty() { counts } else { format!("\nrefused: {counts}\n") }
            }
            Self::Names { since, upstreams } => names(*since, upstreams),
        }
    }
}

fn names(since: Timestamp, upstreams: &[Upstream]) -> String {
    let mut text = format!("\nsince {since:.0}\n");
    for Upstream { address, answers, failed, slow } in upstreams {
        let counts = tally([("answered", *answers), ("failed", *failed), ("slow", *slow)]);
        let _ = writeln!(text, "upstream {address}, since the start: {counts}");
    }
    text
}

/// What happened at all, most frequent first.
pub fn tally<'a>(counts: impl IntoIterator<Item = (&'a str, u64)>) -> String {
    let mut counts: Vec<_> = counts.into_iter().filter(|(_, count)| *count != 0).collect();
    counts.sort_by_key(|(name, count)| (Reverse(*count), *name));
    counts.into_iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}
