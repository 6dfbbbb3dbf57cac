//! Valgrind, which counts the instructions of `cargo xtask bench --check`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::{apt, machine::which};

const PROGRAM: &str = "valgrind";

/// The path of the program, which is installed if it is missing.
pub fn ensure() -> Result<PathBuf> {
    if let Some(found) = which(PROGRAM) {
        return Ok(found);
    }
    apt::install(&[PROGRAM.to_owned()]).context("it counts instructions")?;
    which(PROGRAM).context("valgrind was installed and is not in PATH")
}
