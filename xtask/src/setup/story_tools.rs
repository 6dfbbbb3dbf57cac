//! External programs of the stories: `ip` changes devices, `nft` is the host's firewall, `dig` and `kdig` query the name
//! server.

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
