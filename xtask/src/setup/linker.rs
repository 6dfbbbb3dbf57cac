//! `bpf-linker` with the LLVM of the toolchain: on PATH, from an earlier setup, or built now.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{
    apt,
    machine::{output, which},
};
use crate::{cargo::cargo, progress::Step};

const VERSION: &str = "0.13.0";
/// The `llvm-N` features of that version.
const LLVM_MAJORS: std::ops::RangeInclusive<u32> = 21..=23;

/// The directory that holds a `bpf-linker` with this LLVM inside.
pub fn find_or_get(llvm: u32) -> Result<PathBuf> {
    let root = cache()?.join(format!("bpf-linker-{VERSION}-llvm{llvm}"));
    let ours = root.join("bin");
    if has_llvm(&ours.join("bpf-linker"), llvm) {
        return Ok(ours);
    }
    let on_path = which("bpf-linker").filter(|linker| has_llvm(linker, llvm));
    if let Some(directory) = on_path.as_deref().and_then(Path::parent) {
        return Ok(directory.to_owned());
    }
    if !LLVM_MAJORS.contains(&llvm) {
        bail!(
            "the Rust toolchain has LLVM {llvm}, and bpf-linker {VERSION} can be built with LLVM {} to {} only: \
             put a bpf-linker with LLVM {llvm} on PATH, or use the toolchain that rust-toolchain.toml names",
            LLVM_MAJORS.start(),
            LLVM_MAJORS.end()
        );
    }
    install(&root, llvm, &llvm_prefix(llvm)?)?;
    if !has_llvm(&ours.join("bpf-linker"), llvm) {
        bail!("{} was built, but does not start with LLVM {llvm}", ours.join("bpf-linker").display());
    }
    Ok(ours)
}

fn cache() -> Result<PathBuf> {
    // A relative path would depend on the current directory.
    let directory = |variable| env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = directory("XDG_CACHE_HOME")
        .or_else(|| Some(directory("HOME")?.join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME names a directory: nowhere to keep bpf-linker")?;
    Ok(base.join("portreeve"))
}

/// The linker does not print its LLVM version, but passes options to LLVM, which has `--version`.
fn has_llvm(linker: &Path, llvm: u32) -> bool {
    let mut command = Command::new(linker);
    command.args(["--llvm-args=--version", "--output", "/dev/null", "/dev/null"]);
    linker.is_file() && output(&mut command).as_deref().and_then(llvm_major) == Some(llvm)
}

fn llvm_major(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("LLVM version ")?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The prefix of this LLVM with its development files; installs Debian's if missing.
fn llvm_prefix(llvm: u32) -> Result<PathBuf> {
    if let Some(prefix) = find_prefix(llvm) {
        return Ok(prefix);
    }
    let mut packages = vec![format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
    packages.extend(["zlib1g-dev", "libzstd-dev", "libxml2-dev"].map(String::from));
    apt::install(&packages).with_context(|| {
        format!(
            "bpf-linker must be built with LLVM {llvm}, the Rust toolchain's, and its libraries are missing"
        )
    })?;
    find_prefix(llvm)
        .with_context(|| format!("LLVM {llvm} was installed, but is not in /usr/lib/llvm-{llvm}"))
}

fn find_prefix(llvm: u32) -> Option<PathBuf> {
    let configs = [
        format!("/usr/lib/llvm-{llvm}/bin/llvm-config"),
        format!("llvm-config-{llvm}"),
        "llvm-config".into(),
    ];
    configs.iter().find_map(|config| {
        let version = output(Command::new(config).arg("--version"))?;
        if version.split('.').next()?.trim().parse() != Ok(llvm) {
            return None;
        }
        let prefix = PathBuf::from(output(Command::new(config).arg("--prefix"))?.trim());
        ["lib", "lib64"].iter().any(|lib| prefix.join(lib).join("libLLVM.so").exists()).then_some(prefix)
    })
}

fn install(root: &Path, llvm: u32, prefix: &Path) -> Result<()> {
    fs::create_dir_all(root).with_context(|| {
        format!("creating {} to keep bpf-linker in (XDG_CACHE_HOME chooses another place)", root.display())
    })?;
    let step = Step::start(format!("building bpf-linker {VERSION} with LLVM {llvm} (about a minute)"));
    // Kept until success, so that an interrupted setup continues.
    let scratch = root.join("build");
    let mut command = cargo();
    command.args([
        "install",
        "bpf-linker",
        "--version",
        VERSION,
        "--locked",
        "--force",
        "--no-default-features",
    ]);
    command.arg(format!("--features=llvm-{llvm}")).arg("--root").arg(root);
    command.env("LLVM_PREFIX", prefix).env("CARGO_TARGET_DIR", &scratch);
    step.run(command)?;
    fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))?;
    step.done();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_a_linker_is_read_from_its_output() {
        let cases = [
            ("Debian LLVM version 22.1.8\n  Optimized build.\n", Some(22)),
            ("LLVM (http://llvm.org/):\n  LLVM version 21.1.0-rust-1.91.0\n", Some(21)),
            ("LLVM version 23", Some(23)),
            ("bpf-linker 0.13.0\n", None),
            ("LLVM version next", None),
        ];
        for (text, want) in cases {
            assert_eq!(llvm_major(text), want, "{text:?}");
        }
    }

    #[test]
    fn other_programs_are_no_bpf_linker() {
        for program in ["/bin/true", "/bin/false", "/nonexistent/bpf-linker", "/"] {
            assert!(!has_llvm(Path::new(program), 22), "{program}");
        }
    }
}
