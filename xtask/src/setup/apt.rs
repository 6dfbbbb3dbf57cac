//! Packages of Debian and its derivatives.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::machine::{is_root, output, which};
use crate::progress::Step;

/// Waits for apt's lock: unattended upgrades may hold it on a machine that has just booted.
const LOCK: &str = "DPkg::Lock::Timeout=300";

/// Installs packages. Errors: contains the command to run by hand.
pub fn install(packages: &[String]) -> Result<()> {
    let by_hand = command_by_hand(packages);
    if which("apt-get").is_none() {
        bail!(
            "this machine has no apt-get; install the equivalents of these Debian packages: {}",
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
        // Outdated lists name versions that the archive no longer has.
        step.run(apt_get(&["update"]))?;
        step.run(apt_get(&arguments))?;
    }
    step.done();
    Ok(())
}

/// Names of packages with this beginning and ending; updates the lists if there are none.
pub fn named(beginning: &str, ending: &str) -> Result<Vec<String>> {
    let known = search(beginning, ending);
    if !known.is_empty() || !is_root() {
        return Ok(known);
    }
    let step = Step::start("updating the package lists");
    step.run(apt_get(&["update"]))?;
    step.done();
    Ok(search(beginning, ending))
}

fn search(beginning: &str, ending: &str) -> Vec<String> {
    let found = output(Command::new("apt-cache").args(["search", "--names-only", &format!("^{beginning}")]));
    let found = found.unwrap_or_default();
    let names = found.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| name.ends_with(ending)).map(ToOwned::to_owned).collect()
}

/// Downloads a package into a directory without installing it.
pub fn download(package: &str, directory: &Path) -> Result<PathBuf> {
    let step = Step::start(format!("downloading {package}"));
    let mut command = apt_get(&["-o", "APT::Sandbox::User=root", "download", package]);
    command.current_dir(directory);
    if let Err(error) = step.run(command) {
        bail!("{error:#}\nThe package lists may be outdated: run apt-get update");
    }
    let archives = fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
    let archives = archives.flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.strip_prefix(package).is_some_and(|rest| rest.starts_with('_') && rest.ends_with(".deb"))
    };
    let archive = archives.filter(is_it).max();
    let archive =
        archive.with_context(|| format!("apt-get left no {package}_*.deb in {}", directory.display()))?;
    step.done();
    Ok(archive)
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
