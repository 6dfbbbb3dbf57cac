//! The live view as text. Pure, and ASCII in every locale: names of Kubernetes and DNS are.
//!
//! The cursor and the headers are told by reversed video, failures by red as well; both are legible on dark and on light screens.

use ratatui::{
    Frame,
    style::{Color, Modifier, Style},
    text::{Line as Text, Span},
    widgets::Paragraph,
};

use super::{
    dns::DnsRates,
    grid::{Cell, Column, ColumnKind, Grid, Line},
    rates::{Rates, ServiceRow},
    units,
    view::{Mode, Subject, View},
};

/// All that is drawn.
pub struct Shown<'a> {
    pub view: &'a View,
    pub grid: &'a Grid,
    pub rates: &'a Rates,
    pub dns: Option<&'a DnsRates>,
    /// The place of the counters, the time of the reading and the delay.
    pub title: String,
    /// The data is old, and this is the reason.
    pub error: Option<&'a str>,
    pub has_colour: bool,
}

/// The least size at which a table makes sense.
const LEAST: (u16, u16) = (40, 8);
/// The least width of a name.
const LEAST_NAME: usize = 12;
/// Title, totals, tabs, headers, keys.
const FIXED_LINES: usize = 5;
/// Upstreams of DNS that are shown.
const MAX_UPSTREAMS: usize = 4;

const KEYS: &str = "Enter open  Esc back  / filter  <> sort  R reverse  Space pause  ? help  q quit";

const HELP: &[&str] = &[
    "Enter           open the backends of a Service, the clients of a backend",
    "Esc Left        back",
    "Up Down PgUp PgDn Home End   move",
    "1 2 3 Tab       Services, Refusals, DNS",
    "/               filter by text: Enter keeps it, Esc removes it",
    "< >             sort by another column; R reverses",
    "n c f x s r p o sort by name, CONN/S, FAIL/S, REFUSE/S, SENT/S, RECV/S, P99,",
    "                OPEN",
    "Space           pause",
    "q Ctrl-C        quit",
    "",
    "CONN/S counts sockets and packets. FAIL/S, bytes, P99 and OPEN are of TCP",
    "connections of this node's sockets; bytes of open ones come every 10 s.",
    "Clients are of the packet plane: connections of sockets bring no address.",
    "`-` is not known yet. `portreeve top --help` has all columns.",
];

/// The number of rows that are visible.
pub fn page(height: u16, subject: &Subject, dns: Option<&DnsRates>) -> usize {
    usize::from(height).saturating_sub(FIXED_LINES + extra_lines(subject, dns)).max(1)
}

fn extra_lines(subject: &Subject, dns: Option<&DnsRates>) -> usize {
    match (subject, dns) {
        (Subject::Dns, Some(dns)) => 1 + dns.upstreams.len().min(MAX_UPSTREAMS),
        _ => 0,
    }
}

pub fn draw(frame: &mut Frame<'_>, shown: &Shown<'_>) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let (columns, lines) = LEAST;
        frame.render_widget(Paragraph::new(format!("too small: {columns}x{lines} needed")), area);
        return;
    }
    let (width, height) = (usize::from(area.width), usize::from(area.height));
    let mut lines = vec![header(&shown.title, width), totals(shown, width), tabs(shown, width)];
    if shown.view.mode == Mode::Help {
        lines.extend(HELP.iter().map(|line| Text::raw(cut(line, width))));
    } else {
        lines.extend(dns_lines(shown, width));
        lines.extend(table(shown, area.width, page(area.height, &shown.view.place().subject, shown.dns)));
    }
    lines.resize(height - 1, Text::default());
    lines.push(footer(shown, width));
    frame.render_widget(Paragraph::new(lines), area);
}

fn header(title: &str, width: usize) -> Text<'static> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    Text::styled(cut(&format!("portreeve top - {title}"), width), bold)
}

