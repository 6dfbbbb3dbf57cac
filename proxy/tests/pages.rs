//! The commands on the pages for operators: those that take files are run, other commands of portreeve are parsed, and the
//! page names the programs whose commands are not run.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Parser as _;
use proxy::cli::Cli;

const OTHERS: [&str; 11] =
    ["cargo", "ctr", "dig", "helm", "install", "journalctl", "kubectl", "ls", "nft", "ss", "systemctl"];
/// The start of the sentence that names the programs.
const NOT_RUN: &str = "Not run by the tests: the commands of ";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The commands in blocks and in the text, one line each.
fn commands(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (n, part) in page.split("```").enumerate() {
        if n % 2 == 1 {
            found.extend(part.lines().map(str::to_owned));
        } else {
            let text = part.replace('\n', " ");
            found.extend(text.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    let program = |line: &str| line.split_whitespace().next().map(str::to_owned);
    found.retain(|line| program(line).is_some_and(|it| it == "portreeve" || OTHERS.contains(&it.as_str())));
    found
}

/// The arguments, with values in place of the words that a reader replaces.
fn arguments(command: &str, corefile: &Path) -> Vec<String> {
    let example = repository().join("examples/voting").display().to_string();
    let corefile = corefile.display().to_string();
    let value = |word: &str| match word {
        "DIR" => example.clone(),
        "COREFILE" => corefile.clone(),
        "NODE" => "node-1".to_owned(),
        "IP" => "10.244.1.9".to_owned(),
        "IP:PORT" => "10.96.0.10:80".to_owned(),
        "NAMESPACE" => "voting".to_owned(),
        "NAME" => "vote".to_owned(),
        "NAMESPACE/NAME" => "voting/vote".to_owned(),
        _ => word.to_owned(),
    };
    command.split_whitespace().skip(1).map(value).collect()
}

fn check(page: &str) {
    let text = fs::read_to_string(repository().join("docs").join(page)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let corefile = directory.path().join("Corefile");
    fs::write(&corefile, ".:53 {\n    kubernetes cluster.local\n    forward . 192.0.2.53\n}\n").unwrap();
    let (body, sentence) =
        text.rsplit_once(NOT_RUN).unwrap_or_else(|| panic!("{page} ends with `{NOT_RUN}..`"));
    let named: BTreeSet<&str> = sentence.split('`').skip(1).step_by(2).collect();
    let mut others = BTreeSet::new();
    let mut run = 0;
    for command in commands(body) {
        let Some(line) = command.strip_prefix("portreeve") else {
            others.insert(command.split_whitespace().next().unwrap().to_owned());
            continue;
        };
        let arguments = arguments(&command, &corefile);
        assert!(!line.is_empty(), "{page}: `portreeve` alone is no command");
        // Others are about the agent of the machine, and may change it.
        if arguments.iter().any(|one| one == "--manifests") || line.starts_with(" dns check") {
            let output = Command::new(env!("CARGO_BIN_EXE_portreeve")).args(&arguments).output().unwrap();
            assert!(output.status.success(), "{page}: {command}: {output:?}");
            run += 1;
        } else {
            let words = ["portreeve".to_owned()].into_iter().chain(arguments);
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{page}: {command}: {error}"));
        }
    }
    assert!(run > 0, "{page} has a command that can be run");
    let others: BTreeSet<&str> = others.iter().map(String::as_str).collect();
    assert_eq!(named, others, "the last sentence of {page} names the programs");
}

#[test]
fn the_commands_of_troubleshooting_work() {
    check("troubleshooting.md");
}

/// They listen to the agent of the machine.
#[test]
fn the_commands_of_events_are_parsed() {
    let text = fs::read_to_string(repository().join("docs/events.md")).unwrap();
    let mut parsed = 0;
    for command in commands(&text) {
        let command = command.split(" #").next().unwrap_or_default();
        let words = ["portreeve".to_owned()].into_iter().chain(arguments(command, Path::new("")));
        Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{command}: {error}"));
        parsed += 1;
    }
    assert!(parsed > 5, "{parsed} commands");
}

#[test]
fn the_commands_of_upgrade_work() {
    check("upgrade.md");
}
