//! Warns while kube-proxy or its rules are still on the node: two proxies that translate fail silently.

use std::{thread, time::Duration};

use tracing::{info, warn};

use crate::kube_proxy_state::{Leftover, survey};

/// Long, because the check runs the node's own tools.
const EVERY: Duration = Duration::from_secs(300);

/// Starts a thread, because the check takes time. It ends with the process.
pub fn watch() {
    thread::spawn(|| {
        let mut known = Vec::new();
        loop {
            // Errors of the check are reported by `portreeve check`.
            let found = survey().found;
            log(&known, &found);
            known = found;
            thread::sleep(EVERY);
        }
    });
}

fn log(known: &[Leftover], found: &[Leftover]) {
    for leftover in found.iter().filter(|leftover| !known.contains(leftover)) {
        let remedy = leftover.manual_command();
        let remedy = remedy.as_deref().unwrap_or("portreeve cleanup --kube-proxy-only");
        warn!(leftover = leftover.description(), remedy, "found state of kube-proxy");
    }
    if !known.is_empty() && found.is_empty() {
        info!("all state of kube-proxy is gone");
    }
}