fn totals(shown: &Shown<'_>, width: usize) -> Text<'static> {
    if let Some(error) = shown.error {
        return Text::styled(cut(error, width), bad(shown.has_colour));
    }
    let services = &shown.rates.services;
    let sum = |of: fn(&ServiceRow) -> Option<f64>| {
        let known: Vec<f64> = services.iter().filter_map(of).collect();
        units::rate((!known.is_empty()).then(|| known.iter().sum()))
    };
    let open: u64 = services.iter().map(|row| row.open).sum();
    let text = format!(
        "{} ports  {} conn/s  {} fail/s  {} refuse/s  {}/s sent  {}/s recv  {open} open",
        services.len(),
        sum(|row| row.connections_per_second),
        sum(|row| row.tcp.failures_per_second),
        sum(|row| row.refused_per_second),
        sum(|row| row.tcp.sent_bytes_per_second),
        sum(|row| row.tcp.received_bytes_per_second),
    );
    Text::raw(cut(&text, width))
}

fn tabs(shown: &Shown<'_>, width: usize) -> Text<'static> {
    let mut path = shown.view.path();
    let tab = path.next();
    let mut spans: Vec<Span<'static>> = Vec::new();
    for (number, subject) in (1..).zip(&Subject::TABS) {
        let style = if tab == Some(subject) { reversed() } else { Style::new() };
        spans.push(Span::styled(format!(" {number} {} ", subject.title()), style));
    }
    let mut rest: String = path.map(|subject| format!(" > {}", subject.title())).collect();
    let filter = &shown.view.place().filter;
    if !filter.is_empty() && shown.view.mode != Mode::Filter {
        rest += &format!("  filter: {filter}");
    }
    if shown.view.is_paused {
        rest += "  PAUSED";
    }
    let used: usize = spans.iter().map(Span::width).sum();
    spans.push(Span::raw(cut(&rest, width.saturating_sub(used))));
    Text::from(spans)
}

fn footer(shown: &Shown<'_>, width: usize) -> Text<'static> {
    match shown.view.mode {
        Mode::Filter => Text::raw(cut(&format!("filter: {}_", shown.view.place().filter), width)),
        Mode::Help => Text::raw("any key closes the help"),
        Mode::Table => Text::raw(cut(KEYS, width)),
    }
}

/// Topics and upstreams, above the clients.
fn dns_lines(shown: &Shown<'_>, width: usize) -> Vec<Text<'static>> {
    let (Subject::Dns, Some(dns)) = (&shown.view.place().subject, shown.dns) else { return Vec::new() };
    let topics =
        dns.topics.iter().map(|row| format!("{} {}/s", row.topic, units::rate(row.queries_per_second)));
    let topics: Vec<_> = topics.collect();
    let mut lines = vec![Text::raw(cut(&format!("names: {}", topics.join(", ")), width))];
    lines.extend(dns.upstreams.iter().take(MAX_UPSTREAMS).map(|row| {
        let [answers, failed, slow] =
            [row.answers_per_second, row.failed_per_second, row.slow_per_second].map(units::rate);
        let text =
            format!("upstream {}: {answers} answers/s, {failed} failed/s, {slow} slow/s", row.upstream);
        Text::raw(cut(&text, width))
    }));
    lines
}

fn table(shown: &Shown<'_>, width: u16, page: usize) -> Vec<Text<'static>> {
    let Shown { view, grid, .. } = shown;
    let layout = layout(grid.columns, width);
    let sorted = view.sort().column;
    let titles = layout.iter().map(|(at, column, width)| {
        // The order is told by the video, which is not reversed here.
        let style = if *at == sorted { Style::new().add_modifier(Modifier::BOLD) } else { reversed() };
        [Span::styled(padded(column.title, column.kind, *width), style), Span::styled(" ", reversed())]
    });
    let mut lines = vec![Text::from(titles.flatten().collect::<Vec<_>>())];
    let place = view.place();
    let cursor = place.cursor(grid);
    let visible = grid.lines.iter().enumerate().skip(place.offset).take(page);
    lines.extend(visible.map(|(at, line)| row(line, &layout, at == cursor, shown.has_colour)));
    if grid.lines.is_empty() {
        lines.push(Text::raw(empty(view)));
    }
    lines
}

fn row(line: &Line, layout: &[(usize, Column, usize)], is_selected: bool, has_colour: bool) -> Text<'static> {
    let none = Cell::text("");
    let spans = layout.iter().flat_map(|(at, column, width)| {
        let cell = line.cells.get(*at).unwrap_or(&none);
        let style = if cell.is_bad { bad(has_colour) } else { Style::new() };
        [Span::styled(padded(&cell.text, column.kind, *width), style), Span::raw(" ")]
    });
    let text = Text::from(spans.collect::<Vec<_>>());
    if is_selected { text.style(reversed()) } else { text }
}

/// The reason for which there are no rows.
fn empty(view: &View) -> &'static str {
    let place = view.place();
    match place.subject {
        _ if !place.filter.is_empty() => "no row matches the filter",
        Subject::Services => "no Service is served",
        Subject::Backends { .. } => "no backend",
        Subject::Clients { .. } => {
            "no flow of the packet plane: connections of sockets bring no client's address"
        }
        Subject::Refusals => "nothing was refused since the start",
        Subject::Dns => "no query was answered",
    }
}

/// The index, the column and the width of each column that is shown: as many as there is room for.
fn layout(columns: &[Column], width: u16) -> Vec<(usize, Column, usize)> {
    let shown = columns.iter().enumerate().filter(|(_, column)| width >= column.from_width);
    let of_kind = |kind| match kind {
        ColumnKind::Name => 0,
        ColumnKind::Text(width) | ColumnKind::Number(width) => usize::from(width),
    };
    let mut shown: Vec<_> = shown.map(|(at, column)| (at, *column, of_kind(column.kind))).collect();
    let used = |shown: &[(usize, Column, usize)]| shown.iter().map(|(_, _, width)| width + 1).sum::<usize>();
    while used(&shown) + LEAST_NAME > usize::from(width) && shown.len() > 1 {
        shown.pop();
    }
    let name = usize::from(width).saturating_sub(used(&shown));
    let fill = |(at, column, width): (usize, Column, usize)| {
        (at, column, if column.kind == ColumnKind::Name { name } else { width })
    };
    shown.into_iter().map(fill).collect()
}

fn padded(text: &str, kind: ColumnKind, width: usize) -> String {
    let text = cut(text, width);
    match kind {
        ColumnKind::Name | ColumnKind::Text(_) => format!("{text:<width$}"),
        ColumnKind::Number(_) => format!("{text:>width$}"),
    }
}

/// The beginning of a text that is too long, with a mark.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain((width > 0).then_some('~')).collect()
}

fn reversed() -> Style {
    Style::new().add_modifier(Modifier::REVERSED)
}

fn bad(has_colour: bool) -> Style {
    let style = Style::new().add_modifier(Modifier::BOLD);
    if has_colour { style.fg(Color::Red) } else { style }
}

#[cfg(test)]
mod tests;
