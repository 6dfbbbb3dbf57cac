//! The target of static binaries, and the compiler for the few lines of C and assembly among the dependencies.

use std::{env::consts::ARCH, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::machine::{output, which};
use crate::{cargo::workspace_root, progress::Step};

/// Of this machine's processor.
pub fn name() -> String {
    format!("{ARCH}-unknown-linux-musl")
}

/// Makes the standard library for it available.
pub fn ensure() -> Result<()> {
    if has_library() {
        return Ok(());
    }
    ensure!(
        which("rustup").is_some(),
        "the standard library for {} is not here, and rustup, which would get it, neither",
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

/// The variable by which build scripts find a C compiler for the target, and the one to use. What they compile is
/// freestanding enough for the machine's own.
pub fn c_compiler() -> Result<(String, &'static str)> {
    let found = ["musl-gcc", "gcc", "clang", "cc"].into_iter().find(|compiler| which(compiler).is_some());
    let compiler = found.context("no C compiler is here: install gcc or clang")?;
    Ok((format!("CC_{}", name().replace('-', "_")), compiler))
}
