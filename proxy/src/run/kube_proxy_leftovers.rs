//! Warns while kube-proxy, or what it left, is still there: two that translate go wrong quietly.

use std::{thread, time::Duration};

use tracing::{info, warn};

use crate::kube_proxy_state::{Leftover, survey};

/// Nobody removes it by the second, and looking starts the node's own tools.
const EVERY: Duration = Duration::from_secs(300);

/// A thread of its own, as looking takes its time. It ends with the process.
pub fn watch() {
    thread::spawn(|| {
        let mut known = Vec::new();
        loop {
            // What cannot be looked at is the business of `portreeve check`.
            let found = survey().found;
            tell(&known, &found);
            known = found;
            thread::sleep(EVERY);
        }
    });
}

fn tell(known: &[Leftover], found: &[Leftover]) {
    for leftover in found.iter().filter(|leftover| !known.contains(leftover)) {
        let remedy = leftover.by_hand();
        let remedy = remedy.as_deref().unwrap_or("portreeve cleanup --kube-proxy-only");
        warn!(what = leftover.what(), remedy, "kube-proxy's state is still here");
    }
    if !known.is_empty() && found.is_empty() {
        info!("nothing of kube-proxy's is left");
    }
}
