//! The rows of each view as cells. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use super::{
    clients::ClientFlows,
    dns::{ClientRow, DnsRates},
    grid::{
        Cell, Column,
        ColumnKind::{Name, Number, Text},
        Grid, Line, RowKey, column, wide,
    },
    rates::{BackendRow, RefusalRow, ServiceRow},
    units,
};
use crate::{
    cli::human_duration::human_duration,
    model::reason::describe,
    observe::objects::{EndpointDetails, Pods},
};

/// Places of pods and nodes by Service, `NAMESPACE/NAME`, and address.
pub type Endpoints = HashMap<(String, IpAddr), EndpointDetails>;

const SERVICES: &[Column] = &[
    column("SERVICE", 'n', Name),
    column("CONN/S", 'c', Number(7)),
    column("FAIL/S", 'f', Number(7)),
    column("REFUSE/S", 'x', Number(8)),
    column("SENT/S", 's', Number(7)),
    column("RECV/S", 'r', Number(7)),
    column("P99", 'p', Number(8)),
    column("OPEN", 'o', Number(6)),
    wide("RETR/S", 't', Number(7)),
    wide("RTT", 'u', Number(9)),
    wide("PROTOCOL", 'l', Text(8)),
];

pub fn services<'a>(rows: impl IntoIterator<Item = &'a ServiceRow>) -> Grid {
    let line = |row: &ServiceRow| Line {
        key: RowKey::Service(row.id),
        cells: vec![
            Cell::text(row.name.text()),
            Cell::rate(row.connections_per_second),
            Cell::failures(row.tcp.failures_per_second),
            Cell::failures(row.refused_per_second),
            Cell::rate(row.tcp.sent_bytes_per_second),
            Cell::rate(row.tcp.received_bytes_per_second),
            Cell::number(row.connect_p99.map(|bounds| bounds.above as f64), units::bounds(row.connect_p99)),
            Cell::count(row.open),
            Cell::rate(row.tcp.retransmissions_per_second),
            Cell::number(row.round_trip_seconds, units::milliseconds(row.round_trip_seconds)),
            Cell::text(row.protocol.to_string()),
        ],
    };
    let mut lines: Vec<Line> = rows.into_iter().map(line).collect();
    // The order of equal rows.
    lines.sort_by(|a, b| a.cells[0].text.cmp(&b.cells[0].text));
    Grid { columns: SERVICES, lines }
}

const BACKENDS: &[Column] = &[
    column("BACKEND", 'n', Name),
    column("SHARE", 'h', Number(5)),
    column("OPENED/S", 'c', Number(8)),
    column("FAIL/S", 'f', Number(7)),
    column("SENT/S", 's', Number(7)),
    column("RECV/S", 'r', Number(7)),
    column("RTT", 'u', Number(9)),
    column("OPEN", 'o', Number(6)),
    wide("RETR/S", 't', Number(7)),
    wide("STATE", 'a', Text(11)),
    wide("POD", 'd', Text(28)),
    wide("NODE", 'e', Text(14)),
];

/// The backends of a service port.
pub fn backends(rows: &[BackendRow], service: u32, endpoints: &Endpoints) -> Grid {
    let line = |row: &BackendRow| {
        let details = endpoints.get(&(row.name.service.clone(), row.address.ip()));
        let of = |known: Option<&String>| Cell::text(known.map_or(units::UNKNOWN, String::as_str));
        Line {
            key: RowKey::Backend(row.address),
            cells: vec![
                Cell::text(row.address.to_string()),
                Cell::number(row.share, units::percent(row.share)),
                Cell::rate(row.opened_per_second),
                Cell::failures(row.tcp.failures_per_second),
                Cell::rate(row.tcp.sent_bytes_per_second),
                Cell::rate(row.tcp.received_bytes_per_second),
                Cell::number(row.round_trip_seconds, units::milliseconds(row.round_trip_seconds)),
                Cell::count(row.open),
                Cell::rate(row.tcp.retransmissions_per_second),
                Cell::text(row.state),
                of(details.and_then(|details| details.pod.as_ref())),
                of(details.and_then(|details| details.node.as_ref())),
            ],
        }
    };
    let rows = rows.iter().filter(|row| row.service_id == service);
    Grid { columns: BACKENDS, lines: rows.map(line).collect() }
}

const CLIENTS: &[Column] = &[
    column("CLIENT", 'n', Name),
    column("FLOWS", 'c', Number(7)),
    column("CLOSED", 'f', Number(7)),
    column("SENT", 's', Number(7)),
    column("RECEIVED", 'r', Number(8)),
    column("IDLE", 'i', Number(6)),
    wide("MASQUERADED", 'm', Number(11)),
    wide("POD", 'd', Text(40)),
];

pub fn clients(clients: &BTreeMap<IpAddr, ClientFlows>, pods: &Pods) -> Grid {
    let line = |(address, flows): (&IpAddr, &ClientFlows)| {
        let idle = flows.idle.map(|idle| idle.as_secs());
        let text = idle.map_or_else(|| units::UNKNOWN.to_owned(), |idle| human_duration(idle.cast_signed()));
        Line {
            key: RowKey::Client(*address),
            cells: vec![
                Cell::text(address.to_string()),
                Cell::count(flows.flows),
                Cell::count(flows.closed),
                Cell::count(flows.sent_bytes),
                Cell::count(flows.received_bytes),
                Cell::number(idle.map(|idle| idle as f64), text),
                Cell::count(flows.masqueraded),
                Cell::text(pods.get(address).map_or(units::UNKNOWN, String::as_str)),
            ],
        }
    };
    Grid { columns: CLIENTS, lines: clients.iter().map(line).collect() }
}

const REFUSALS: &[Column] = &[
    column("REASON", 'n', Text(29)),
    column("COUNT", 'c', Number(7)),
    column("PER S", 'f', Number(7)),
    column("MEANING", 'm', Name),
];

/// The reasons that occurred since the first reading.
pub fn refusals(rows: &[RefusalRow]) -> Grid {
    let line = |row: &RefusalRow| Line {
        key: RowKey::Name(row.reason.name().to_owned()),
        cells: vec![
            Cell::text(row.reason.name()),
            Cell::count(row.count),
            Cell::failures(row.per_second),
            Cell::text(describe(row.reason).1),
        ],
    };
    let rows = rows.iter().filter(|row| row.count != 0);
    Grid { columns: REFUSALS, lines: rows.map(line).collect() }
}

const DNS: &[Column] = &[
    column("CLIENT", 'n', Name),
    column("QUERIES/S", 'c', Number(9)),
    column("FAILED/S", 'f', Number(8)),
    column("REFUSED/S", 'x', Number(9)),
    column("SLOW/S", 's', Number(7)),
    column("MOSTLY", 'm', Text(8)),
    wide("QUERIES", 'q', Number(9)),
];

pub fn dns(rates: &DnsRates) -> Grid {
    let line = |row: &ClientRow| Line {
        key: RowKey::Name(row.client.clone()),
        cells: vec![
            Cell::text(row.client.clone()),
            Cell::rate(row.queries_per_second),
            Cell::failures(row.failed_per_second),
            Cell::failures(row.refused_per_second),
            Cell::failures(row.slow_per_second),
            Cell::text(row.mostly.clone()),
            Cell::count(row.queries),
        ],
    };
    Grid { columns: DNS, lines: rates.clients.iter().map(line).collect() }
}
