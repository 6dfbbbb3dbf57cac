//! The virtual machine. QEMU emulates the processor, so it runs anywhere, a good deal slower than the processor would.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{Kernel, Outcome};
use crate::{progress::Step, setup};

/// Several times what it takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(900);
const TAIL: usize = 80;

pub struct Machine<'a> {
    kernel: &'a Kernel,
    /// What goes in and comes out.
    directory: PathBuf,
    bless: bool,
}

impl<'a> Machine<'a> {
    pub fn new(kernel: &'a Kernel, directory: PathBuf, bless: bool) -> Self {
        Self { kernel, directory, bless }
    }

    /// What the machine begins with.
    pub fn furnish(&self, initramfs: &[u8]) -> Result<()> {
        let file = self.initramfs();
        fs::write(&file, initramfs).with_context(|| format!("writing {}", file.display()))
    }

    /// Boots it and waits until it has switched itself off.
    pub fn run(&self) -> Result<Outcome> {
        let step = Step::start(format!("running {} under emulation", self.kernel.release()));
        let ended = step.run_within(self.qemu(), LIMIT);
        let said = fs::read_to_string(self.outcome()).unwrap_or_default();
        let outcome = ended.and_then(|()| Outcome::parse(&said)).with_context(|| {
            format!("its console ({}) ends with\n{}", self.console().display(), self.console_tail())
        })?;
        step.done();
        Ok(outcome)
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

    fn outcome(&self) -> PathBuf {
        self.directory.join("outcome")
    }

    fn qemu(&self) -> Command {
        let mut command = Command::new(setup::QEMU);
        // A panic ends it too: it would start again, which it may not.
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072", "-no-reboot"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(self.initramfs());
        command.args(["-chardev", &chardev("stdio,id=console,signal=off,logfile", &self.console())]);
        command.args(["-serial", "chardev:console"]);
        command.args(["-chardev", &chardev("file,id=outcome,path", &self.outcome())]);
        command.args(["-serial", "chardev:outcome"]);
        // What the kernel does not know becomes a variable of the first process.
        let update = if self.bless { " UPDATE_EXPECT=1" } else { "" };
        command.args(["-append", &format!("console=ttyS0 panic=-1 loglevel=4{update}")]);
        command
    }
}

/// QEMU wants commas in paths twice.
fn chardev(options: &str, path: &Path) -> String {
    format!("{options}={}", path.display().to_string().replace(',', ",,"))
}
