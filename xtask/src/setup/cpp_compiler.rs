//! A C++ compiler: libFuzzer, which drives the fuzz targets, is written in C++.

use std::env;

use anyhow::{Context as _, Result};

use super::{apt, machine::which};

/// The name under which build scripts start it, unless $CXX names another.
const COMPILER: &str = "c++";

pub fn ensure() -> Result<()> {
    if env::var_os("CXX").is_some() || which(COMPILER).is_some() {
        return Ok(());
    }
    apt::install(&["g++".to_owned()])
        .context("libFuzzer, which drives the fuzz targets, needs a C++ compiler")
}
