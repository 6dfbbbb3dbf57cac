//! Links, addresses, routes and rules of this network namespace as lines of text, for `portreeve report`.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr};

use futures_util::{Stream, TryStreamExt as _};
use rtnetlink::{
    Handle, IpVersion, new_connection,
    packet_route::{
        AddressFamily,
        address::AddressMessage,
        link::{LinkAttribute, LinkExtentMask, LinkMessage, LinkXdp},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteNextHop},
        rule::{RuleAttribute, RuleMessage},
    },
};

use super::{addresses::own_address, netlink::NetlinkError};

/// Limit of the lines of one list. Routers have a million routes.
const MAX_LINES: usize = 20_000;

/// The network state as text.
#[derive(Debug, Default)]
pub struct NetworkListing {
    pub links: String,
    pub addresses: String,
    pub routes: String,
    pub rules: String,
    /// The ids of XDP programs by device.
    pub xdp: BTreeMap<String, Vec<u32>>,
}

impl NetworkListing {
    /// Reads the state. Errors: netlink does not answer.
    pub async fn read() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = new_connection().map_err(NetlinkError::Socket)?;
        let connection = tokio::spawn(connection);
        let listing = Self::ask(&handle).await;
        connection.abort();
        listing
    }

    async fn ask(handle: &Handle) -> Result<Self, NetlinkError> {
        let failed = |objects| move |source| NetlinkError::List { objects, source };
        let request =
            handle.link().get().set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats]);
        let links: Vec<LinkMessage> = request.execute().try_collect().await.map_err(failed("links"))?;
        let names: BTreeMap<u32, String> = links.iter().map(|link| (link.header.index, name(link))).collect();
        let device = |index: u32| names.get(&index).cloned().unwrap_or_else(|| index.to_string());
        let mut listing = Self {
            links: text(links.iter().map(|link| link_line(link, &device))),
            xdp: links
                .iter()
                .map(|link| (name(link), xdp(link)))
                .filter(|(_, ids)| !ids.is_empty())
                .collect(),
            ..Self::default()
        };
        let addresses = handle.address().get().execute();
        let addresses = lines(addresses, |message| address_line(message, &device)).await;
        listing.addresses = addresses.map_err(failed("addresses"))?;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            let routes =
                lines(handle.route().get(question).execute(), |message| route_line(message, &device));
            listing.routes += &routes.await.map_err(failed("routes"))?;
        }
        for version in [IpVersion::V4, IpVersion::V6] {
            let rules = lines(handle.rule().get(version).execute(), |message| Some(rule_line(message)));
            listing.rules += &rules.await.map_err(failed("rules"))?;
        }
        Ok(listing)
    }
}

/// The lines of messages, up to the limit.
async fn lines<M>(
    messages: impl Stream<Item = Result<M, rtnetlink::Error>>,
    line: impl Fn(&M) -> Option<String>,
) -> Result<String, rtnetlink::Error> {
    let mut messages = std::pin::pin!(messages);
    let (mut lines, mut more) = (Vec::new(), 0_usize);
    while let Some(message) = messages.try_next().await? {
        match line(&message) {
            Some(line) if lines.len() < MAX_LINES => lines.push(line),
            Some(_) => more += 1,
            None => {}
        }
    }
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    Ok(text(lines.into_iter()))
}

fn text(lines: impl Iterator<Item = String>) -> String {
    lines.map(|line| line + "\n").collect()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a link has sixty other attributes")]
fn name(link: &LinkMessage) -> String {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    name.unwrap_or_else(|| link.header.index.to_string())
}

/// Without the MAC address, which identifies the machine.
#[expect(clippy::wildcard_enum_match_arm, reason = "a link has sixty other attributes")]
fn link_line(link: &LinkMessage, device: &impl Fn(u32) -> String) -> String {
    let mut line = format!("{}: {} <{}>", link.header.index, name(link), link.header.flags);
    for attribute in &link.attributes {
        let _ = match attribute {
            LinkAttribute::Mtu(mtu) => write!(line, " mtu {mtu}"),
            LinkAttribute::Qdisc(qdisc) => write!(line, " qdisc {qdisc}"),
            LinkAttribute::OperState(state) => write!(line, " state {state}"),
            LinkAttribute::Controller(index) => write!(line, " master {}", device(*index)),
            _ => Ok(()),
        };
    }
    line
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the other attributes are no programs")]
fn xdp(link: &LinkMessage) -> Vec<u32> {
    let attributes = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::Xdp(attributes) => Some(attributes),
        _ => None,
    });
    let ids = attributes.flatten().filter_map(|attribute| match attribute {
        LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => Some(*id),
        _ => None,
    });
    ids.collect()
}

