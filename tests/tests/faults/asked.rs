//! A fault on a running node, as one command names it: in JSON by its identifier, on the screen by its words.

use std::{
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{
    agent::{VERIFICATION, portreeve},
    eventually::within,
    node::Node,
};

#[path = "../../../proxy/tests/faults/table.rs"]
#[expect(dead_code, reason = "the page's own test reads the other fields")]
mod table;

use table::{FAULTS, Fault};

/// An agent may just have been started, on a machine with other work.
const LIMIT: Duration = Duration::from_secs(30);

/// A command beside the agent of a node, in its network namespace.
pub fn command(node: &Node, arguments: &[&str]) -> Result<Output> {
    command_after(None, node, arguments)
}

/// The same, in a mount namespace of its own after this script.
fn command_after(script: Option<&str>, node: &Node, arguments: &[&str]) -> Result<Output> {
    let mut command = match script {
        None => Command::new(portreeve()?),
        Some(script) => {
            let mut shell = Command::new("unshare");
            shell.args(["--mount", "sh", "-c", &format!("{script} \"$@\""), "sh"]).arg(portreeve()?);
            shell
        }
    };
    command.args(arguments);
    // These read files alone.
    if !["plan", "dns"].iter().any(|verb| arguments.first() == Some(verb)) {
        command.arg("--bpffs").arg(node.bpffs()).arg("--run-dir").arg(node.setting().run_dir());
    }
    node.netns().run(|| command.output().context("it starts"))
}

pub fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

pub fn status(node: &Node) -> Result<(String, Value)> {
    let table = text(&command(node, &["status"])?.stdout);
    Ok((table, serde_json::from_slice(&command(node, &["status", "-o", "json"])?.stdout)?))
}

/// Waits until the command of a fault names it with these arguments. Panics with the name of the fault.
pub async fn is_named(node: &Node, name: &str, arguments: &[&str]) {
    let named = within(LIMIT, &format!("`{name}` is named"), async || names(node, name, arguments)).await;
    named.unwrap_or_else(|error| panic!("{error:#}"));
}

/// Waits until the command of a fault does not name it.
pub async fn is_absent(node: &Node, name: &str, arguments: &[&str]) {
    let absent =
        within(LIMIT, &format!("`{name}` is not named"), async || lacks(node, name, arguments)).await;
    absent.unwrap_or_else(|error| panic!("{error:#}"));
}

/// The same after the next verification of the hooks.
pub async fn is_named_by_verification(node: &Node, name: &str) -> Result<()> {
    within(VERIFICATION + LIMIT, &format!("`{name}` is named"), async || names(node, name, &[])).await
}

pub async fn is_absent_by_verification(node: &Node, name: &str) -> Result<()> {
    within(VERIFICATION + LIMIT, &format!("`{name}` is not named"), async || lacks(node, name, &[])).await
}

/// The command of a fault names it in a mount namespace of its own after this script, and not without.
pub fn is_named_after(script: &str, node: &Node, name: &str, arguments: &[&str]) -> Result<()> {
    lacks(node, name, &[])?;
    tells(&asked(Some(script), node, fault(name), arguments)?, name)
}

/// Errors: the command of a fault does not name it.
pub fn names(node: &Node, name: &str, arguments: &[&str]) -> Result<()> {
    tells(&asked(None, node, fault(name), arguments)?, name)
}

fn tells((screen, json): &(String, Value), name: &str) -> Result<()> {
    let Fault { identifier, words, .. } = fault(name);
    ensure!(identifies(json, fault(name)), "{name}: {identifier} is not in {json:#}");
    ensure!(screen.contains(words), "{name}: `{words}` is not in:\n{screen}");
    Ok(())
}

fn lacks(node: &Node, name: &str, arguments: &[&str]) -> Result<()> {
    let (screen, json) = asked(None, node, fault(name), arguments)?;
    ensure!(!identifies(&json, fault(name)), "{name} is named: {json:#}");
    ensure!(!screen.contains(fault(name).words), "{name} is named:\n{screen}");
    Ok(())
}

fn fault(name: &str) -> &'static Fault {
    FAULTS.iter().find(|fault| fault.name == name).unwrap_or_else(|| panic!("no fault has the name {name}"))
}

/// What a command says: on the screen, with its complaint at the end, and in JSON.
fn asked(script: Option<&str>, node: &Node, fault: &Fault, arguments: &[&str]) -> Result<(String, Value)> {
    let words: Vec<_> = fault.command.split(' ').chain(arguments.iter().copied()).collect();
    let Output { stdout, stderr, .. } = command_after(script, node, &words)?;
    let json = command_after(script, node, &[&words, &["-o", "json"][..]].concat())?;
    let json = serde_json::from_slice(&json.stdout).with_context(|| format!("{words:?}: {json:?}"))?;
    // The widths of columns differ.
    let screen = text(&[stdout, stderr].concat()).split_whitespace().collect::<Vec<_>>().join(" ");
    Ok((screen, json))
}

/// Whether the JSON of a command has the identifier of a fault, where that command has identifiers.
fn identifies(json: &Value, Fault { command, identifier, .. }: &Fault) -> bool {
    let of_list = |list: &Value, field: &str| {
        list.as_array().is_some_and(|list| list.iter().any(|one| one[field] == *identifier))
    };
    match *command {
        "explain" | "explain --dns" => json["reason_code"] == *identifier || json["result"] == *identifier,
        "plan" => of_list(&json["skipped"], "reason_code"),
        "dns check" => of_list(json, "verdict"),
        "connectivity" => of_list(&json["connections"], "result"),
        "check" => json.as_array().is_some_and(|findings| {
            findings.iter().any(|one| one["name"] == *identifier && one["verdict"] != "ok")
        }),
        "status" => {
            let conditions = json["agent"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
            let mut faults = conditions.iter().filter(|one| one["status"] == "False");
            let is_condition = faults.any(|one| {
                let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
                format!("{} {}", text("type"), text("reason")) == *identifier
            });
            is_condition || json["state"] == *identifier || json["clock"] == *identifier
        }
        other => panic!("the identifiers of `{other}` are unknown"),
    }
}
