//! Checks for IPsec policies, which apply where the kernel routes a packet.
//!
//! Programs at devices run elsewhere: XDP and `--forwarding redirect` send packets without a look at policies, so in
//! clear text; and at the egress hook an encrypted packet is no longer recognised, so its flow is not masqueraded.

use std::io;

use super::finding::Finding;
use crate::datapath;

const NAME: &str = "ipsec";

pub fn check() -> Finding {
    finding(&datapath::ipsec_policies())
}

fn finding(policies: &io::Result<u32>) -> Finding {
    match policies {
        Ok(0) => Finding::ok(NAME, "no policies"),
        Ok(count) => Finding::fail(
            NAME,
            format!(
                "IPsec policies: {count}; flows through the packet plane are not masqueraded where they apply, and \
                 --xdp and --forwarding redirect send packets past them, in clear text"
            ),
            "use route-based IPsec (XFRM interfaces) or WireGuard between nodes; no --xdp, no --forwarding redirect",
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Finding::warn(NAME, "not visible without privileges", "run check as root")
        }
        Err(error) => Finding::warn(NAME, format!("policies not visible: {error}"), "see `ip xfrm policy`"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Verdict, *};

    #[test]
    fn policies_are_reported_with_a_remedy() {
        for (policies, verdict, part) in [
            (Ok(0), Verdict::Ok, "no policies"),
            (Ok(3), Verdict::Fail, "clear text"),
            (Err(io::ErrorKind::PermissionDenied.into()), Verdict::Warn, "privileges"),
            (Err(io::ErrorKind::InvalidData.into()), Verdict::Warn, "not visible"),
        ] {
            let found = finding(&policies);
            assert_eq!(found.verdict, verdict, "{found:?}");
            assert!(found.what.contains(part), "{found:?}");
            assert_eq!(found.remedy.is_empty(), verdict == Verdict::Ok, "{found:?}");
        }
    }
}
