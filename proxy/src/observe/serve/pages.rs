//! The debugging pages, built from plain values.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::observe::status::Status;

const WARNING: &str = "Warning: this page is for debugging, and its format may change at any time.";

pub fn statusz(status: &Status, now: Timestamp) -> String {
    let up = now.duration_since(status.started).as_secs();
    let mut text = format!("portreeve statusz\n{WARNING}\n\n");
    let _ = writeln!(text, "Started: {}", status.started);
    let _ = writeln!(text, "Up: {} hr {:02} min {:02} sec", up / 3600, up / 60 % 60, up % 60);
    let _ = writeln!(text, "Binary version: {}", status.version);
    let _ = writeln!(text, "Node: {}", status.node);
    let _ = writeln!(text, "Frontends: {}, not written: {}", status.frontends, status.unwritten_frontends);
    for fault in status.faults() {
        let _ = writeln!(text, "Fault: {fault}");
    }
    text += "\nPaths: /configz /flagz /healthz /metrics /metrics/slis /proxyMode\n";
    text
}

/// The command line.
pub fn flagz(arguments: &[String]) -> String {
    let flags: String = arguments.iter().map(|argument| format!("{argument}\n")).collect();
    format!("portreeve flagz\n{WARNING}\n\n{flags}")
}

/// Component SLIs, with the names that all Kubernetes components use.
pub fn slis(is_healthy: bool) -> String {
    format!(
        "# HELP kubernetes_healthcheck Whether the component is healthy.\n\
         # TYPE kubernetes_healthcheck gauge\n\
         kubernetes_healthcheck{{name=\"ping\",type=\"healthz\"}} 1\n\
         kubernetes_healthcheck{{name=\"sync\",type=\"livez\"}} {}\n",
        u8::from(is_healthy)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_page_shows_uptime_and_faults() {
        let started: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let status = Status { started, unwritten_frontends: 3, ..Status::new("node-1") };
        let page = statusz(&status, "2026-01-02T01:02:03Z".parse().unwrap());
        for line in ["Up: 25 hr 02 min 03 sec", "Node: node-1", "Fault: 3 frontends could not be written"] {
            assert!(page.lines().any(|found| found == line), "{line} is missing in:\n{page}");
        }
    }
}
