//! How xtask starts cargo, and where the workspace is.

use std::{
    convert::Infallible,
    env,
    ffi::OsString,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::setup::StaticTarget;

/// The root of the workspace, whatever directory the command was given in.
pub fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace's root")
}

/// The cargo that started us (so the same toolchain goes on), in the workspace's root.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(workspace_root());
    command
}

/// Builds the agent and returns the path of its binary.
pub fn build_portreeve(release: bool) -> Result<PathBuf> {
    let mut command = build();
    if release {
        command.arg("--release");
    }
    binary_of(command)
}

/// Builds the agent for a target, optimised and linked into one file.
pub fn build_static(target: &StaticTarget) -> Result<PathBuf> {
    let mut command = build();
    let (variable, compiler) = &target.c_compiler;
    // Whoever has chosen a compiler keeps it.
    if env::var_os(variable).is_none() {
        command.env(variable, compiler);
    }
    command.args(["--release", "--target", &target.name]);
    binary_of(command)
}

fn build() -> Command {
    let mut command = cargo();
    command.args(["build", "--package", "proxy", "--bin", "portreeve"]);
    command
}

fn binary_of(mut command: Command) -> Result<PathBuf> {
    command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    let mut child = command.spawn().context("starting cargo")?;
    let messages = BufReader::new(child.stdout.take().expect("stdout was asked for"));
    let mut binary = None;
    for line in messages.lines() {
        binary = executable(&line.context("reading cargo's messages")?).or(binary);
    }
    if !child.wait().context("waiting for cargo")?.success() {
        bail!("the build failed; the compiler's messages are above");
    }
    binary.context("cargo built no binary called portreeve")
}

/// The path of `portreeve`, if this message of cargo's announces it.
fn executable(message: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let is_ours = message.get("target")?.get("name")? == "portreeve";
    is_ours.then(|| message.get("executable")?.as_str().map(PathBuf::from))?
}

/// Becomes `command`: same pid and terminal, so that signals reach it and nothing of us is left behind.
pub fn become_command(command: &mut Command) -> Result<Infallible> {
    let error = command.exec();
    Err(error).with_context(|| format!("starting {}", command.get_program().display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_agents_artifact_names_the_binary() {
        let cases = [
            (
                r#"{"reason":"compiler-artifact","target":{"name":"portreeve"},"executable":"/t/portreeve"}"#,
                Some("/t/portreeve"),
            ),
            (r#"{"reason":"compiler-artifact","target":{"name":"portreeve"},"executable":null}"#, None),
            (r#"{"reason":"compiler-artifact","target":{"name":"xtask"},"executable":"/t/xtask"}"#, None),
            (r#"{"reason":"build-finished","success":true}"#, None),
            ("a line that is not JSON", None),
        ];
        for (message, want) in cases {
            assert_eq!(executable(message), want.map(PathBuf::from), "{message}");
        }
    }
}
