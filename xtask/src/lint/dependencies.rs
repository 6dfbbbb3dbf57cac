//! Dependencies: their licences, sources and versions, and advisories about them.
//!
//! Licences, sources and versions follow from `cargo metadata`. Advisories need cargo-deny and the RustSec database; where
//! one of them cannot be had, that is named.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::finding::Finding;
use crate::cargo;

/// Licences that ask for no more than a notice. No GPL in user space.
const LICENCES: [&str; 12] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "NCSA",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];
/// Crates in more than one version: others need the older one. Everything else is to be in one version.
const TWICE: [&str; 12] = [
    "base64",
    "bit-vec",
    "cpufeatures",
    "getrandom",
    "hashbrown",
    "itertools",
    "linux-raw-sys",
    "r-efi",
    "rustix",
    "syn",
    "synstructure",
    "windows-sys",
];
/// How the sources of packages from a registry begin; others are git repositories.
const REGISTRY: &str = "registry+";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Clone, Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// `None` for a crate of this workspace.
    source: Option<String>,
}

pub fn check() -> Result<Vec<Finding>> {
    let mut command = cargo::cargo();
    let output = command.args(["metadata", "--format-version=1", "--locked"]).output();
    let output = output.context("starting cargo metadata")?;
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("reading cargo's metadata")?;
    Ok(problems(&metadata.packages).into_iter().map(finding).collect())
}

fn finding(problem: String) -> Finding {
    Finding { file: "Cargo.lock".to_owned(), line: 1, problem }
}

fn problems(packages: &[Package]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for Package { name, version, license, source } in packages {
        versions.entry(name).or_default().insert(version);
        let license = license.as_deref().unwrap_or_default();
        if !is_allowed(license) {
            problems.push(format!(
                "{name} {version} has the licence `{license}`, which is not among the allowed ones"
            ));
        }
        if source.as_deref().is_some_and(|source| !source.starts_with(REGISTRY)) {
            problems.push(format!("{name} {version} does not come from a package registry"));
        }
    }
    for (name, versions) in
        versions.iter().filter(|(name, versions)| versions.len() > 1 && !TWICE.contains(name))
    {
        let versions: Vec<_> = versions.iter().copied().collect();
        problems.push(format!("{name} is there in the versions {}", versions.join(" and ")));
    }
    problems
}

/// Whether an SPDX expression can be met by allowed licences. A slash is the older spelling of OR.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any_of(&mut rest) && rest.is_empty()
}

fn any_of(words: &mut &[&str]) -> bool {
    let mut holds = all_of(words);
    while let ["OR", rest @ ..] = *words {
        *words = rest;
        holds |= all_of(words);
    }
    holds
}

fn all_of(words: &mut &[&str]) -> bool {
    let mut holds = one(words);
    while let ["AND", rest @ ..] = *words {
        *words = rest;
        holds &= one(words);
    }
    holds
}

fn one(words: &mut &[&str]) -> bool {
    match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let holds = any_of(words);
            let is_closed = words.first() == Some(&")");
            *words = words.get(1..).unwrap_or_default();
            holds && is_closed
        }
        [licence, "WITH", exception, rest @ ..] => {
            *words = rest;
            LICENCES.contains(&format!("{licence} WITH {exception}").as_str())
        }
        [licence, rest @ ..] => {
            *words = rest;
            LICENCES.contains(licence)
        }
        [] => false,
    }
}

/// Checks advisories with cargo-deny. Returns whether there are none; without the tool or its database it is named that
/// nothing was checked.
pub fn has_no_advisories() -> Result<bool> {
    let deny = |arguments: &[&str]| -> Result<std::process::Output> {
        let mut command: Command = cargo::cargo();
        command.arg("deny").args(arguments).output().context("starting cargo deny")
    };
    if !deny(&["--version"])?.status.success() {
        eprintln!("lint: advisories are not checked: there is no cargo-deny (`cargo install cargo-deny`)");
        return Ok(true);
    }
    if !deny(&["fetch", "db"])?.status.success() {
        eprintln!("lint: advisories are not checked: the database of RustSec cannot be fetched");
        return Ok(true);
    }
    let checked = deny(&["check", "advisories"])?;
    if !checked.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&checked.stderr));
    }
    Ok(checked.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_expressions() {
        for (expression, allowed) in [
            ("MIT", true),
            ("MIT/Apache-2.0", true),
            ("MIT OR GPL-3.0", true),
            ("MIT AND GPL-3.0", false),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("(MIT OR Apache-2.0) AND GPL-2.0", false),
            ("Apache-2.0 WITH LLVM-exception OR MIT", true),
            ("GPL-2.0 WITH Linux-syscall-note", false),
            ("GPL-2.0", false),
            ("(MIT", false),
            ("", false),
        ] {
            assert_eq!(is_allowed(expression), allowed, "{expression}");
        }
    }

    #[test]
    fn new_duplicates_and_other_sources_are_named() {
        let package = |name: &str, version: &str, source: &str| Package {
            name: name.to_owned(),
            version: version.to_owned(),
            license: Some("MIT".to_owned()),
            source: Some(source.to_owned()),
        };
        let fine = [
            package("a", "1.0.0", REGISTRY),
            package("syn", "2.0.0", REGISTRY),
            package("syn", "3.0.0", REGISTRY),
        ];
        assert_eq!(problems(&fine), Vec::<String>::new());
        let twice = [package("a", "1.0.0", REGISTRY), package("a", "2.0.0", REGISTRY)];
        assert_eq!(problems(&twice), ["a is there in the versions 1.0.0 and 2.0.0"]);
        assert_eq!(problems(&[package("b", "1.0.0", "git+https://example.org/b")]).len(), 1);
    }
}
