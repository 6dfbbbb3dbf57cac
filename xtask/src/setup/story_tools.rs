//! What the stories run beside our own programs: `ip` changes devices under the agent, `nft` is the host's firewall, `dig`
//! and `kdig` read our answers.

use anyhow::{Context as _, Result};

use super::{apt, machine::which};

const TOOLS: [(&str, &str); 4] =
    [("ip", "iproute2"), ("nft", "nftables"), ("dig", "bind9-dnsutils"), ("kdig", "knot-dnsutils")];

pub fn ensure() -> Result<()> {
    let missing: Vec<String> = TOOLS
        .iter()
        .filter(|(program, _)| which(program).is_none())
        .map(|(_, package)| (*package).to_owned())
        .collect();
    if missing.is_empty() { Ok(()) } else { apt::install(&missing).context("the stories need them") }
}
