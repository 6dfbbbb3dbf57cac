//! `cargo xtask setup`: installs the tools that build the eBPF programs.
//!
//! A plain Rust installation lacks two: the standard library's source, from which `core` is built for the BPF target,
//! and `bpf-linker`, which reads the compiler's LLVM bitcode and so must contain the same LLVM. Their paths go into
//! `.ebpf-toolchain`, which the build script of `proxy` reads.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Args;

use crate::cargo::StaticTarget;

mod apt;
mod cpp_compiler;
mod kernel_tools;
mod linker;
mod lint_tools;
mod machine;
mod note;
mod static_target;
mod story_tools;
mod toolchain;
mod valgrind;

pub use apt::{download as download_package, named as packages_named};
pub use kernel_tools::{BUSYBOX, QEMU};
pub use note::Note;
pub use toolchain::pinned_name;

/// Installs the tools that build the eBPF programs and run the tests.
///
/// Finds a Rust toolchain with the standard library's source and a bpf-linker with the same LLVM, and installs missing
/// parts through rustup, apt-get and `cargo install`. Idempotent; the other verbs call it.
#[derive(Args)]
pub struct Setup {
    /// Also install QEMU and busybox, for `cargo xtask kernels`.
    #[arg(long)]
    kernels: bool,
}

impl Setup {
    pub fn run(self) -> Result<ExitCode> {
        let note = ensure()?;
        lint_tools::ensure(&note)?;
        ensure_for_fuzz()?;
        valgrind::ensure()?;
        if self.kernels {
            ensure_for_kernels()?;
        }
        println!("ready: {}", note.describe());
        Ok(ExitCode::SUCCESS)
    }
}

/// As `cargo xtask setup`, but silent if nothing is missing.
pub fn ensure() -> Result<Note> {
    let toolchain = toolchain::find_or_get()?;
    let linker = linker::find_or_get(toolchain.compiler.llvm)?;
    let note = Note { toolchain: toolchain.name, path: linker };
    note.write()?;
    Ok(note)
}

/// Adds the tools of `cargo xtask lint`.
pub fn ensure_for_lint() -> Result<Note> {
    let note = ensure()?;
    lint_tools::ensure(&note)?;
    Ok(note)
}

/// Adds the tools of the stories.
pub fn ensure_for_stories() -> Result<()> {
    story_tools::ensure()
}

/// Adds the C++ compiler of `cargo xtask fuzz`.
pub fn ensure_for_fuzz() -> Result<()> {
    cpp_compiler::ensure()
}

/// Adds the tool of `cargo xtask bench --check`, and returns its path.
pub fn ensure_for_instructions() -> Result<PathBuf> {
    ensure()?;
    valgrind::ensure()
}

/// Adds the target of `cargo xtask image`.
pub fn ensure_for_image() -> Result<StaticTarget> {
    ensure()?;
    static_target::ensure()?;
    Ok(StaticTarget { name: static_target::name(), c_compiler: static_target::c_compiler()? })
}

/// Adds the tools of `cargo xtask kernels`.
pub fn ensure_for_kernels() -> Result<()> {
    ensure()?;
    kernel_tools::ensure()
}
