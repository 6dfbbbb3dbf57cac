//! The part of a report that a running agent has in its memory.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::de::DeserializeOwned;

use super::{anonymize::Form, archive::MAX_FILE, collection::Collection};
use crate::{
    cli::{agents::Place, control},
    observe::{
        control::{AgentConfiguration, ControlRequest, OBJECTS_END},
        policy_record::PolicyRecord,
    },
};

/// The objects, as the manifests that `plan` and `explain` read.
pub const OBJECTS: &str = "objects.yaml";
/// The policy of the agent.
pub const POLICY: &str = "policy.json";

pub fn collect(place: &Place, collection: &mut Collection) {
    let socket = &place.socket;
    let policy = ask::<Option<PolicyRecord>>(socket, ControlRequest::Policy)
        .and_then(|policy| policy.context("the agent's loop is busy"));
    if let Ok(policy) = &policy {
        collection.node.clone_from(&policy.node_name);
    }
    let policy = policy.and_then(|policy| Ok(serde_json::to_string_pretty(&policy)? + "\n"));
    collection.add(POLICY, Form::Policy, policy);
    collect_objects(socket, collection);
    collection.add("log.txt", Form::Text, ask(socket, ControlRequest::Log));
    let metrics = ask::<Option<String>>(socket, ControlRequest::Metrics);
    let metrics = metrics.and_then(|text| text.context("the agent cannot write them as text"));
    collection.add("metrics.txt", Form::Text, metrics);
    match ask::<AgentConfiguration>(socket, ControlRequest::Configuration) {
        Ok(AgentConfiguration { arguments, configuration, corefile }) => {
            let flags = arguments.iter().map(|argument| without_credentials(argument) + "\n").collect();
            collection.add("flags.txt", Form::Text, Ok(flags));
            let configuration = serde_json::to_string_pretty(&configuration).map_err(Into::into);
            collection.add("configuration.json", Form::Json, configuration);
            if let Some(text) = corefile {
                collection.add("corefile.txt", Form::Text, Ok(text));
            }
        }
        Err(error) => {
            let reason = crate::error::chain(error.as_ref());
            collection.lack("flags.txt", reason.clone());
            collection.lack("configuration.json", reason);
        }
    }
}

fn collect_objects(socket: &Path, collection: &mut Collection) {
    let text = control::text(socket, ControlRequest::Objects, MAX_FILE);
    let text = text.and_then(|text| text.with_context(|| no_agent(socket)));
    let text = text.and_then(|text| {
        ensure!(!text.is_empty(), "the agent's loop is busy, or the agent is of an earlier version");
        Ok(text)
    });
    match text {
        Ok(text) if text.ends_with(OBJECTS_END) => collection.add(OBJECTS, Form::Objects, Ok(text)),
        Ok(mut text) => {
            // Whole documents only.
            text.truncate(text.rfind("---\n").unwrap_or(0));
            let count = text.lines().filter(|line| *line == "---").count();
            collection.lack(OBJECTS, format!("only the first {count} objects are there"));
            collection.add(OBJECTS, Form::Objects, Ok(text));
        }
        Err(error) => collection.add(OBJECTS, Form::Objects, Err(error)),
    }
}

fn ask<T: DeserializeOwned>(socket: &Path, request: ControlRequest) -> Result<T> {
    control::request(socket, request)?.with_context(|| no_agent(socket))
}

fn no_agent(socket: &Path) -> String {
    format!("no agent runs: nothing listens on {}", socket.display())
}

/// An address of a page without user and password.
fn without_credentials(argument: &str) -> String {
    let Some((scheme, rest)) = argument.split_once("://") else { return argument.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => argument.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_flags_are_left_out() {
        for (argument, want) in [
            ("--api-server=https://alice:secret@api:6443/x@y", "--api-server=https://api:6443/x@y"),
            ("--api-server=https://api:6443", "--api-server=https://api:6443"),
            ("--node-name=a@b", "--node-name=a@b"),
        ] {
            assert_eq!(without_credentials(argument), want);
        }
    }
}
