//! The conditions of the running agent, if there is one.

use super::finding::Finding;
use crate::{
    cli::{
        agents::{FindArgs, Place},
        control,
    },
    error::chain,
    observe::{
        conditions::{Condition, ConditionType},
        control::ControlRequest,
        status::Status,
    },
};

const NAME: &str = "agent";

pub fn check(find: &FindArgs) -> Vec<Finding> {
    let Place { socket, .. } = match find.find() {
        Ok(place) => place,
        Err(error) => return vec![Finding::warn(NAME, chain(error.as_ref()), "give --bpffs and --run-dir")],
    };
    match control::request::<Status>(&socket, ControlRequest::Status) {
        Ok(Some(status)) => findings(&status.conditions),
        Ok(None) => vec![Finding::ok(NAME, format!("none runs: nothing listens on {}", socket.display()))],
        Err(error) => vec![Finding::warn(NAME, chain(error.as_ref()), "run as root, or restart the agent")],
    }
}

fn findings(conditions: &[Condition]) -> Vec<Finding> {
    let faults: Vec<_> = conditions.iter().filter(|condition| condition.is_fault()).map(finding).collect();
    if faults.is_empty() { vec![Finding::ok(NAME, "all its conditions are as expected")] } else { faults }
}

fn finding(Condition { r#type, reason, message, .. }: &Condition) -> Finding {
    let text = format!("{type} is False ({reason}): {message}");
    match remedy(*r#type) {
        // The agent works; objects or sizes are to be changed.
        (remedy, true) => Finding::warn(NAME, text, remedy),
        (remedy, false) => Finding::fail(NAME, text, remedy),
    }
}

/// The remedy, and whether the agent itself works.
fn remedy(r#type: ConditionType) -> (&'static str, bool) {
    match r#type {
        ConditionType::Synced => ("wait for the initial sync; else see the log of the agent", true),
        ConditionType::SourceWatched => (
            "let this node reach the API server, and bind the agent's ClusterRole to its ServiceAccount",
            false,
        ),
        ConditionType::NodeFound => ("set --node-name to the name that `kubectl get nodes` shows", false),
        ConditionType::ProgramsAttached => {
            ("see the other lines for the kernel, the cgroup and capabilities", false)
        }
        ConditionType::SocketsTranslated => {
            ("set --cgroup to the root of the node's cgroup2; in a container, mount it by hostPath", true)
        }
        ConditionType::XdpAttached => ("set --xdp=auto, or use a driver with XDP", false),
        ConditionType::AddressesBound => {
            ("end the process that has the port (`ss -lntup`), or give the agent another address", false)
        }
        ConditionType::NameServerAlive => ("see the log of the agent; restart it if the log ends", false),
        ConditionType::UpstreamsReliable => {
            ("query the upstreams of the Corefile with dig from this node", true)
        }
        ConditionType::ClaimsHeld => ("let only one Service have the address", true),
        ConditionType::TablesHaveRoom => ("see docs/sizing.md", true),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{cli::check::finding::Verdict, observe::conditions::ConditionStatus};

    #[test]
    fn each_false_condition_is_a_line() {
        let condition = |r#type, status| Condition {
            r#type,
            status,
            since: Timestamp::UNIX_EPOCH,
            reason: "Reason".to_owned(),
            message: "message".to_owned(),
        };
        let verdicts = |conditions: &[Condition]| -> Vec<(Verdict, String)> {
            findings(conditions).into_iter().map(|finding| (finding.verdict, finding.what)).collect()
        };
        let good = condition(ConditionType::Synced, ConditionStatus::True);
        let found = verdicts(std::slice::from_ref(&good));
        assert_eq!(found, [(Verdict::Ok, "all its conditions are as expected".to_owned())]);
        let bad = condition(ConditionType::NodeFound, ConditionStatus::False);
        let found = verdicts(&[good, bad]);
        assert_eq!(found, [(Verdict::Fail, "NodeFound is False (Reason): message".to_owned())]);
    }
}