fn address_line(message: &AddressMessage, device: &impl Fn(u32) -> String) -> Option<String> {
    let ip = own_address(message)?;
    Some(format!("{ip}/{} dev {}", message.header.prefix_len, device(message.header.index)))
}

/// Without routes of the local and broadcast tables, which follow from the addresses.
#[expect(clippy::wildcard_enum_match_arm, reason = "a route has forty other attributes")]
fn route_line(message: &RouteMessage, device: &impl Fn(u32) -> String) -> Option<String> {
    /// From `enum rt_class_t`.
    const LOCAL: u32 = 255;
    let header = &message.header;
    let mut table = u32::from(header.table);
    let (mut to, mut rest) = ("default".to_owned(), String::new());
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                to = format!("{}/{}", address_text(address), header.destination_prefix_length);
            }
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::MultiPath(hops) => {
                hops.iter().for_each(|hop| rest += &format!(" nexthop{}", next_hop(hop, device)));
            }
            attribute => rest += &via(attribute, device),
        }
    }
    let kind = format!("{:?}", header.kind).to_lowercase();
    (table != LOCAL).then(|| format!("{kind} {to}{rest} table {table} proto {}", header.protocol))
}

fn next_hop(hop: &RouteNextHop, device: &impl Fn(u32) -> String) -> String {
    let attributes: String = hop.attributes.iter().map(|attribute| via(attribute, device)).collect();
    format!("{attributes} dev {}", device(hop.interface_index))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a route has forty other attributes")]
fn via(attribute: &RouteAttribute, device: &impl Fn(u32) -> String) -> String {
    match attribute {
        RouteAttribute::Gateway(address) => format!(" via {}", address_text(address)),
        RouteAttribute::Oif(index) => format!(" dev {}", device(*index)),
        RouteAttribute::PrefSource(address) => format!(" src {}", address_text(address)),
        RouteAttribute::Priority(metric) => format!(" metric {metric}"),
        _ => String::new(),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the other kinds are no IP addresses")]
fn address_text(address: &RouteAddress) -> String {
    match address {
        RouteAddress::Inet(v4) => IpAddr::from(*v4).to_string(),
        RouteAddress::Inet6(v6) => IpAddr::from(*v6).to_string(),
        _ => "?".to_owned(),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a rule has ten other attributes")]
fn rule_line(message: &RuleMessage) -> String {
    let header = &message.header;
    let (mut priority, mut table) = (0, u32::from(header.table));
    let (mut from, mut rest) = ("all".to_owned(), String::new());
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Source(address) => from = format!("{address}/{}", header.src_len),
            RuleAttribute::Destination(address) => rest += &format!(" to {address}/{}", header.dst_len),
            RuleAttribute::FwMark(mark) => rest += &format!(" fwmark {mark:#x}"),
            RuleAttribute::FwMask(mask) => rest += &format!(" fwmask {mask:#x}"),
            RuleAttribute::Iifname(name) => rest += &format!(" iif {name}"),
            RuleAttribute::Oifname(name) => rest += &format!(" oif {name}"),
            _ => {}
        }
    }
    let action = format!("{:?}", header.action).to_lowercase();
    let family = if header.family == AddressFamily::Inet6 { "IPv6" } else { "IPv4" };
    format!("{family} {priority}: from {from}{rest} {action} table {table}")
}
