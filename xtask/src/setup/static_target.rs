//! The target of static binaries, and the C compiler for dependencies with C and assembly.

use std::{env::consts::ARCH, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::machine::{output, which};
use crate::{cargo::workspace_root, progress::Step};

/// The musl target of this machine's architecture.
pub fn name() -> String {
    format!("{ARCH}-unknown-linux-musl")
}

/// Installs the target's standard library if it is missing.
pub fn ensure() -> Result<()> {
    if has_library() {
        return Ok(());
    }
    ensure!(
        which("rustup").is_some(),
        "the standard library for {} is missing, and so is rustup, which would install it",
        name()
    );
    let step = Step::start(format!("adding the standard library for {}", name()));
    let mut command = Command::new("rustup");
    command.args(["target", "add", &name()]).current_dir(workspace_root());
    step.run(command)?;
    step.done();
    ensure!(has_library(), "the standard library for {} was added, but cargo does not find it", name());
    Ok(())
}

fn has_library() -> bool {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", &name()]).current_dir(workspace_root());
    output(&mut rustc).is_some_and(|directory| std::path::Path::new(directory.trim()).is_dir())
}

/// The environment variable that names the target's C compiler for build scripts, and the compiler. The C code needs no
/// libc, so the machine's own compiler will do.
pub fn c_compiler() -> Result<(String, &'static str)> {
    let found = ["musl-gcc", "gcc", "clang", "cc"].into_iter().find(|compiler| which(compiler).is_some());
    let compiler = found.context("no C compiler found: install gcc or clang")?;
    Ok((format!("CC_{}", name().replace('-', "_")), compiler))
}
