//! Starting cargo, and the workspace's location.

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

/// The root of the workspace, independent of the current directory.
pub fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace's root")
}

/// The directory of what is built.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace_root().join("target"), PathBuf::from)
}

/// The cargo that started xtask, hence the same toolchain, in the workspace's root.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(workspace_root());
    // These describe the xtask package. Build scripts that watch them (ring's) would run again whenever xtask and plain
    // cargo alternate, and all their dependants would be recompiled.
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

/// The agent's binary.
const PORTREEVE: &str = "portreeve";

/// The profile of installed binaries.
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

/// Builds the optimised agent for a target, as one static binary.
pub fn build_static(target: &StaticTarget) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["rustc", "--package", "proxy", "--bin", PORTREEVE]);
    let (variable, compiler) = &target.c_compiler;
    // A compiler from the environment takes precedence.
    if env::var_os(variable).is_none() {
        command.env(variable, compiler);
    }
    command.args(DIST).args(["--target", &target.name]);
    // Line tables are five sixths of the binary; symbols stay, for backtraces. The profile cannot set this: it would also
    // apply to the eBPF programs, whose debug information (BTF) the kernel reads.
    Built::with_flags(command, &["-C", "strip=debuginfo"])?.get(PORTREEVE)
}

/// Builds the driver of the fuzz targets, with a wrapper around the compiler of this workspace's crates.
pub fn build_fuzz(wrapper: &Path) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--package", "fuzz", "--features", "driver", "--bin", "fuzz"]);
    command.env("RUSTC_WORKSPACE_WRAPPER", wrapper);
    Built::by(command)?.get("fuzz")
}

/// Builds the agent, these stories, and the binary that runs in pods.
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

/// Paths of binaries by name.
#[derive(Debug, Default)]
pub struct Built(BTreeMap<String, PathBuf>);

impl Built {
    pub fn get(&self, name: &str) -> Result<PathBuf> {
        self.0.get(name).cloned().with_context(|| format!("cargo built no binary called {name}"))
    }

    pub fn by(command: Command) -> Result<Built> {
        Self::with_flags(command, &[])
    }

    /// Passes flags to the last rustc step; `cargo rustc` only.
    fn with_flags(mut command: Command, flags: &[&str]) -> Result<Built> {
        command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
        if !flags.is_empty() {
            command.arg("--").args(flags);
        }
        let mut child = command.spawn().context("starting cargo")?;
        let messages = BufReader::new(child.stdout.take().expect("stdout is piped"));
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

/// Name and path of the binary that a cargo message reports. Returns `None` for a binary's unit tests, which have its
/// name too.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let target = message.get("target")?;
    let is_unit_test = message["profile"]["test"] == true && target["kind"] != serde_json::json!(["test"]);
    let path = message.get("executable")?.as_str()?;
    (!is_unit_test).then(|| Some((target.get("name")?.as_str()?.to_owned(), path.into())))?
}

/// Replaces this process by `command` (exec): same pid and terminal, so signals reach it.
pub fn become_command(command: &mut Command) -> Result<Infallible> {
    let error = command.exec();
    Err(error).with_context(|| format!("starting {}", command.get_program().display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binaries_and_stories_differ_from_unit_tests() {
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
