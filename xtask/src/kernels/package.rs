//! Debian's kernel of a series, unpacked below `target` and not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{cargo::workspace_root, progress::Step, setup};

/// Packages of signed kernels depend on others; these hold the same kernels unsigned.
const ENDING: &str = "-cloud-amd64-unsigned";
const BEGINNING: &str = "linux-image-";

pub struct Kernel {
    /// The package's name.
    package: String,
    pub image: PathBuf,
    pub modules: PathBuf,
}

impl Kernel {
    /// Uses a kernel that is present, unless `newest`.
    pub fn find_or_get(series: &str, newest: bool) -> Result<Kernel> {
        let packages = workspace_root().join("target/kernels/packages");
        fs::create_dir_all(&packages).with_context(|| format!("making {}", packages.display()))?;
        let here = if newest { None } else { newest_in(&packages, series)? };
        let package = match here {
            Some(package) => package,
            None => get(&packages, series)?,
        };
        Kernel::unpacked(&packages, package)
    }

    /// The release, as in `uname -r`.
    pub fn release(&self) -> &str {
        self.package.trim_start_matches(BEGINNING).trim_end_matches("-unsigned")
    }

    fn unpacked(packages: &Path, package: String) -> Result<Kernel> {
        let root = packages.join(&package);
        let mut kernel = Kernel { package, image: PathBuf::new(), modules: PathBuf::new() };
        kernel.image = root.join("boot").join(format!("vmlinuz-{}", kernel.release()));
        // Newer packages install below /usr.
        let candidates =
            ["lib/modules", "usr/lib/modules"].map(|path| root.join(path).join(kernel.release()));
        kernel.modules = candidates.into_iter().find(|path| path.exists()).unwrap_or_default();
        for path in [&kernel.image, &kernel.modules] {
            ensure!(path.exists(), "{} lacks its kernel or its modules: remove it", root.display());
        }
        Ok(kernel)
    }
}

/// Parses a series; a value parser of clap.
pub fn series(text: &str) -> Result<String, String> {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match text.split_once('.') {
        Some((major, minor)) if is_number(major) && is_number(minor) => Ok(text.to_owned()),
        Some(_) | None => Err("a series is two numbers, as in 6.1".to_owned()),
    }
}

fn newest_in(packages: &Path, series: &str) -> Result<Option<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(packages).with_context(|| format!("reading {}", packages.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(newest(names, series))
}

/// The newest build of the series among package names.
fn newest(names: impl IntoIterator<Item = String>, series: &str) -> Option<String> {
    names.into_iter().filter_map(|name| Some((build(&name, series)?, name))).max().map(|(_, name)| name)
}

/// The numbers after the series: `linux-image-6.1.0-56-cloud-amd64-unsigned` has 0 and 56.
fn build(name: &str, series: &str) -> Option<Vec<u32>> {
    let version = name.strip_prefix(BEGINNING)?.strip_suffix(ENDING)?;
    let build = version.strip_prefix(series)?.strip_prefix('.')?;
    build.split(['.', '-']).map(|number| number.parse().ok()).collect()
}

fn get(packages: &Path, series: &str) -> Result<String> {
    let known = setup::packages_named(BEGINNING, ENDING)?;
    let package = newest(known, series).with_context(|| {
        format!(
            "the package archives of this machine have no {BEGINNING}{series}.*{ENDING}; Debian 12 has 6.1"
        )
    })?;
    let archive = setup::download_package(&package, packages)?;
    unpack(&archive, &packages.join(&package))?;
    fs::remove_file(&archive).with_context(|| format!("removing {}", archive.display()))?;
    Ok(package)
}

/// Unpacks under a temporary name and renames when complete.
fn unpack(archive: &Path, directory: &Path) -> Result<()> {
    let partial = directory.with_extension("unpacking");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("removing {}", partial.display()))?;
    }
    let step = Step::start("unpacking the kernel");
    let mut command = Command::new("dpkg-deb");
    command.arg("--extract").arg(archive).arg(&partial);
    step.run(command)?;
    fs::rename(&partial, directory).with_context(|| format!("renaming {}", partial.display()))?;
    step.done();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_build_of_the_series_is_taken() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64-unsigned",
            "linux-image-6.1.0-56-cloud-amd64-unsigned",
            "linux-image-6.1.0-56-cloud-amd64-unsigned.unpacking",
            "linux-image-6.1.0-57-amd64-unsigned",
            "linux-image-6.12.9-cloud-amd64-unsigned",
            "linux-image-6.12.12+bpo-cloud-amd64-unsigned",
        ];
        let of = |series| newest(names.map(str::to_owned), series);
        assert_eq!(of("6.1").as_deref(), Some(names[1]));
        assert_eq!(of("6.12").as_deref(), Some(names[4]));
        assert_eq!(of("5.10"), None);
    }

    #[test]
    fn a_series_is_two_numbers() {
        for (text, want) in
            [("6.1", true), ("6.12", true), ("6", false), ("6.", false), ("6.1.0", false), ("v6.1", false)]
        {
            assert_eq!(series(text).is_ok(), want, "{text}");
        }
    }
}
