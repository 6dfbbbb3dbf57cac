//! The virtual machine. QEMU emulates the processor: it needs no KVM and is slow.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{package::Kernel, report::Report};
use crate::{progress::Step, setup};

/// Several times the duration on a slow machine.
const LIMIT: Duration = Duration::from_secs(900);
const TAIL: usize = 80;

pub struct Machine<'a> {
    kernel: &'a Kernel,
    /// Directory of the initramfs, the console log and the report.
    directory: PathBuf,
    bless: bool,
}

impl<'a> Machine<'a> {
    pub fn new(kernel: &'a Kernel, directory: PathBuf, bless: bool) -> Self {
        Self { kernel, directory, bless }
    }

    /// Writes the initramfs.
    pub fn write(&self, initramfs: &[u8]) -> Result<()> {
        let file = self.initramfs();
        fs::write(&file, initramfs).with_context(|| format!("writing {}", file.display()))
    }

    /// Boots it and waits for its power-off.
    pub fn run(&self) -> Result<Report> {
        let step = Step::start(format!("running {} under emulation", self.kernel.release()));
        let ended = step.run_within(self.qemu(), LIMIT);
        let text = fs::read_to_string(self.report()).unwrap_or_default();
        let report = ended.and_then(|()| Report::parse(&text)).with_context(|| {
            format!("its console ({}) ends with\n{}", self.console().display(), self.console_tail())
        })?;
        step.done();
        Ok(report)
    }

    pub fn console(&self) -> PathBuf {
        self.directory.join("console.log")
    }

    pub fn console_tail(&self) -> String {
        let text = fs::read(self.console()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let skipped = text.lines().count().saturating_sub(TAIL);
        text.lines().skip(skipped).map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
    }

    fn initramfs(&self) -> PathBuf {
        self.directory.join("initramfs.cpio")
    }

    fn report(&self) -> PathBuf {
        self.directory.join("report")
    }

    fn qemu(&self) -> Command {
        let mut command = Command::new(setup::QEMU);
        // With `panic=-1`, -no-reboot makes a kernel panic end QEMU.
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072", "-no-reboot"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(self.initramfs());
        command.args(["-chardev", &chardev("stdio,id=console,signal=off,logfile", &self.console())]);
        command.args(["-serial", "chardev:console"]);
        command.args(["-chardev", &chardev("file,id=report,path", &self.report())]);
        command.args(["-serial", "chardev:report"]);
        // Parameters unknown to the kernel become environment variables of init.
        let update = if self.bless { " UPDATE_EXPECT=1" } else { "" };
        command.args(["-append", &format!("console=ttyS0 panic=-1 loglevel=4{update}")]);
        command
    }
}

/// QEMU escapes a comma by a second one.
fn chardev(options: &str, path: &Path) -> String {
    format!("{options}={}", path.display().to_string().replace(',', ",,"))
}
