//! `cargo xtask setup`: makes a machine able to build the eBPF programs, once.
//!
//! Two things are not in a plain Rust installation: the standard library's source, from which `core` is built for
//! the kernel, and `bpf-linker`, which reads what the compiler writes and so must have the compiler's LLVM inside.
//! What was found is noted in `.ebpf-toolchain`, which the build script of `proxy` reads.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::cargo::StaticTarget;

mod apt;
mod kernel_tools;
mod linker;
mod lint_tools;
mod machine;
mod note;
mod static_target;
mod story_tools;
mod toolchain;

pub use apt::{download as download_package, named as packages_named};
pub use kernel_tools::{BUSYBOX, QEMU};
pub use note::Note;
pub use toolchain::pinned_name;

/// Makes this machine able to build the eBPF programs and run the tests.
///
/// Finds a Rust toolchain with the standard library's source and a bpf-linker with the same LLVM, and gets what is
/// missing through rustup, apt-get and `cargo install`. Run again, it only looks. The other verbs call it.
#[derive(Args)]
pub struct Setup {
    /// Also get what `cargo xtask kernels` boots other kernels with: QEMU and busybox.
    #[arg(long)]
    kernels: bool,
}

impl Setup {
    pub fn run(self) -> Result<ExitCode> {
        let note = ensure()?;
        lint_tools::ensure(&note)?;
        if self.kernels {
            ensure_for_kernels()?;
        }
        println!("ready: {}", note.describe());
        Ok(ExitCode::SUCCESS)
    }
}

/// For the other verbs: as `cargo xtask setup`, but silent when nothing is missing.
pub fn ensure() -> Result<Note> {
    let toolchain = toolchain::find_or_get()?;
    let linker = linker::find_or_get(toolchain.compiler.llvm)?;
    let note = Note { toolchain: toolchain.name, path: linker };
    note.write()?;
    Ok(note)
}

/// What `cargo xtask lint` needs on top.
pub fn ensure_for_lint() -> Result<Note> {
    let note = ensure()?;
    lint_tools::ensure(&note)?;
    Ok(note)
}

/// What the stories need on top.
pub fn ensure_for_stories() -> Result<()> {
    story_tools::ensure()
}

/// What `cargo xtask image` needs on top.
pub fn ensure_for_image() -> Result<StaticTarget> {
    ensure()?;
    static_target::ensure()?;
    Ok(StaticTarget { name: static_target::name(), c_compiler: static_target::c_compiler()? })
}

/// What `cargo xtask kernels` needs on top.
pub fn ensure_for_kernels() -> Result<()> {
    ensure()?;
    kernel_tools::ensure()
}
