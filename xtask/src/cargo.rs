//! How xtask starts cargo, and where the workspace is.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    env,
    ffi::OsString,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// The root of the workspace, whatever directory the command was given in.
pub fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace's root")
}

/// The cargo that started us (so the same toolchain goes on), in the workspace's root.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(workspace_root());
    // What cargo told us of xtask: build scripts that watch these (ring's) would run anew each time that xtask and a plain
    // cargo take turns, and everything above them would be compiled again.
    for (name, _) in env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(name);
        }
    }
    command
}

/// The agent's program.
const PORTREEVE: &str = "portreeve";

/// As it is installed.
const DIST: [&str; 2] = ["--profile", "dist"];

/// Builds the agent and returns the path of its binary.
pub fn build_portreeve(release: bool) -> Result<PathBuf> {
    let mut command = build();
    if release {
        command.args(DIST);
    }
    Built::by(command)?.get(PORTREEVE)
}

/// The target of a statically linked program.
pub struct StaticTarget {
    pub name: String,
    /// The environment variable that names the target's C compiler, and the compiler to use.
    pub c_compiler: (String, &'static str),
}

/// Builds the agent for a target, optimised and linked into one file.
pub fn build_static(target: &StaticTarget) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["rustc", "--package", "proxy", "--bin", PORTREEVE]);
    let (variable, compiler) = &target.c_compiler;
    // Whoever has chosen a compiler keeps it.
    if env::var_os(variable).is_none() {
        command.env(variable, compiler);
    }
    command.args(DIST).args(["--target", &target.name]);
    // Lines of sources are five sixths of the program; names of functions stay, for backtraces. The profile cannot say so:
    // it would reach the build of the eBPF programs, whose debug information the kernel reads.
    Built::with_flags(command, &["-C", "strip=debuginfo"])?.get(PORTREEVE)
}

/// The agent, these stories, and the program of their pods.
pub fn build_stories(stories: &[String]) -> Result<Built> {
    let mut built = Built::by(build())?;
    let mut command = cargo();
    command.args(["test", "--no-run", "--package", "tests"]);
    command.args(stories.iter().flat_map(|story| ["--test", story]));
    built.0.extend(Built::by(command)?.0);
    Ok(built)
}

fn build() -> Command {
    let mut command = cargo();
    command.args(["build", "--package", "proxy", "--bin", PORTREEVE]);
    command
}

/// Paths of programs, by their names.
#[derive(Debug, Default)]
pub struct Built(BTreeMap<String, PathBuf>);

impl Built {
    pub fn get(&self, name: &str) -> Result<PathBuf> {
        self.0.get(name).cloned().with_context(|| format!("cargo built no program called {name}"))
    }

    fn by(command: Command) -> Result<Built> {
        Self::with_flags(command, &[])
    }

    /// With flags for the last step, which only `cargo rustc` takes.
    fn with_flags(mut command: Command, flags: &[&str]) -> Result<Built> {
        command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
        if !flags.is_empty() {
            command.arg("--").args(flags);
        }
        let mut child = command.spawn().context("starting cargo")?;
        let messages = BufReader::new(child.stdout.take().expect("stdout was asked for"));
        let mut built = Built::default();
        for line in messages.lines() {
            built.0.extend(executable(&line.context("reading cargo's messages")?));
        }
        if !child.wait().context("waiting for cargo")?.success() {
            bail!("the build failed; the compiler's messages are above");
        }
        Ok(built)
    }
}

/// Name and path of the program that this message of cargo's announces. The tests inside of a program have its name, too,
/// and are none.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let target = message.get("target")?;
    let is_test_of_itself =
        message["profile"]["test"] == true && target["kind"] != serde_json::json!(["test"]);
    let path = message.get("executable")?.as_str()?;
    (!is_test_of_itself).then(|| Some((target.get("name")?.as_str()?.to_owned(), path.into())))?
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
    fn programs_and_stories_are_told_from_tests_inside_of_programs() {
        let artifact = |kind: &str, is_test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"x"}},
                "profile":{{"test":{is_test}}},"executable":{executable}}}"#
            )
        };
        let cases = [
            (artifact("bin", false, r#""/t/x""#), true),
            (artifact("test", true, r#""/t/deps/x-1""#), true),
            (artifact("bin", true, r#""/t/deps/x-2""#), false),
            (artifact("bin", false, "null"), false),
            (r#"{"reason":"build-finished","success":true}"#.to_owned(), false),
            ("a line that is not JSON".to_owned(), false),
        ];
        for (message, want) in cases {
            let name = executable(&message).map(|(name, _)| name);
            assert_eq!(name.as_deref(), want.then_some("x"), "{message}");
        }
    }
}
