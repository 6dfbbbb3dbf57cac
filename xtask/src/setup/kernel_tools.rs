//! Tools to boot another kernel: QEMU for this architecture, and busybox as the machine's user space.

use std::{env::consts::ARCH, fs};

use anyhow::{Context as _, Result, ensure};

use super::{apt, machine::which};

pub const QEMU: &str = "qemu-system-x86_64";
pub const BUSYBOX: &str = "/bin/busybox";

pub fn ensure() -> Result<()> {
    ensure!(ARCH == "x86_64", "other kernels are booted on x86-64 only, and this machine is {ARCH}");
    let mut missing = Vec::new();
    if which(QEMU).is_none() {
        missing.push("qemu-system-x86".to_owned());
    }
    if !is_static(&fs::read(BUSYBOX).unwrap_or_default()) {
        missing.push("busybox-static".to_owned());
    }
    if missing.is_empty() {
        Ok(())
    } else {
        apt::install(&missing).context("they are needed to boot another kernel")
    }
}

/// Whether the binary is static: the virtual machine has no libraries for the package `busybox`.
fn is_static(program: &[u8]) -> bool {
    const LOADER: &[u8] = b"/ld-linux";
    !program.is_empty() && !program.windows(LOADER.len()).any(|bytes| bytes == LOADER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_names_a_loader_is_not_static() {
        for (program, want) in
            [(&b"\x7fELF"[..], true), (b"\x7fELF /lib64/ld-linux-x86-64.so.2\0", false), (b"", false)]
        {
            assert_eq!(is_static(program), want);
        }
    }
}
