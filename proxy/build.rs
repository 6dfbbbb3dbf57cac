//! Compiles the eBPF programs and leaves the object in `OUT_DIR`, where `datapath::load` embeds it.
//!
//! Which toolchain can build them was found out once by `cargo xtask setup`, which wrote `.ebpf-toolchain`:
//! `toolchain=` names a rustup toolchain that has the standard library's source, `path=` holds `bpf-linker`.

use std::{env, fs, path::Path};

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain};

const NOTE: &str = ".ebpf-toolchain";

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the crate has no parent directory")?;
    let note = root.join(NOTE);
    println!("cargo:rerun-if-changed={}", note.display());
    let text = fs::read_to_string(&note)
        .context("the eBPF toolchain is not set up on this machine: run `cargo xtask setup` once")?;
    let toolchain = value(&text, "toolchain")?;
    let mut path = vec![value(&text, "path")?.into()];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));

    // SAFETY: a build script has one thread here, so nobody reads the environment meanwhile.
    unsafe {
        env::set_var("PATH", env::join_paths(path)?);
        // `-Z build-std` and the BPF intrinsics need the unstable features of a stable compiler.
        env::set_var("RUSTC_BOOTSTRAP", "1");
        // aya-build passes each line of the inner cargo on as a warning: leave it the real ones.
        env::set_var("CARGO_TERM_QUIET", "true");
        // Incremental units are compiled apart: the linker then leaves calls that the verifier refuses.
        env::set_var("CARGO_INCREMENTAL", "0");
    }
    let programs = root.join("proxy-ebpf");
    let root_dir = programs.to_str().context("the path of proxy-ebpf is not UTF-8")?;
    aya_build::build_ebpf(
        [Package { name: "proxy-ebpf", root_dir, ..Default::default() }],
        Toolchain::Custom(toolchain),
    )
}

fn value<'a>(text: &'a str, key: &str) -> Result<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value)
        .with_context(|| format!("{NOTE} has no line `{key}=`: run `cargo xtask setup`"))
}
