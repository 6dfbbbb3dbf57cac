//! Data below the rows.

use std::{borrow::Cow, cmp::Reverse, collections::BTreeMap, fmt::Write as _, net::IpAddr};

use jiff::Timestamp;
use serde::{
    Deserialize,
    ser::{SerializeMap, Serializer},
};
use serde_json::Value;

use crate::observe::query_statistics::Upstream;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Footer {
    Empty,
    /// Refused connections of all Services by reason, which a table of some of them does not show; and the addresses that
    /// serve the NodePorts of the table.
    Frontends {
        refusals: Refusals,
        is_all: bool,
        node_ports_at: Option<Vec<IpAddr>>,
    },
    /// The start of the DNS statistics, and the statistics of the upstreams.
    Dns {
        since: Timestamp,
        upstreams: Vec<Upstream>,
    },
}

/// Counts of refused connections by reason.
pub type Refusals = BTreeMap<Cow<'static, str>, u64>;

/// The fields of all footers.
#[derive(Deserialize)]
struct Fields {
    refusals: Option<Refusals>,
    node_ports_at: Option<Vec<IpAddr>>,
    since: Option<Timestamp>,
    #[serde(default)]
    upstreams: Vec<Upstream>,
}

impl Footer {
    /// Reads the fields beside the list; unreadable ones are as absent.
    pub fn parse(document: Value) -> Self {
        match serde_json::from_value(document) {
            Ok(Fields { refusals: Some(refusals), node_ports_at, .. }) => {
                Self::Frontends { refusals, is_all: true, node_ports_at }
            }
            Ok(Fields { since: Some(since), upstreams, .. }) => Self::Dns { since, upstreams },
            Ok(_) | Err(_) => Self::Empty,
        }
    }

    /// Serializes the fields into the object that holds the list.
    pub fn serialize_into<S: Serializer>(&self, map: &mut S::SerializeMap) -> Result<(), S::Error> {
        match self {
            Self::Empty => Ok(()),
            Self::Frontends { refusals, node_ports_at, .. } => {
                map.serialize_entry("refusals", refusals)?;
                node_ports_at.as_ref().map_or(Ok(()), |at| map.serialize_entry("node_ports_at", at))
            }
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
            Self::Frontends { refusals, is_all, node_ports_at } => {
                frontends(refusals, *is_all, node_ports_at)
            }
            Self::Dns { since, upstreams } => dns(*since, upstreams),
        }
    }
}

fn frontends(refusals: &Refusals, is_all: bool, node_ports_at: &Option<Vec<IpAddr>>) -> String {
    let mut text = String::new();
    match node_ports_at.as_deref() {
        None => {}
        Some([]) => text += "\nno address of this node serves NodePorts\n",
        Some(addresses) => {
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            let _ = writeln!(text, "\nNodePorts are served at {}", addresses.join(", "));
        }
    }
    let counts = tally(refusals.iter().map(|(reason, count)| (&**reason, *count)));
    if is_all && !counts.is_empty() {
        let _ = writeln!(text, "\nrefused: {counts}");
    }
    text
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
