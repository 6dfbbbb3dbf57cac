//! The machine's binaries: stripped of debug information, with their shared libraries.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::initramfs::Initramfs;

/// Adds a binary and its shared libraries.
pub fn add(files: &mut Initramfs, path: &str, program: &Path, scratch: &Path) -> Result<()> {
    files.program(path, &stripped(program, scratch)?);
    for library in libraries(&run(Command::new("ldd").arg(program))?) {
        let path = library.trim_start_matches('/');
        if !files.has(path) {
            files.program(path, &read(&PathBuf::from(library))?);
        }
    }
    Ok(())
}

/// The content of a file. Errors: the file is empty.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    ensure!(!bytes.is_empty(), "{} is empty", path.display());
    Ok(bytes)
}

fn stripped(program: &Path, scratch: &Path) -> Result<Vec<u8>> {
    run(Command::new("strip").arg("--strip-debug").arg("-o").arg(scratch).arg(program))?;
    let bytes = read(scratch)?;
    fs::remove_file(scratch).with_context(|| format!("removing {}", scratch.display()))?;
    Ok(bytes)
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x..)`, and the loader without an arrow. The vDSO has no path, and a
/// static program no libraries.
fn libraries(ldd: &str) -> Vec<&str> {
    ldd.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/'))).collect()
}

fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("starting {name}"))?;
    ensure!(output.status.success(), "{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\t/lib64/ld.so.2 (0x00007f)\n";
        for (text, want) in
            [(text, &["/lib/x/libc.so.6", "/lib64/ld.so.2"][..]), ("\tstatically linked\n", &[])]
        {
            assert_eq!(libraries(text), want);
        }
    }
}
