//! The chain of a live decision as a table: a row for each step.

use super::{
    Explanation,
    live::{
        AffinityPart, Differing, ExcludedPart, FlowPart, HeaderPart, LivePart, MasqueradePart, RangesPart,
        RoutePart, SlotsPart, SocketPart,
    },
};
use crate::{
    cli::{
        frontend_name::FrontendName,
        output::{self, Tone},
    },
    model::node::Source,
};

/// Flows that are listed.
const MAX_FLOWS: usize = 5;

/// `no_model`: why the model was not asked.
pub fn table(explanation: &Explanation, no_model: Option<&str>) -> String {
    let mut table = output::table();
    let mut row = |name: &str, text: &str| {
        table.add_row([name, text]);
    };
    row("RESULT", &explanation.result);
    let frontend = explanation.frontend.as_ref().map_or_else(|| "none".to_owned(), FrontendName::text);
    row("FRONTEND", &frontend);
    if let Some(live) = &explanation.live {
        live.rows(explanation, &mut row);
    }
    row("PLANE", &explanation.plane);
    row("REASON", &explanation.reason);
    match (&explanation.differs, no_model) {
        (Some(differs), _) if differs.is_empty() => row("MODEL", "agrees"),
        (Some(differs), _) => {
            for (n, Differing { field, live, model }) in differs.iter().enumerate() {
                let text = format!("{field}: the programs say `{live}`, the model says `{model}`");
                let name = if n == 0 { "DIFFERS" } else { "" };
                table.add_row([output::cell(name, Tone::Bad), output::cell(text, Tone::Bad)]);
            }
        }
        (None, Some(reason)) => row("MODEL", &format!("could not be asked: {reason}")),
        (None, None) => {}
    }
    output::text(table)
}

impl LivePart {
    fn rows(&self, explanation: &Explanation, row: &mut impl FnMut(&str, &str)) {
        row("SOURCE", self.source);
        if let (Some(scope), Some(policy)) = (self.scope, self.policy) {
            row("SCOPE", &format!("{scope}, policy {policy}"));
        }
        if let Some(RangesPart { networks, is_admitted }) = &self.source_ranges {
            let admitted = if *is_admitted { "admitted" } else { "excluded" };
            row("RANGES", &format!("{}: {admitted}", networks.join(", ")));
        }
        if let Some(AffinityPart { seconds, backend }) = &self.affinity {
            let backend = backend.map_or_else(|| "no backend yet".to_owned(), |backend| backend.to_string());
            row("AFFINITY", &format!("ClientIP, {seconds} s: {backend}"));
        }
        for (n, backend) in explanation.backends.iter().enumerate() {
            let by_backend = explanation.masquerade_by_backend.as_ref();
            let is_masqueraded =
                by_backend.map_or(explanation.masquerade, |by| by.get(backend) == Some(&true));
            let remark = if is_masqueraded { "  masqueraded" } else { "" };
            row(if n == 0 { "BACKENDS" } else { "" }, &format!("{backend}{remark}"));
        }
        for (n, ExcludedPart { endpoint, reason }) in self.excluded.iter().enumerate() {
            row(if n == 0 { "OUT" } else { "" }, &format!("{endpoint}  {reason}"));
        }
        if let (Some(chosen), Some(SlotsPart { first, count, local, .. })) = (self.chosen, &self.slots) {
            row("CHOSEN", &format!("{chosen}, of {count} slots from {first} on, {local} local"));
        }
        if let Some(MasqueradePart { reason, source }) = &self.masqueraded {
            let source =
                source.map_or_else(|| "the device has no address for it".to_owned(), |ip| ip.to_string());
            row("MASQUERADE", &format!("{source}: {reason}"));
        }
        if let Some(HeaderPart { source, destination }) = &self.header {
            row("HEADER", &format!("{source} to {destination}"));
        }
        if let Some(RoutePart { result, device, next_hop }) = &self.route {
            let device = device.as_ref().map(|device| format!("{device}: ")).unwrap_or_default();
            let next_hop = next_hop.map(|next_hop| format!(", next hop {next_hop}")).unwrap_or_default();
            row("DEVICE", &format!("{device}{result}{next_hop}"));
        }
        for (n, FlowPart { client, backend, .. }) in self.flows.iter().take(MAX_FLOWS).enumerate() {
            row(if n == 0 { "FLOWS" } else { "" }, &format!("{client} to {backend}"));
        }
        let more = self.flows.len().saturating_sub(MAX_FLOWS);
        if more > 0 {
            row("", &format!("and {more} more"));
        }
        match &self.socket {
            Some(SocketPart { verdict, backend, .. }) => {
                let backend = backend.map(|backend| format!(" to {backend}")).unwrap_or_default();
                row("SOCKET", &format!("{verdict}{backend}"));
            }
            None if self.source == Source::Outside.name() => {}
            None => row("SOCKET", "the client is not in a network namespace that is seen from here"),
        }
    }
}
