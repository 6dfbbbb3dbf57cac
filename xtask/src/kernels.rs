//! `cargo xtask kernels`: the programs and a short story on a kernel that does not run here.

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
mod outcome;
mod package;
mod programs;

use initramfs::Initramfs;
use machine::Machine;
use outcome::Outcome;
use package::Kernel;
use programs::read;

/// What the harness makes: pairs of devices, bridges and tunnels. The rest is what kernels without tcx have at devices,
/// and what nodes have anyway.
const MODULES: [&str; 6] = ["veth", "bridge", "vxlan", "sch_ingress", "cls_bpf", "nf_conntrack"];
/// Where the counts of verified instructions are noted, one file for each series.
const LEDGER: &str = "proxy-ebpf/ledger";

/// Boots another kernel in QEMU, loads every program there and runs a short story of both planes.
///
/// The kernel is Debian's for clouds, from the package archives of this machine; QEMU emulates the processor, so neither
/// KVM nor root is needed, but for installing QEMU and busybox once. Exits with 1 when a story fails, or when a program
/// has become more than 5 % larger than the ledger says.
#[derive(Args)]
pub struct Kernels {
    /// The kernel's series; Debian 12 has 6.1, the oldest one that is supported.
    #[arg(long, default_value = "6.1", value_name = "SERIES", value_parser = package::series)]
    kernel: String,
    /// A story of `tests/tests` to run, instead of loading the programs and the short story; may be repeated.
    #[arg(long = "story", value_name = "NAME", default_values = ["programs", "kernels"])]
    stories: Vec<String>,
    /// Note the counts of verified instructions as they are now.
    #[arg(long)]
    bless: bool,
    /// Ask the archives for a newer build of the kernel than the one that is here.
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
        machine.furnish(&files.finish())?;
        let outcome = machine.run()?;
        self.told(&kernel, &machine, &outcome)
    }

    fn initramfs(&self, kernel: &Kernel, built: &Built, scratch: &Path) -> Result<Initramfs> {
        let mut files = Initramfs::default();
        files.program("init", include_bytes!("kernels/init.sh"));
        files.program("bin/busybox", &read(setup::BUSYBOX.as_ref())?);
        for (number, module) in modules::with_what_they_need(&kernel.modules, &MODULES)?.iter().enumerate() {
            files.file(&format!("modules/{number:02}-{}.ko", module.name), &module.bytes);
        }
        programs::add(&mut files, "portreeve", &built.get("portreeve")?, scratch)?;
        // As cargo lays them out: the harness looks for `pod` one directory above the story.
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

    fn told(&self, kernel: &Kernel, machine: &Machine, outcome: &Outcome) -> Result<ExitCode> {
        let mut failed = Vec::new();
        for story in &self.stories {
            let code = outcome.code(story)?;
            println!("{:<12} {story:<20} {}", kernel.release(), if code == 0 { "ok" } else { "FAILED" });
            if code != 0 {
                failed.push(story.as_str());
            }
        }
        if !failed.is_empty() {
            eprintln!("{}", machine.console_tail());
            bail!(
                "on {}: {} failed; all it said is in {}",
                kernel.release(),
                failed.join(", "),
                machine.console().display()
            );
        }
        if self.bless {
            let ledger = outcome
                .ledger
                .as_ref()
                .context("the machine noted no counts: bless with the story `programs`")?;
            fs::write(self.ledger(), ledger)
                .with_context(|| format!("writing {}", self.ledger().display()))?;
            println!("{} is as this kernel counts", self.ledger().display());
        }
        Ok(ExitCode::SUCCESS)
    }

    fn ledger(&self) -> PathBuf {
        workspace_root().join(LEDGER).join(format!("{}.txt", self.kernel))
    }
}
