//! Packages of Debian and its children.

use std::process::Command;

use anyhow::{Result, bail};

use super::machine::{is_root, output, which};
use crate::progress::Step;

/// Another apt may be at work on a machine that has just started: wait for its lock.
const LOCK: &str = "DPkg::Lock::Timeout=300";

/// Installs packages, or says which command would.
pub fn install(packages: &[String]) -> Result<()> {
    let by_hand = command_by_hand(packages);
    if which("apt-get").is_none() {
        bail!(
            "this machine has no apt-get; install what these Debian packages hold in your system's way: {}",
            packages.join(" ")
        );
    }
    if !is_root() {
        bail!("root is needed to install packages; run once: {by_hand}");
    }
    let step = Step::start(format!("installing {}", packages.join(" ")));
    let mut lists_are_fresh = false;
    if !packages.iter().all(|package| is_known(package)) {
        step.run(apt_get(&["update"]))?;
        lists_are_fresh = true;
    }
    if let Some(unknown) = packages.iter().find(|package| !is_known(package)) {
        bail!("the package archives of this machine have no package {unknown}");
    }
    let arguments: Vec<&str> = ["install", "--yes", "--no-install-recommends"]
        .into_iter()
        .chain(packages.iter().map(String::as_str))
        .collect();
    if let Err(error) = step.run(apt_get(&arguments)) {
        if lists_are_fresh {
            return Err(error);
        }
        // Old lists name versions that the archive has replaced.
        step.run(apt_get(&["update"]))?;
        step.run(apt_get(&arguments))?;
    }
    step.done();
    Ok(())
}

pub fn command_by_hand(packages: &[String]) -> String {
    format!("sudo apt-get update && sudo apt-get install {}", packages.join(" "))
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(["-o", LOCK]).args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn is_known(package: &str) -> bool {
    output(Command::new("apt-cache").args(["show", "--no-all-versions", package]))
        .is_some_and(|text| !text.is_empty())
}
