//! The kernel modules to load, in order of dependency.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// A module, uncompressed.
#[derive(Debug, PartialEq)]
pub struct Module {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// These modules, each after its dependencies, without those that are built into the kernel.
pub fn with_dependencies(directory: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut resolver =
        Resolver { files: files(directory)?, built_in: built_in(directory)?, ..Resolver::default() };
    for name in wanted {
        resolver.add(name)?;
    }
    Ok(resolver.ordered)
}

#[derive(Default)]
struct Resolver {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
    seen: BTreeSet<String>,
    ordered: Vec<Module>,
}

impl Resolver {
    fn add(&mut self, name: &str) -> Result<()> {
        if self.built_in.contains(name) || !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let file = self.files.get(name).with_context(|| format!("the kernel has no module {name}"))?;
        let bytes = content(file)?;
        for needed in depends(&bytes) {
            self.add(&needed).with_context(|| format!("{name} depends on {needed}"))?;
        }
        self.ordered.push(Module { name: name.to_owned(), bytes });
        Ok(())
    }
}

/// All modules below a directory, by name.
fn files(directory: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files.append(&mut self::files(&path)?);
        } else if let Some(name) = name_of(&path) {
            files.insert(name, path);
        }
    }
    Ok(files)
}

fn built_in(directory: &Path) -> Result<BTreeSet<String>> {
    let list = directory.join("modules.builtin");
    let text = fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
    Ok(text.lines().filter_map(|line| name_of(Path::new(line))).collect())
}

/// A file's hyphens are underscores in the module's name.
fn name_of(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, ending) = file.split_once('.')?;
    matches!(ending, "ko" | "ko.xz").then(|| name.replace('-', "_"))
}

fn content(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_none_or(|ending| ending != "xz") {
        return fs::read(file).with_context(|| format!("reading {}", file.display()));
    }
    let output = Command::new("xz").args(["--decompress", "--stdout"]).arg(file).output();
    let output = output.context("starting xz, which Debian's package xz-utils has")?;
    ensure!(output.status.success(), "xz cannot read {}", file.display());
    Ok(output.stdout)
}

/// `depends=a,b` of the module's modinfo: NUL-terminated strings.
fn depends(module: &[u8]) -> Vec<String> {
    let list = module.split(|byte| *byte == 0).find_map(|text| text.strip_prefix(b"depends="));
    let list = String::from_utf8_lossy(list.unwrap_or_default());
    list.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_modinfo() {
        let cases: [(&[u8], &[&str]); 4] = [
            (b"\x7fELF\0license=GPL\0depends=llc,stp\0name=bridge\0", &["llc", "stp"]),
            (b"depends=nf-conntrack\0", &["nf_conntrack"]),
            (b"\0depends=\0", &[]),
            (b"softdepends=x\0", &[]),
        ];
        for (module, want) in cases {
            assert_eq!(depends(module), want, "{:?}", String::from_utf8_lossy(module));
        }
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("modules.builtin", "kernel/net/ipv6/ipv6.ko\n");
        write("kernel/net/bridge.ko", "\0depends=llc,stp,ipv6\0");
        write("kernel/net/stp.ko", "\0depends=llc\0");
        write("kernel/net/llc.ko", "\0depends=\0");
        write("kernel/net/broken.ko", "\0depends=missing\0");
        let names = |wanted: &[&str]| -> Result<Vec<String>> {
            Ok(with_dependencies(directory.path(), wanted)?.into_iter().map(|module| module.name).collect())
        };
        assert_eq!(names(&["bridge", "llc", "ipv6"]).unwrap(), ["llc", "stp", "bridge"]);
        let error = format!("{:#}", names(&["broken"]).unwrap_err());
        assert_eq!(error, "broken depends on missing: the kernel has no module missing");
    }
}
