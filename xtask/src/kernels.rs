//! `cargo xtask kernels`: the programs and a short story on another kernel, in a virtual machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    cargo::{self, Built, workspace_root},
    setup,
};

mod initramfs;
mod machine;
mod modules;
mod package;
mod programs;
mod report;

use initramfs::Initramfs;
use machine::Machine;
use package::Kernel;
use programs::read;
use report::Report;

/// veth, bridge and vxlan devices of the harness, the tc hooks of kernels without tcx, and the conntrack that nodes have
/// anyway.
const MODULES: [&str; 6] = ["veth", "bridge", "vxlan", "sch_ingress", "cls_bpf", "nf_conntrack"];
/// Directory of the verified instruction counts, one file per kernel series.
const LEDGER: &str = "proxy-ebpf/ledger";

/// Boots another kernel in QEMU, loads every program there and runs a short story of both planes.
///
/// The kernel is Debian's cloud kernel, from this machine's package archives. QEMU emulates the processor: neither KVM
/// nor root is needed, except to install QEMU and busybox once. Exits with 1 if a story fails, or if a program's count of
/// verified instructions exceeds the ledger's by more than 5 %.
#[derive(Args)]
pub struct Kernels {
    /// The kernel's series; Debian 12 has 6.1, the oldest supported.
    #[arg(long, default_value = "6.1", value_name = "SERIES", value_parser = package::series)]
    kernel: String,
    /// A story of `tests/tests` to run instead of `programs` and `kernels`; may be repeated.
    #[arg(long = "story", value_name = "NAME", default_values = ["programs", "kernels"])]
    stories: Vec<String>,
    /// Record the present counts of verified instructions in the ledger.
    #[arg(long)]
    bless: bool,
    /// Download the newest build of the kernel, even if another is present.
    #[arg(long)]
    newest: bool,
}

impl Kernels {
    pub fn run(self) -> Result<ExitCode> {
        setup::ensure_for_kernels()?;
        let kernel = Kernel::find_or_get(&self.kernel, self.newest)?;
        let built = cargo::build_stories(&self.stories)?;
        let directory = workspace_root().join("target/kernels").join(&self.kernel);
        fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
        let files = self.initramfs(&kernel, &built, &directory.join("stripped"))?;
        let machine = Machine::new(&kernel, directory, self.bless);
        machine.write(&files.finish())?;
        let report = machine.run()?;
        self.print(&kernel, &machine, &report)
    }

    fn initramfs(&self, kernel: &Kernel, built: &Built, scratch: &Path) -> Result<Initramfs> {
        let mut files = Initramfs::default();
        files.program("init", include_bytes!("kernels/init.sh"));
        files.program("bin/busybox", &read(setup::BUSYBOX.as_ref())?);
        for (number, module) in modules::with_dependencies(&kernel.modules, &MODULES)?.iter().enumerate() {
            files.file(&format!("modules/{number:02}-{}.ko", module.name), &module.bytes);
        }
        programs::add(&mut files, "portreeve", &built.get("portreeve")?, scratch)?;
        // Cargo's layout: the harness finds `pod` one directory above the story.
        programs::add(&mut files, "stories/pod", &built.get("pod")?, scratch)?;
        for story in &self.stories {
            programs::add(&mut files, &format!("stories/deps/{story}"), &built.get(story)?, scratch)?;
        }
        files.directory("ledger");
        let ledger = self.ledger();
        if ledger.exists() {
            files.file(&format!("ledger/{}.txt", self.kernel), &read(&ledger)?);
        }
        Ok(files)
    }

    fn print(&self, kernel: &Kernel, machine: &Machine, report: &Report) -> Result<ExitCode> {
        let mut failed = Vec::new();
        for story in &self.stories {
            let code = report.code(story)?;
            println!("{:<12} {story:<20} {}", kernel.release(), if code == 0 { "ok" } else { "FAILED" });
            if code != 0 {
                failed.push(story.as_str());
            }
        }
        if !failed.is_empty() {
            eprintln!("{}", machine.console_tail());
            bail!(
                "on {}: {} failed; the console output is in {}",
                kernel.release(),
                failed.join(", "),
                machine.console().display()
            );
        }
        if self.bless {
            let ledger = report
                .ledger
                .as_ref()
                .context("the machine reported no counts: bless with the story `programs`")?;
            fs::write(self.ledger(), ledger)
                .with_context(|| format!("writing {}", self.ledger().display()))?;
            println!("{} holds the counts of this kernel", self.ledger().display());
        }
        Ok(ExitCode::SUCCESS)
    }

    fn ledger(&self) -> PathBuf {
        workspace_root().join(LEDGER).join(format!("{}.txt", self.kernel))
    }
}
