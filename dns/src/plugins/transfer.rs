//! `transfer [ZONES...]`: the zones of a block for other servers (AXFR, RFC 5936). Those of files are notified of changes
//! (RFC 1996); those of `kubernetes` change too often for that, as in CoreDNS. The messages of a transfer are made in `serve`.

mod notify;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use hickory_server::proto::rr::LowerName;
use ipnetwork::IpNetwork;
pub(crate) use notify::notify;

use super::directive::Repeated;
use crate::{
    config::{DNS_PORT, Zones},
    corefile::{CorefileError, Statement, Word, zones_or},
};

/// Zones, and the servers that get them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    zones: Zones,
    to: Vec<Secondary>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Secondary {
    /// `*`.
    Any,
    Network(IpNetwork),
    /// It is notified, too.
    Server(SocketAddr),
}

impl Repeated for Transfer {
    const NAME: &'static str = "transfer";
    const SUMMARY: &'static str = "zones of `kubernetes`, `file`, `auto` and `secondary` for other servers, over TCP and \
        TLS (AXFR, and IXFR as AXFR), with NOTIFY after changes but for those of `kubernetes`";
    const OPTIONS: &'static [&'static str] = &["to"];

    fn read(statement: &Statement, zones: &Zones) -> Result<Self, CorefileError> {
        read(statement, zones)
    }
}

fn read(statement: &Statement, block: &Zones) -> Result<Transfer, CorefileError> {
    let mut transfer = Transfer { zones: zones_or(&statement.words, block.clone())?, to: Vec::new() };
    for option in &statement.body {
        option.no_body()?;
        if option.name.text != "to" {
            return Err(statement.unknown_option(option));
        }
        if option.words.is_empty() {
            return Err(option.misused("to ADDRESS|NETWORK|*..."));
        }
        for word in &option.words {
            transfer.to.push(secondary(word)?);
        }
    }
    if transfer.to.is_empty() {
        return Err(statement.refuse("nobody may transfer; add `to ADDRESS`, or `to *` for everybody"));
    }
    Ok(transfer)
}

fn secondary(word: &Word) -> Result<Secondary, CorefileError> {
    let text = word.text.strip_prefix("dns://").unwrap_or(&word.text);
    if text == "*" {
        return Ok(Secondary::Any);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Secondary::Server((address, DNS_PORT).into()));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Secondary::Server(address));
    }
    let network = text.parse::<IpNetwork>().map(Secondary::Network);
    network.map_err(|_| word.refuse(format!("`{text}` is neither an address nor a network, and not `*`")))
}

impl Transfer {
    /// The zone that decides about this one.
    fn longest(&self, zone: &LowerName) -> Option<usize> {
        self.zones.longest(zone).map(|longest| longest.iter().count())
    }

    fn admits(&self, client: IpAddr) -> bool {
        self.to.iter().any(|secondary| match secondary {
            Secondary::Any => true,
            Secondary::Network(network) => network.contains(client),
            Secondary::Server(server) => server.ip().to_canonical() == client,
        })
    }

    fn servers(&self) -> impl Iterator<Item = SocketAddr> {
        self.to.iter().filter_map(|secondary| match secondary {
            Secondary::Server(server) => Some(*server),
            Secondary::Any | Secondary::Network(_) => None,
        })
    }
}

/// Whether a client may have a zone, by the setting with the longest zone around it.
pub(crate) fn admits(settings: &[Transfer], zone: &LowerName, client: IpAddr) -> bool {
    let matching = settings.iter().filter_map(|setting| Some((setting.longest(zone)?, setting)));
    let best = matching.max_by_key(|(labels, _)| *labels);
    best.is_some_and(|(_, setting)| setting.admits(client))
}
